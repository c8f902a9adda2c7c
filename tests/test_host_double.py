"""The double of the hosts, and what ISDO uses of them, held against snapshots of six real ones.

With WEBUI_DIR the files of the WebUI that it names are held against both in the same way; nothing of
it is run.
"""

import ast
import inspect
import json
import os
from pathlib import Path

import hostdouble
import hostsnapshot
import pytest
from hostdouble import (
    AxisOption,
    CFGDenoiser,
    Host,
    OptionInfo,
    Predictor,
    Scheduler,
    Script,
    setup_img2img_steps,
)
from hostsnapshot import BATCH, DOUBLED, HIRES, HOSTS, Use, uses, wanted

MODULES = Host().modules
SAMPLERS, PROCESSING = MODULES["modules.sd_samplers"], MODULES["modules.processing"]
SAMPLER = MODULES["modules.sd_samplers_kdiffusion"].KDiffusionSampler
# What stands in the double for a host's: (holder, name).
STANDS_FOR = {
    ("modules.sd_samplers", "find_sampler_config"): SAMPLERS.find_sampler_config,
    ("modules.sd_samplers", "set_samplers"): SAMPLERS.set_samplers,
    ("modules.sd_samplers", "create_sampler"): SAMPLERS.create_sampler,
    ("modules.sd_samplers", "sample_to_image"): SAMPLERS.sample_to_image,
    (
        "modules.sd_samplers",
        "get_sampler_and_scheduler",
    ): SAMPLERS.get_sampler_and_scheduler.__wrapped__,
    ("modules.sd_samplers_common", "setup_img2img_steps"): setup_img2img_steps,
    ("modules.processing", "process_images"): PROCESSING.process_images,
    ("modules.processing", "create_infotext"): hostdouble.create_infotext,
    ("modules.images", "save_image"): MODULES["modules.images"].save_image,
    **{("sampler", name): getattr(SAMPLER, name) for name in DOUBLED["sampler"]},
    ("denoiser", "__init__"): CFGDenoiser.__init__,
    ("denoiser", "forward"): CFGDenoiser.__call__,
    ("option", "__init__"): OptionInfo.__init__,
    ("option pages", "register_category"): hostdouble.Categories.register_category,
    ("settings", "add_option"): type(Host().opts).add_option,
    **{("script", name): getattr(Script, name) for name in DOUBLED["script"]},
    **{("noise", name): getattr(hostdouble.ImageRNG, name) for name in DOUBLED["noise"]},
    ("state", "nextjob"): hostdouble.State.nextjob,
    **{("bar", name): getattr(hostdouble.TotalTQDM, name) for name in DOUBLED["bar"]},
    **{("processing", name): getattr(hostdouble.Picture, name) for name in DOUBLED["processing"]},
    ("axis", "__init__"): AxisOption.__init__,
    ("predictor", "noise_scaling"): Predictor.noise_scaling,
}
# What a host lacks, and what ISDO does without it. Nothing else may be missing.
SCHEDULES = {"hr_scheduler", "scheduler"}
LACKS = {
    "a1111-1.8.0": {
        "modules.sd_schedulers": None,  # no list of schedules: a sampler has one
        "scheduler": None,
        "processing": SCHEDULES,
        "modules.sd_samplers": {"get_sampler_and_scheduler"},  # no cache to clear
        "script": {"process_before_every_sampling"},  # the hook is not called
    },
    "a1111-1.10.1": {},
    "forge": {},
    "reforge": {"modules.sd_samplers_kdiffusion": {"k_diffusion"}},  # there "sampling" is
    "classic": {
        "modules.sd_schedulers": None,
        "scheduler": None,
        "processing": SCHEDULES,
        "modules.sd_samplers": {"get_sampler_and_scheduler"},
    },
    "neo": {"option values": {"use_old_karras_scheduler_sigmas"}},
}
# Names of some hosts only, which are not the rest's to have; ISDO guards each.
ELSEWHERE = {
    "modules.sd_samplers_kdiffusion": {"sampling"},
    "script": {"current_axis_options"},  # the X/Y/Z plot's own
    "backend.args": None,
    "ldm_patched.modules.args_parser": None,
    "predictor": None,
    "noise levels": None,
}


def known():
    """Return {name: snapshot} of the hosts; that which WEBUI_DIR names, too."""
    found = hostsnapshot.stored()
    if os.environ.get("WEBUI_DIR"):
        source = hostsnapshot.Source(Path(os.environ["WEBUI_DIR"]))
        found["WEBUI_DIR"] = json.loads(json.dumps(hostsnapshot.snapshot(source)))
    return found


SNAPSHOTS = known()
HAS = {name: each["has"] for name, each in SNAPSHOTS.items()}
DOES = {name: each["does"] for name, each in SNAPSHOTS.items()}
hosts = pytest.mark.parametrize("host", SNAPSHOTS)


def missing(has, holder, name):
    """Say whether a host lacks a holder, or a name of it."""
    return has[holder] is None or (name != "" and has[holder][name] is None)


