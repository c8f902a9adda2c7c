"""The double of the hosts is told true by the files of a real one, whichever WEBUI_DIR names;
nothing of it is run."""

import ast
import inspect
import os
import re
from pathlib import Path

import hostdouble
import pytest
from hostdouble import (
    ROOT,
    AxisOption,
    CFGDenoiser,
    Host,
    OptionInfo,
    Predictor,
    Scheduler,
    Script,
    setup_img2img_steps,
)

from isdo.hosts import NEEDS

WEBUI = os.environ.get("WEBUI_DIR")
pytestmark = pytest.mark.skipif(
    not WEBUI, reason="WEBUI_DIR is not set: name a WebUI's folder to compare the double with it"
)

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
    "modules/sd_samplers.py:find_sampler_config": MODULES[
        "modules.sd_samplers"
    ].find_sampler_config,
    "modules/sd_samplers.py:set_samplers": MODULES["modules.sd_samplers"].set_samplers,
    "modules/sd_samplers.py:get_sampler_and_scheduler": MODULES[
        "modules.sd_samplers"
    ].get_sampler_and_scheduler.__wrapped__,
    "modules/options.py:OptionInfo.__init__": OptionInfo.__init__,
    "modules/options.py:OptionsCategories.register_category": hostdouble.Categories.register_category,
    "modules/sd_samplers_common.py:Sampler.launch_sampling": SAMPLER.launch_sampling,
    "modules/options.py:Options.add_option": type(Host().opts).add_option,
    "modules/scripts.py:Script.elem_id": Script.elem_id,
    "modules/scripts.py:Script.process": Script.process,
    "modules/scripts.py:Script.process_batch": Script.process_batch,
    "modules/scripts.py:Script.before_hr": Script.before_hr,
    "modules/scripts.py:Script.process_before_every_sampling": Script.process_before_every_sampling,
    "modules/scripts.py:Script.post_sample": Script.post_sample,
    "modules/scripts.py:Script.postprocess_image": Script.postprocess_image,
    "modules/scripts.py:Script.postprocess": Script.postprocess,
    "modules/rng.py:ImageRNG.__init__": hostdouble.ImageRNG.__init__,
    "modules/rng.py:ImageRNG.next": hostdouble.ImageRNG.next,
    "modules/shared_state.py:State.nextjob": hostdouble.State.nextjob,
    "modules/shared_total_tqdm.py:TotalTQDM.update": hostdouble.TotalTQDM.update,
    "modules/shared_total_tqdm.py:TotalTQDM.updateTotal": hostdouble.TotalTQDM.updateTotal,
    "modules/sd_samplers.py:create_sampler": MODULES["modules.sd_samplers"].create_sampler,
    "modules/sd_samplers_common.py:sample_to_image": MODULES["modules.sd_samplers"].sample_to_image,
    "modules/sd_samplers_common.py:Sampler.initialize": SAMPLER.initialize,
    "modules/sd_samplers_common.py:Sampler.callback_state": SAMPLER.callback_state,
    "modules/processing.py:process_images": MODULES["modules.processing"].process_images,
    "modules/processing.py:create_infotext": hostdouble.create_infotext,
    "modules/processing.py:StableDiffusionProcessing.comment": hostdouble.Picture.comment,
    "modules/processing.py:StableDiffusionProcessing.txt2img_image_conditioning": hostdouble.Picture.txt2img_image_conditioning,
    "modules/processing.py:StableDiffusionProcessing.save_samples": hostdouble.Picture.save_samples,
    "modules/images.py:save_image": MODULES["modules.images"].save_image,
    XYZ: AxisOption.__init__,
    "backend/modules/k_prediction.py:AbstractPrediction.noise_scaling": Predictor.noise_scaling,
}
NEWER = {
    "sd_schedulers.py",
    "k_prediction.py",
    "get_sampler_and_scheduler",
}  # what some of the family do not have


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
        found |= (
            {node.id} if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) else set()
        )
        found |= (
            {a.asname or a.name for a in node.names}
            if isinstance(node, (ast.Import, ast.ImportFrom))
            else set()
        )
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
    more = [
        argument.arg for argument in (node.args.vararg, node.args.kwarg) if argument is not None
    ]
    names, optional = names + more, optional | set(more)
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
    assert [name for name in theirs if name in Scheduler.__dataclass_fields__] == list(
        Scheduler.__dataclass_fields__
    )


def test_the_denoiser_has_what_the_plugin_reads_and_sets():
    source = ast.unparse(find("modules/sd_samplers_cfg_denoiser.py", "CFGDenoiser"))
    for name in ("step", "mask", "nmask", "init_latent", "model_wrap"):
        assert f"self.{name} = None" in source or f"self.{name} = 0" in source
    assert "self.step += 1" in source and "reconstruct_multicond_batch(cond, self.step)" in source


