"""The API: ISDO describes itself, and the picture routes refuse what would otherwise be ignored."""

import functools

from .. import __version__
from . import request
from .picture import Refused, refusing
from .request import NAME, REFINE, SAMPLER

PATHS = ("/sdapi/v1/txt2img", "/sdapi/v1/img2img")


def add_api(demo, app):
    """Describe ISDO at /isdo/v1 and let the picture routes refuse what would otherwise be ignored."""
    if not any(getattr(route, "path", None) == "/isdo/v1/version" for route in app.routes):
        app.add_api_route("/isdo/v1/version", lambda: {"name": NAME, "version": __version__}, methods=["GET"])
        app.add_api_route("/isdo/v1/schema", request.schema, methods=["GET"])
    for route in app.routes:
        if getattr(route, "path", None) in PATHS and not hasattr(route.dependant.call, "isdo_inside"):
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
    """Look at a request's {script: {"args": ...}} and give the host ours in the one form that it keeps whole.

    The host drops surplus arguments and unknown keys, and fills a short list with what the page showed at the start.

    Raises:
        Refused: what is wrong.
    """
    for title in [title for title in alwayson or {} if title.lower() == form.name.lower()]:
        block = alwayson[title]
        if not isinstance(block, dict) or set(block) != {"args"} or not isinstance(block["args"], (list, dict)):
            some = form.fields[0]
            example = f'{{"args": [true, ...]}} or {{"args": [{{"{some.key}": {some.default!r}, ...}}]}}'
            raise Refused(f"{title} is {block!r}: give {example}")
        args = block["args"] if isinstance(block["args"], list) else [block["args"]]
        with refusing():
            asked = form.read_args(args)
        alwayson[title] = {"args": [{"enabled": asked is not None, **(asked or {})}]}


def check_script(body):
    """Look at a request's script_args where the script is ours, and give the host as many as it takes.

    It puts a list of another length into its own, where ours would then end in the middle of the next script's.

    Raises:
        Refused: what is wrong.
    """
    if (getattr(body, "script_name", None) or "").lower() != REFINE.name.lower():
        return
    args = body.script_args if isinstance(body.script_args, list) else [body.script_args or {}]
    with refusing():
        asked = REFINE.read_args(args, switch=False)
    body.script_args = [asked] + [None] * (len(REFINE.fields) - 1)
