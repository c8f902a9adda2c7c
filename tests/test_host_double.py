"""The double of the hosts is told true by the files of a real one, whichever WEBUI_DIR names; nothing of it is run."""

import ast
import inspect
import os
import re
from pathlib import Path

import pytest
from hostdouble import ROOT, AxisOption, CFGDenoiser, Host, OptionInfo, Predictor, Scheduler, Script, setup_img2img_steps

from isdo.hosts import NEEDS

WEBUI = os.environ.get("WEBUI_DIR")
pytestmark = pytest.mark.skipif(not WEBUI, reason="WEBUI_DIR is not set: name a WebUI's folder to compare the double with it")

XYZ = "scripts/xyz_grid.py:AxisOption.__init__"
if WEBUI and Path(WEBUI, "extensions-builtin/xyz/lib_xyz/classes.py").is_file():  # Forge Classic
    XYZ = "extensions-builtin/xyz/lib_xyz/classes.py:AxisOption.__init__"
MODULES = Host().modules
SAMPLER = MODULES["modules.sd_samplers_kdiffusion"].KDiffusionSampler
# where in the host, and what stands for it in the double
SIGNATURES = {
    "modules/sd_samplers_common.py:setup_img2img_steps": setup_img2img_steps,
    "modules/sd_samplers_kdiffusion.py:KDiffusionSampler.__init__": SAMPLER.__init__,
    "modules/sd_samplers_kdiffusion.py:KDiffusionSampler.get_sigmas": SAMPLER.get_sigmas,
    "modules/sd_samplers_kdiffusion.py:KDiffusionSampler.sample": SAMPLER.sample,
    "modules/sd_samplers_kdiffusion.py:KDiffusionSampler.sample_img2img": SAMPLER.sample_img2img,
    "modules/sd_samplers_cfg_denoiser.py:CFGDenoiser.__init__": CFGDenoiser.__init__,
    "modules/sd_samplers_cfg_denoiser.py:CFGDenoiser.forward": CFGDenoiser.__call__,
    "modules/sd_samplers.py:find_sampler_config": MODULES["modules.sd_samplers"].find_sampler_config,
    "modules/sd_samplers.py:set_samplers": MODULES["modules.sd_samplers"].set_samplers,
    "modules/sd_samplers.py:get_sampler_and_scheduler": MODULES["modules.sd_samplers"].get_sampler_and_scheduler.__wrapped__,
    "modules/options.py:OptionInfo.__init__": OptionInfo.__init__,
    "modules/options.py:OptionInfo.info": OptionInfo.info,
    "modules/options.py:Options.add_option": type(Host().opts).add_option,
    "modules/scripts.py:Script.elem_id": Script.elem_id,
    XYZ: AxisOption.__init__,
    "backend/modules/k_prediction.py:AbstractPrediction.noise_scaling": Predictor.noise_scaling,
}
NEWER = {"sd_schedulers.py", "k_prediction.py", "get_sampler_and_scheduler"}  # what some of the family do not have


def tree(file):
    path = Path(WEBUI, file)
    return ast.parse(path.read_text(encoding="utf-8")) if path.is_file() else None


def find(file, dotted):
    """Return the syntax of a class or function, or None."""
    node = tree(file)
    for name in dotted.split("."):
        node = node and next((n for n in node.body if getattr(n, "name", None) == name), None)
    return node


def names_of(file):
    """Return every name that a module's top level binds."""
    found = set()
    for node in ast.walk(tree(file)):
        found |= {node.name} if isinstance(node, (ast.ClassDef, ast.FunctionDef)) else set()
        found |= {node.id} if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) else set()
        found |= {a.asname or a.name for a in node.names} if isinstance(node, (ast.Import, ast.ImportFrom)) else set()
    return found


def text(*folders):
    files = [p for folder in folders for p in Path(WEBUI, folder).rglob("*.py")]
    return "\n".join(p.read_text(encoding="utf-8", errors="replace") for p in files)


@pytest.mark.parametrize("where", SIGNATURES)
def test_functions_take_what_the_double_takes(where):
    file, _, dotted = where.partition(":")
    node = find(file, dotted)
    if node is None and {Path(file).name, dotted} & NEWER:
        pytest.skip(f"this WebUI has no {where}")
    arguments = [*node.args.posonlyargs, *node.args.args]
    names = [a.arg for a in arguments]
    optional = set(names[len(names) - len(node.args.defaults) :])
    ours = list(inspect.signature(SIGNATURES[where]).parameters)
    assert [name for name in names if name in ours] == ours
    assert set(names) - set(ours) <= optional  # what the double leaves out has a default


def test_all_that_the_plugin_needs_is_there():
    for module, names in NEEDS.items():
        file = f"{module.replace('.', '/')}.py"
        known = names_of(file)
        for name in names:
            if "." in name:
                assert find(file, name), f"{module}.{name}"
            else:
                assert name in known, f"{module}.{name}"


def test_samplers_and_schedules_have_the_double_s_fields():
    (fields,) = re.findall(r"namedtuple\(\s*['\"]SamplerData['\"],\s*(\[.*?\])", text("modules"))
    assert ast.literal_eval(fields) == ["name", "constructor", "aliases", "options"]
    found = find("modules/sd_schedulers.py", "Scheduler")
    if found is None:
        pytest.skip("this WebUI has no list of schedules")
    theirs = [node.target.id for node in found.body if isinstance(node, ast.AnnAssign)]
    assert [name for name in theirs if name in Scheduler.__dataclass_fields__] == list(Scheduler.__dataclass_fields__)


def test_the_denoiser_has_what_the_plugin_reads_and_sets():
    source = ast.unparse(find("modules/sd_samplers_cfg_denoiser.py", "CFGDenoiser"))
    for name in ("step", "mask", "nmask", "init_latent", "model_wrap"):
        assert f"self.{name} = None" in source or f"self.{name} = 0" in source
    assert "self.step += 1" in source and "reconstruct_multicond_batch(cond, self.step)" in source


def test_the_host_hands_over_by_the_parameters_names():
    source = ast.unparse(find("modules/sd_samplers_kdiffusion.py", "KDiffusionSampler.sample"))
    assert "inspect.signature(self.func).parameters" in source and "extra_params_kwargs['sigmas'] = sigmas" in source
    assert "self.func(self.model_wrap_cfg, x, extra_args=" in source and "callback=self.callback_state" in source
    override = ast.unparse(find("modules/sd_samplers_kdiffusion.py", "KDiffusionSampler.get_sigmas"))
    assert "p.sampler_noise_scheduler_override(steps)" in override


def test_the_api_still_drops_what_it_does_not_know():
    source = text("modules/api")
    for path in ("/sdapi/v1/txt2img", "/sdapi/v1/img2img"):
        assert path in source
    assert re.search(r"min\(\s*\(?alwayson_script\.args_to - alwayson_script\.args_from", source)


def test_the_page_has_the_elements_that_the_javascript_reads():
    wanted = set(re.findall(r'(?:value|number)\("(\w+)"\)', (ROOT / "javascript" / "isdo.js").read_text(encoding="utf-8")))
    assert len(wanted) >= 6
    source = text("modules")
    for name in wanted:
        rest = name.partition("_")[2]  # most hosts put the tab's name in front
        assert re.search(rf'"({name}|\{{(self\.)?tabname\}}_{rest})"', source), name
