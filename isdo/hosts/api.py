"""The API: ISDO describes itself, and the picture routes refuse what would otherwise be ignored."""

import functools

from .. import __version__
from . import calls, request
from .picture import Refused, refusing
from .request import NAME, REFINE, SAMPLER, SCRIPTS

PATHS = ("/sdapi/v1/txt2img", "/sdapi/v1/img2img")


def add_api(demo, app):
    """Describe ISDO at /isdo/v1 and let the picture routes refuse what would otherwise be
    ignored."""
    if not any(getattr(route, "path", None) == "/isdo/v1/version" for route in app.routes):
        app.add_api_route(
            "/isdo/v1/version", lambda: {"name": NAME, "version": __version__}, methods=["GET"]
        )
        app.add_api_route("/isdo/v1/schema", request.schema, methods=["GET"])
        app.add_api_route("/isdo/v1/calls", calls.told, methods=["GET"])
    for route in app.routes:
        if getattr(route, "path", None) in PATHS and not hasattr(
            route.dependant.call, "isdo_inside"
        ):
            route.dependant.call = checked(route.dependant.call)


def checked(endpoint):
    """Return the host's endpoint behind a look at what the request asks of ISDO."""

    # by name only: the host reads the parameters of its own endpoint
    @functools.wraps(endpoint)
    def call(*args, **kwargs):
        for body in (*args, *kwargs.values()):
            if hasattr(body, "alwayson_scripts"):
                for form in (SAMPLER, REFINE):
                    check_request(form, body.alwayson_scripts)
                check_script(body)
        return endpoint(*args, **kwargs)

    call.isdo_inside = endpoint
    return call


def check_request(form, alwayson):
    """Look at a request's {script: {"args": ...}} and give the host ours in the one form that it
    keeps whole.

    The host drops surplus arguments and unknown keys, takes one of two blocks, and fills a short
    list with what the page showed at the start.

    Raises:
        Refused: what is wrong.
    """
    titles = [title for title in alwayson or {} if title.lower() == form.name.lower()]
    if len(titles) > 1:
        raise Refused(
            f"{form.name} is there {len(titles)} times, as {', '.join(titles)}: give it once"
        )
    for title in titles:
        block = alwayson[title]
        if (
            not isinstance(block, dict)
            or set(block) != {"args"}
            or not isinstance(block["args"], (list, dict))
        ):
            some = form.fields[0]
            example = (
                f'{{"args": [true, ...]}} or {{"args": [{{"{some.key}": {some.default!r}, ...}}]}}'
            )
            raise Refused(f"{title} is {block!r}: give {example}")
        asked = read(form, block["args"])
        alwayson[title] = {"args": [{"enabled": asked is not None, **(asked or {})}]}


def read(form, args, switch=True):
    """Return what the arguments of a request ask for, as `Form.read_args` does.

    Raises:
        Refused: what is wrong.
    """
    args = args if isinstance(args, list) else [args]
    if len(args) > 1 and isinstance(args[0], dict):
        raise Refused(
            f"{form.name} got {len(args) - 1} arguments after a mapping: give all by name in it, or all in order"
        )
    with refusing():
        return form.read_args(args, switch)


def check_script(body):
    """Look at a request's script_args where the script is ours, and give the host as many as it
    takes.

    It puts a list of another length into its own, where ours would then end in the middle of the
    next script's.

    Raises:
        Refused: what is wrong.
    """
    name = (getattr(body, "script_name", None) or "").lower()
    for form in SCRIPTS:
        if name == form.name.lower():
            asked = read(form, body.script_args or {}, switch=False)
            body.script_args = [asked] + [None] * (len(form.fields) - 1)