def parameters(takes):
    """Return the inspect.Signature of one that stands in a snapshot; every default is None there."""
    args = ast.parse(f"def f{takes}: pass").body[0].args
    optional = len(args.posonlyargs) + len(args.args) - len(args.defaults)
    made = []
    for i, each in enumerate([*args.posonlyargs, *args.args]):
        default = None if i >= optional else inspect.Parameter.empty
        made.append(
            inspect.Parameter(each.arg, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default)
        )
    if args.vararg:
        made.append(inspect.Parameter(args.vararg.arg, inspect.Parameter.VAR_POSITIONAL))
    for each, given in zip(args.kwonlyargs, args.kw_defaults, strict=True):
        default = inspect.Parameter.empty if given is None else None
        made.append(inspect.Parameter(each.arg, inspect.Parameter.KEYWORD_ONLY, default=default))
    if args.kwarg:
        made.append(inspect.Parameter(args.kwarg.arg, inspect.Parameter.VAR_KEYWORD))
    return inspect.Signature(made)


# ------------------------------------------------------------------------------------------------ what ISDO uses


def test_each_snapshot_says_which_source_it_is_of():
    stored = hostsnapshot.stored()
    assert set(stored) == set(HOSTS) == set(LACKS)
    for name, row in HOSTS.items():
        said = stored[name]
        assert (said["host"], said["repository"], said["commit"]) == (
            row.label,
            row.repository,
            row.commit,
        )


@hosts
def test_a_snapshot_speaks_of_all_that_isdo_uses(host):
    """A new name in the plugin asks for new snapshots: see hostsnapshot.py."""
    for holder, names in wanted().items():
        assert holder in HAS[host], holder
        assert HAS[host][holder] is None or set(HAS[host][holder]) == set(names), holder


def test_the_uses_are_found():
    """A few that must be among them, in each of the ways in which they are written."""
    found = {(use.holder, use.name, use.guarded) for use in uses()}
    for use in (
        ("modules.images", "save_image", False),  # module.name
        ("modules.sd_schedulers", "schedulers_map", True),  # of a module that may be missing
        ("option values", "sigma_max", True),  # getattr with a default
        ("processing", "parse_extra_network_prompts", True),  # behind hasattr
        ("processing", "n_iter", False),  # p.name
        ("sampler", "model_wrap_cfg", False),  # of a class whose base is the host's
        ("script", "before_hr", False),  # a hook
        ("backend.args", "dynamic_args", True),  # in a try
        ("state", "job_count", False),  # shared.state.name
    ):
        assert use in found, use
    assert len(found) > 150


@hosts
def test_a_host_has_what_isdo_uses_or_isdo_does_without(host):
    bare = [
        f"{use.where}: {use.holder} {use.name}"
        for use in uses()
        if missing(HAS[host], use.holder, use.name) and not copes(use)
    ]
    assert bare == []


def copes(use):
    """Say whether a place needs no host to have what it uses: it asks first, or is a hook, which a
    host calls or does not."""
    guard = use.guarded or use.holder == "script"
    # ``schedule`` is an item of a list that a host without the module does not have
    return guard or use.holder in ("scheduler", "predictor", "noise levels")


@pytest.mark.parametrize("host", HOSTS)
def test_what_a_host_lacks_is_known(host):
    """What goes missing in a newer snapshot is to be looked at by somebody."""
    for holder, names in HAS[host].items():
        if ELSEWHERE.get(holder, ()) is None:
            continue
        lacking = None if names is None else {name for name in names if names[name] is None}
        lacking = lacking and lacking - ELSEWHERE.get(holder, set())
        assert (lacking or (None if names is None else set())) == LACKS[host].get(holder, set()), (
            holder
        )


@hosts
def test_a_host_takes_the_arguments_that_isdo_gives(host):
    told = 0
    for use in uses():
        found = None if use.call is None else (HAS[host][use.holder] or {}).get(use.name)
        if use.call is None or not found or not found.startswith("("):
            continue
        positional, keywords, whole = use.call
        bound = use.holder in hostsnapshot.CLASSES  # a method: self is given
        try:
            taken = parameters(found)
            bind = taken.bind if whole else taken.bind_partial
            bind(*[0] * (positional + bound), **dict.fromkeys(keywords, 0))
        except TypeError as error:
            pytest.fail(f"{use.where}: {use.holder}.{use.name}{found}: {error}")
        told += 1
    assert told > 25


def test_a_call_that_does_not_fit_is_noticed():
    taken = parameters("(self, p, x, steps=None, *, end)")
    taken.bind(0, 0, 0, end=1)
    for given, named in (((0, 0), {"end": 1}), ((0, 0, 0), {}), ((0, 0, 0), {"end": 1, "n": 2})):
        with pytest.raises(TypeError):
            taken.bind(*given, **named)


def test_uses_that_nothing_guards_are_noticed():
    """Were the list of schedules used without a look whether it is there."""
    use = Use("modules.sd_schedulers", "schedulers", "sampler.py", guarded=False)
    assert missing(HAS["classic"], use.holder, use.name) and not copes(use)


# ------------------------------------------------------------------------------------------------ what the double is


def test_the_double_stands_for_all_that_it_says():
    assert set(STANDS_FOR) == {(holder, name) for holder in DOUBLED for name in DOUBLED[holder]}