def test_the_host_hands_over_by_the_parameters_names():
    source = ast.unparse(find("modules/sd_samplers_kdiffusion.py", "KDiffusionSampler.sample"))
    assert (
        "inspect.signature(self.func).parameters" in source
        and "extra_params_kwargs['sigmas'] = sigmas" in source
    )
    assert (
        "self.func(self.model_wrap_cfg, x, extra_args=" in source
        and "callback=self.callback_state" in source
    )
    override = ast.unparse(
        find("modules/sd_samplers_kdiffusion.py", "KDiffusionSampler.get_sigmas")
    )
    assert "p.sampler_noise_scheduler_override(steps)" in override


def test_hooks_come_in_the_double_s_order():
    inner = ast.unparse(find("modules/processing.py", "process_images_inner"))
    order = (
        "p.scripts.process(p)", "p.init(", "state.job_count = p.n_iter", "p.rng = rng.ImageRNG(", "p.scripts.process_batch(",
        "p.setup_conds()", "samples_ddim = p.sample(",
        "p.scripts.post_sample(p, ps)", "samples_ddim = ps.samples", "'already_decoded'",
        "state.nextjob()", "p.scripts.postprocess_image(p, pp)", "res = Processed(p", "p.scripts.postprocess(p, res)",
    )  # fmt: skip
    at = [
        inner.find(part, inner.find("p.rng = rng") if i > 2 else 0) for i, part in enumerate(order)
    ]
    assert -1 not in at and at == sorted(at)
    second = ast.unparse(
        find("modules/processing.py", "StableDiffusionProcessingTxt2Img.sample_hr_pass")
    )
    order = (
        "self.is_hr_pass = True", "self.sampler = sd_samplers.create_sampler(", "shared.state.nextjob()",
        "self.rng = rng.ImageRNG(", "self.calculate_hr_conds()", "self.scripts.before_hr(self)",
        "self.sampler.sample_img2img(self, samples, noise,",
        "self.sampler = None", "decode_latent_batch(self.sd_model, samples", "self.is_hr_pass = False",
    )  # fmt: skip
    start = second.find("shared.state.nextjob()")
    at = [second.find(part, start if i > 2 else 0) for i, part in enumerate(order)]
    assert -1 not in at and at == sorted(at)


def test_img2img_samples_with_the_sampler_that_p_has():
    source = ast.unparse(find("modules/processing.py", "StableDiffusionProcessingImg2Img.sample"))
    assert (
        "self.sampler.sample_img2img(self, self.init_latent, " in source
        and "create_sampler" not in source
    )
    assert "samples * self.nmask + self.init_latent * self.mask" in source


def test_an_interrupted_sampler_gives_its_last_latent():
    source = ast.unparse(find("modules/sd_samplers_common.py", "Sampler.launch_sampling"))
    assert "except InterruptedException:\n        return self.last_latent" in source
    assert "self.model_wrap_cfg.total_steps = self.config.total_steps(steps)" in source
    assert "state.sampling_steps = steps" in source


@pytest.mark.parametrize("function", ["reconstruct_cond_batch", "reconstruct_multicond_batch"])
def test_beyond_the_end_of_a_prompt_s_schedule_is_its_beginning(function):
    source = ast.unparse(find("modules/prompt_parser.py", function))
    assert (
        "target_index = 0" in source
        and "if current_step <= entry.end_at_step:" in source
        and ".cond" in source
    )


def test_the_linker_s_smallest_sigma_is_of_no_use():
    files = [
        p
        for p in Path(WEBUI).rglob("k_diffusion/external.py")
        if "ForgeScheduleLinker" in p.read_text(encoding="utf-8")
    ]
    if not files:
        pytest.skip("this WebUI has no linker")
    source = ast.unparse(find(files[0].relative_to(WEBUI), "ForgeScheduleLinker.sigma_min"))
    assert "return self.predictor.sigma_min()" in source  # the predictor's is a tensor


def test_conditioning_has_the_double_s_parts():
    source = text("modules")
    assert re.search(r"self\.schedules\b", source) and re.search(r"self\.batch\b", source)


def test_the_api_still_drops_what_it_does_not_know():
    source = text("modules/api")
    for path in ("/sdapi/v1/txt2img", "/sdapi/v1/img2img"):
        assert path in source
    assert re.search(r"min\(\s*\(?alwayson_script\.args_to - alwayson_script\.args_from", source)


def test_the_page_has_the_elements_that_the_javascript_reads():
    wanted = set(
        re.findall(
            r'(?:value|number)\("(\w+)"\)',
            (ROOT / "javascript" / "isdo.js").read_text(encoding="utf-8"),
        )
    )
    assert len(wanted) >= 6
    source = text("modules")
    for name in wanted:
        rest = name.partition("_")[2]  # most hosts put the tab's name in front
        assert re.search(rf'"({name}|\{{(self\.)?tabname\}}_{rest})"', source), name