@hosts
@pytest.mark.parametrize("what", STANDS_FOR, ids=" ".join)
def test_functions_take_what_the_double_takes(what, host):
    holder, name = what
    if missing(HAS[host], holder, name):
        lacks = LACKS.get(host, {}).get(holder, ELSEWHERE.get(holder, set()))
        assert host not in HOSTS or lacks is None or name in lacks
        pytest.skip(f"{host} has no {holder} {name}")
    theirs = parameters(HAS[host][holder][name]).parameters
    ours = list(inspect.signature(STANDS_FOR[what]).parameters)
    assert [each for each in theirs if each in ours] == ours
    more = [each for key, each in theirs.items() if key not in ours]
    loose = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    assert all(each.default is None or each.kind in loose for each in more)  # has a default


def doubles():
    """Return {holder: the objects of the double that stand for it}."""
    host = Host(more_samplers=True, forge=True)
    sampler, scripted = host.create("Euler"), Script()
    drawn = {tab: hostdouble.asked(tab) for tab in ("txt2img", "img2img")}
    with host.running():
        host.load()
        for tab, p in drawn.items():
            host.process_images(host.ask(p, img2img=tab == "img2img"))
        scripted = host.runner()[0]
    return {
        "processing": [*drawn.values()],
        "sampler": [sampler],
        "denoiser": [sampler.model_wrap_cfg],
        "state": [host.state],
        "bar": [host.total_tqdm],
        "sampler data": [sampler.config],
        "scheduler": [Scheduler("karras", "Karras", None)],
        "script": [scripted],
        "noise": [hostdouble.ImageRNG((4, 8, 8), [1])],
        "conditioning": [hostdouble.Conds([[(8, "cat")]])],
        "prompt": hostdouble.Conds([[(8, "cat")]]).batch[0],
        "option": [OptionInfo()],
        "option pages": [hostdouble.Categories()],
        "settings": [host.opts],
        "option values": [host.opts],
        "axis": [AxisOption("a", int, None)],
        "predictor": [Predictor("const")],
    } | {
        name: [module] for name, module in host.modules.items() if name.startswith("modules.")
    }  # fmt: skip


def test_the_double_has_what_isdo_uses():
    """What it lacks no test without a host would see."""
    known, lacking = doubles(), set()
    for use in uses():
        if use.guarded or use.holder not in known or not use.name:
            continue
        name = use.name.split(".")[0]
        if not any(hasattr(each, name) for each in known[use.holder]):
            lacking.add(f"{use.where}: {use.holder} {use.name}")
    assert lacking == set()


@hosts
def test_samplers_and_schedules_have_the_double_s_fields(host):
    assert DOES[host]["fields of SamplerData"] == list(hostdouble.SamplerDataTuple._fields)
    theirs = DOES[host]["fields of Scheduler"]
    if missing(HAS[host], "modules.sd_schedulers", ""):
        assert theirs is None
    else:
        ours = list(Scheduler.__dataclass_fields__)
        assert [name for name in theirs if name in ours] == ours


@hosts
def test_the_double_does_what_the_hosts_do(host):
    does = DOES[host]
    for fact in (
        "the denoiser counts its calls", "the denoiser takes prompts by its count", "it is given sigmas",
        "a sampler is asked for its parameters' names", "it is given extra_args and a callback",
        "p overrides the schedule", "img2img samples with the sampler that p has", "img2img puts the kept area back",
        "an interrupted sampler gives its last latent", "total steps are the sampler data's",
        "the state has the sampling steps", "beyond the end of a prompt's schedule is its beginning",
        "the API cuts scripts' arguments",
    ):  # fmt: skip
        assert does[fact] is True, fact


@hosts
def test_hooks_come_in_the_double_s_order(host):
    assert DOES[host]["order in a batch"] == list(BATCH)
    assert DOES[host]["order in the second pass"] == list(HIRES)


@hosts
def test_the_linker_s_smallest_sigma_is_of_no_use(host):
    """It calls the predictor's, which is a tensor: the double's raises."""
    linked = not missing(HAS[host], "predictor", "")
    assert DOES[host]["the linker calls the predictor's sigma_min"] is (True if linked else None)


@pytest.mark.parametrize(
    "host, marks",
    [
        ("a1111-1.10.1", ["add_noise_to_latent"]),
        ("forge", ["prediction_type"]),
        ("neo", ["prediction_type"]),
    ],
)
def test_flow_models_are_told_by_what_they_carry(host, marks):
    assert set(marks) <= set(DOES[host]["flow models are known by"])


@hosts
def test_the_api_and_the_page_have_what_the_plugin_looks_for(host):
    assert DOES[host]["API paths"] == ["/sdapi/v1/txt2img", "/sdapi/v1/img2img"]
    elements = DOES[host]["elements of the page"]
    assert len(elements) >= 6
    scheduled = not missing(HAS[host], "modules.sd_schedulers", "")
    assert {name for name, there in elements.items() if not there} == (
        set() if scheduled else {"hr_scheduler", "img2img_scheduler"}
    )
