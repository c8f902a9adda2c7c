"""The plugin in a double of the WebUIs: it registers, samples with the host's own sampler, and
leaves no trace."""

import shutil
import subprocess
import sys
import time
from types import ModuleType, SimpleNamespace

import pytest
import torch
from hostdouble import MEAN, POWER, ROOT, SCRIPT, Host, HTTPException, picture

from isdo import sample_isdo
from isdo.hosts.request import CONTROLS, NOT_ASKED, REFINE_CONTROLS, SAMPLER
from isdo.schedules import reposition
from isdo.settings import FIELDS, PRESETS, Settings
from isdo.solver import model_calls

KINDS = {
    "a1111": {}, "a1111 1.8": {"schedules": False}, "forge": {"forge": True},
    "forge flow": {"forge": True, "prediction": "const"},
}  # fmt: skip
AS_SCHEDULED = [{"placement": 0}]  # each call exactly where the host's schedule says


@pytest.fixture(params=KINDS)
def host(request):
    with Host(**KINDS[request.param]).running() as host:
        host.load()
        host.ui()
        yield host


@pytest.fixture
def a1111():
    with Host().running() as host:
        host.load()
        host.ui()
        yield host


@pytest.fixture
def forge_flow():
    with Host(forge=True, prediction="const").running() as host:
        host.load()
        host.ui()
        yield host


def sampler_module():
    return sys.modules["isdo.hosts.sampler"]


# -------------------------------------------------------------------------------------------------------- registration


def test_one_entry_with_lower_case_aliases(host):
    samplers = host.modules["modules.sd_samplers"]
    assert [s.name for s in samplers.all_samplers] == ["Euler", "ISDO"]
    entry = samplers.all_samplers[1]
    assert all(alias == alias.lower() for alias in entry.aliases)
    assert all(isinstance(value, (str, bool)) for value in entry.options.values())
    for name in ("ISDO", "isdo"):
        assert (
            samplers.find_sampler_config(name) is entry
            and samplers.get_sampler_and_scheduler(name, None) == "ISDO"
        )


def test_loading_again_replaces_and_adds_nothing(host):
    samplers, plot = host.modules["modules.sd_samplers"], SimpleNamespace(axis_options=[])
    held, first = samplers.all_samplers, samplers.all_samplers[1]
    plot.AxisOption = sys.modules["hostdouble"].AxisOption
    host.scripts_data.append(SimpleNamespace(module=plot))
    for found in host.callbacks.values():
        found.clear()
    host.load()
    host.ui()
    host.ui()
    assert (
        samplers.all_samplers is held
        and [s.name for s in held] == ["Euler", "ISDO"]
        and held[1] is not first
    )
    assert len(plot.axis_options) == len(CONTROLS) + len(REFINE_CONTROLS) + 1
    schedules = host.modules.get("modules.sd_schedulers")
    if schedules:
        assert [s.name for s in schedules.schedulers].count("isdo_curvature") == 1


def test_the_schedule_label_is_not_eaten(a1111):
    samplers = a1111.modules["modules.sd_samplers"]
    assert samplers.get_sampler_and_scheduler("ISDO", "ISDO curvature") == "ISDO"
    found = a1111.modules["modules.sd_schedulers"].schedulers_map
    assert found["ISDO curvature"] is found["isdo_curvature"]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "a1111 1.8"])
def test_the_curvature_schedule_suits_the_model(kind):
    with Host(**KINDS[kind]).running() as host:
        host.load()
        host.generate(picture(scheduler="ISDO curvature", steps=7))
        sigmas = [call.sigma for call in host.seen]
        table = host.wrap().sigmas
        assert (
            len(sigmas) == 7
            and sigmas[0] == pytest.approx(float(table[-1]))
            and sigmas[-1] >= float(table[0])
        )
        assert sigmas == sorted(sigmas, reverse=True)


def test_a_second_copy_is_refused_by_both_names(a1111, tmp_path):
    copy = tmp_path / "isdo-copy" / "scripts" / SCRIPT.name
    copy.parent.mkdir(parents=True)
    shutil.copy(SCRIPT, copy)
    with pytest.raises(ImportError) as said:
        a1111.load(copy)
    assert str(ROOT) in str(said.value) and str(copy.parents[1]) in str(said.value)


def test_a_strange_host_gets_one_line_and_goes_on(capsys):
    host = Host()
    del host.modules["modules.sd_samplers_kdiffusion"].KDiffusionSampler
    del host.modules["modules.script_callbacks"]
    with host.running():
        script = host.load()
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and said.startswith("ISDO: ")
    assert "modules.script_callbacks" in said and "KDiffusionSampler.get_sigmas" in said
    assert not hasattr(script, "IsdoScript")
    assert [s.name for s in host.modules["modules.sd_samplers"].all_samplers] == ["Euler"]


def test_the_script_brings_one_script_class(a1111):
    base = a1111.modules["modules.scripts"].Script
    found = [
        name
        for name, value in vars(a1111.script).items()
        if isinstance(value, type) and issubclass(value, base)
    ]
    assert found == ["IsdoScript", "RefineAccordion", "RefineScript", "InvertScript"]


def test_install_is_quick_and_quiet():
    start = time.perf_counter()
    code = "import sys, runpy; runpy.run_path('install.py'); print(*{'torch', 'isdo', 'numpy'} & set(sys.modules))"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert out.stdout.strip() == "" and out.stderr == ""
    assert time.perf_counter() - start < 1  # 0.3 s on an idle machine, interpreter included


# ------------------------------------------------------------------------------------------------------------ sampling


def told(p):
    """Return what the infotext says, but for the host's own."""
    return {
        key: value for key, value in p.extra_generation_params.items() if key != "Schedule type"
    }


def test_it_samples_by_itself_with_one_call_a_step(host):
    samples = host.generate(picture(steps=8, seeds=range(64)))
    assert (
        [call.step for call in host.seen]
        == list(range(8))
        == [done["i"] for done in host.steps_done]
    )
    assert samples.mean() == pytest.approx(MEAN, abs=0.03) and samples.std() == pytest.approx(
        POWER**0.5, abs=0.03
    )


def test_it_is_the_package_s_sampler_on_the_host_s_schedule(host):
    p = picture(steps=6, scheduler="Karras")
    samples = host.generate(p, [{"order": 2, "placement": 0}])
    start, levels = host.seen[0].x, torch.tensor([call.sigma for call in host.seen] + [0.0])
    model = SimpleNamespace(inner_model=host.wrap())
    same = sample_isdo(
        Model(model), start, levels, disable=True, settings=Settings(order=2, placement=0)
    )
    assert torch.equal(samples, same)


class Model:
    """The double's wrapper as a plain denoiser."""

    def __init__(self, denoiser):
        self.inner_model = denoiser.inner_model

    def __call__(self, x, sigma):
        return self.inner_model.denoise(x, sigma)


def test_same_seed_same_picture_in_any_batch(host):
    together = host.generate(picture(seeds=[5, 6, 7]))
    for i, seed in enumerate([5, 6, 7]):
        assert torch.equal(host.generate(picture(seeds=[seed]))[0], together[i])


def test_settings_reach_the_sampler_of_their_picture_only(a1111):
    plain = a1111.generate(picture())
    other = a1111.generate(picture(), [True, "multistep", "auto", 0])
    assert not torch.equal(plain, other)
    assert torch.equal(plain, a1111.generate(picture()))


def test_hires_uses_isdo_for_the_pass_that_names_it(a1111):
    first = a1111.generate(picture(sampler_name="Euler"))
    p = picture(sampler_name="Euler", enable_hr=True, hr_sampler_name="isdo")
    a1111.generate(p, [{"order": 2}])
    assert (
        told(p) == {"ISDO order": 2} and p.hr_sampler_name == "ISDO"
    )  # which the infotext tells and the page has
    # eight steps of Euler and eight of ISDO, at the strength that was asked for
    assert len(a1111.seen) == 16 and [call.step for call in a1111.seen] == [*range(8), *range(8)]
    assert not torch.equal(first, a1111.generate(picture()))


def test_a_refiner_changes_the_model_and_the_history_starts_anew(a1111):
    plain = a1111.generate(picture())
    a1111.refine_at = 4
    refined = a1111.generate(picture())
    assert len(a1111.seen) == 8 and not torch.equal(plain, refined)
    assert (plain - refined).abs().max() < 0.1  # the same model in another wrapper


def test_interrupt_passes_through_and_leaves_an_infotext(host):
    host.interrupt_at = 3
    p = picture()
    host.generate(p, [{"order": 2}])
    assert len(host.seen) == 4 and told(p) == {"ISDO order": 2}


# ---------------------------------------------------------------------------------------------------------- repainting


def test_steps_that_go_back_are_counted_with_the_others(host):
    def drawn(seeds, **asked):
        return host.generate(p := picture(steps=11, seeds=seeds), [{"draw": 4, **asked}]), told(p)

    samples, said = drawn([3, 4])
    assert (
        [call.step for call in host.seen]
        == list(range(11))
        == [done["i"] for done in host.steps_done]
    )
    assert said == {"ISDO draw": 4}
    assert torch.equal(samples[1:], drawn([4])[0])  # of whatever batch
    plain = drawn([3, 4], draw=0)[0]
    assert (samples - plain).abs().amax((1, 2, 3)).min() > 0.1
    little = drawn([3, 4], repaint=0.2)[0]
    assert (little - plain).abs().mean() < (samples - plain).abs().mean() / 2


def test_solvers_of_several_calls_hold_the_step_while_they_go_back(host):
    host.generate(p := picture(steps=10), [{"draw": 4, "solver": "srk3"}])
    steps = [call.step for call in host.seen]
    assert steps == sorted(steps) and sorted(set(steps)) == list(range(10)) == [
        done["i"] for done in host.steps_done
    ]
    assert told(p)["ISDO calls"] == len(steps) == model_calls(Settings(solver="srk3", draw=4), 10)


def test_who_interrupts_gets_the_last_finished_picture(host):
    def stopped(at):
        host.interrupt_at = at
        try:
            return host.generate(picture(steps=13, seeds=[3, 4]), [{"draw": 4}])
        finally:
            host.interrupt_at, host.state.interrupted = None, False

    drawn, once = stopped(4), stopped(7)
    assert torch.equal(drawn, stopped(6)) and torch.equal(once, stopped(9))
    assert (once - drawn).abs().max() > 0.1
    # half of the noise would still be there
    for found in (drawn, once):
        assert found.std() == pytest.approx(
            float(host.generate(picture(steps=13, seeds=[3, 4])).std()), rel=0.15
        )


def test_discarding_the_next_to_last_sigma_is_the_host_s(host):
    host.opts.always_discard_next_to_last_sigma = True
    host.generate(picture(steps=8), AS_SCHEDULED)
    with_it = [call.sigma for call in host.seen]
    host.opts.always_discard_next_to_last_sigma = False
    host.generate(picture(steps=9), AS_SCHEDULED)
    assert with_it == [call.sigma for call in host.seen][:-1]


def test_noise_comes_from_the_host(a1111):
    a1111.opts.sgm_noise_multiplier = True
    a1111.generate(picture(scheduler="Karras"))
    scaled = a1111.seen[0].x
    a1111.generate(picture(scheduler="Karras", sampler_name="Euler"))
    assert torch.equal(scaled, a1111.seen[0].x)


def test_a_solver_of_several_calls_keeps_the_host_s_counter_and_tells_the_calls(a1111):
    p = picture(steps=3)
    a1111.generate(p, [{"solver": "srk3"}])
    assert [call.step for call in a1111.seen] == [0, 0, 0, 1, 1, 1, 2]
    assert told(p) == {"ISDO solver": "srk3", "ISDO calls": 7}
    a1111.generate(p)
    assert told(p) == {}


# ---------------------------------------------------------------------------------------------------------------- flow


@pytest.mark.parametrize("steps", [1, 2, 5, 150])
def test_automatic_is_a_grid_of_our_own_on_flow_models(forge_flow, steps):
    p = picture(steps=steps)
    forge_flow.generate(p)
    sigmas = [call.sigma for call in forge_flow.seen]
    assert (
        sigmas[0] == 1
        and len(sigmas) == steps
        and sigmas == sorted(sigmas, reverse=True)
        and sigmas[-1] > 0
    )
    assert p.sampler_noise_scheduler_override is None


@pytest.mark.parametrize("klein", [False, True])
def test_forge_neo_s_grid_for_klein_stays(forge_flow, monkeypatch, klein):
    monkeypatch.setitem(sys.modules, "backend", ModuleType("backend"))
    monkeypatch.setitem(
        sys.modules, "backend.args", SimpleNamespace(dynamic_args=SimpleNamespace(klein=klein))
    )
    forge_flow.generate(picture(steps=4))
    host_s = [call.sigma for call in forge_flow.seen]
    forge_flow.generate(picture(steps=4, scheduler="Karras"))
    assert (host_s == [call.sigma for call in forge_flow.seen]) is klein


def test_a_grid_that_somebody_gave_stays(forge_flow):
    def given(steps):
        return torch.linspace(0.9, 0, steps + 1)

    forge_flow.generate(picture(steps=4, sampler_noise_scheduler_override=given), AS_SCHEDULED)
    assert [call.sigma for call in forge_flow.seen] == pytest.approx([0.9, 0.675, 0.45, 0.225])


def test_a_schedule_that_starts_above_the_flow_path_is_refused_in_words(forge_flow):
    with pytest.raises(HTTPException, match="starts at sigma 14.6.*choose the schedule") as said:
        forge_flow.generate(picture(scheduler="Align Your Steps"))
    assert said.value.status_code == 422 and not forge_flow.seen


def test_the_message_about_a_schedule_does_not_advise_the_one_that_is_chosen(forge_flow):
    for scheduler, others in (("Align Your Steps", "Automatic, Simple or ISDO curvature"),):
        with pytest.raises(
            HTTPException, match=f"the schedule {scheduler} starts.*choose the schedule {others}$"
        ):
            forge_flow.generate(picture(scheduler=scheduler))
    sampler = forge_flow.create("ISDO")
    sampler.begin(picture())
    with pytest.raises(HTTPException, match="choose the schedule Automatic or ISDO curvature$"):
        sampler.check_start(14.6, "Simple")
    sampler.check_start(1 + 2**-23, "Simple")  # rounding


def test_a_path_that_is_not_the_model_s_is_named_with_its_remedy(host):
    flow = host.prediction == "const"
    wrong, kind = ("ve", "a flow model") if flow else ("flow", "an eps- or v-model")
    with pytest.raises(
        HTTPException, match=f'the setting Path is "{wrong}" and this is {kind}.*set Path to "auto"'
    ) as said:
        host.generate(picture(scheduler="Align Your Steps"), [{"path": wrong}])
    assert said.value.status_code == 422 and "choose" not in str(said.value) and not host.seen


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "scheduler", ["Automatic", "Karras", "KL Optimal", "Align Your Steps", "ISDO curvature"]
)
@pytest.mark.parametrize("steps", [1, 4, 10])
@pytest.mark.parametrize("placement", [0, 0.75])
def test_strength_as_noise_level_begins_where_it_was_asked(kind, scheduler, steps, placement):
    with Host(**KINDS[kind]).running() as host:
        host.load()
        flow, table = host.prediction == "const", host.wrap().sigmas
        if scheduler == "Align Your Steps" and flow:
            return
        for strength in (0.0, 0.02, 0.1, 0.25, 0.3, 0.5, 0.75):
            latent = torch.full((1, 4, 8, 8), MEAN)
            p = picture(
                init_latent=latent, denoising_strength=strength, steps=steps, scheduler=scheduler
            )
            host.generate(p, [{"strength": "noise level", "placement": placement}])
            sigmas = [call.sigma for call in host.seen]
            asked = strength if flow else strength / (1 - strength)
            assert sigmas[0] == pytest.approx(max(asked, float(table[0])), rel=1e-5)
            assert len(sigmas) == int(strength * steps) + 1 and sigmas == sorted(
                set(sigmas), reverse=True
            )


def test_hires_with_strength_0_samples_nothing(host):
    for asks in ([], [{"strength": "noise level"}]):
        for scheduler in ("Automatic", "ISDO curvature"):
            p = picture(
                enable_hr=True, denoising_strength=0.0, scheduler=scheduler, hr_scheduler=scheduler
            )
            out = host.generate(p, asks)
            assert len(host.seen) == p.steps and out.isfinite().all()


def test_no_call_goes_below_the_user_s_own_smallest_level(a1111):
    def last_level(**options):
        vars(a1111.opts).update(options)
        a1111.generate(picture(steps=6, scheduler="Karras", cfg_scale=3.0))
        return a1111.seen[-1].sigma

    assert last_level() < 0.2 and last_level(sigma_min=0.3) >= 0.2999
    a1111.generate(picture(steps=6, scheduler="Karras"), [{"placement": 1.0}])
    assert a1111.seen[-1].sigma >= 0.2999
    from isdo.hosts.sampler import own_sigma_min

    vars(a1111.opts).update(sigma_min=0, use_old_karras_scheduler_sigmas=True)
    assert own_sigma_min() == pytest.approx(0.1)


def test_nan_is_answered_with_what_this_host_has(a1111, monkeypatch):
    def said():
        a1111.nan_at = 3
        with pytest.raises(RuntimeError, match="NaN or infinity at step 4 of 8") as error:
            a1111.generate(picture())
        return str(error.value)

    assert "(start the WebUI with --no-half)" in said()
    monkeypatch.setitem(sys.modules, "backend", ModuleType("backend"))
    monkeypatch.setitem(
        sys.modules, "backend.args", SimpleNamespace(args=SimpleNamespace(all_in_fp32=False))
    )
    assert "(start the WebUI with --all-in-fp32)" in said()
    monkeypatch.delitem(sys.modules, "backend.args")
    del a1111.modules["modules.shared"].cmd_opts.no_half
    assert "try full precision, another checkpoint" in said()


def test_a_schedule_that_ends_above_zero_ends_there(host):
    host.generate(picture(scheduler="KL Optimal", steps=5))
    assert len(host.seen) == 5


@pytest.mark.parametrize("kind", KINDS)
def test_strength_as_noise_level_has_no_jumps(kind):
    with Host(**KINDS[kind]).running() as host:
        host.load()
        starts = {}
        for strength in (0.3, 0.49, 0.5, 0.51, 0.999, 1.0):
            p = picture(init_latent=torch.full((1, 4, 8, 8), MEAN), denoising_strength=strength)
            host.generate(p, [{"strength": "noise level"}])
            sigmas = [call.sigma for call in host.seen]
            assert (
                sigmas == sorted(sigmas, reverse=True)
                and len(sigmas) == int(min(strength, 0.999) * 8) + 1
            )
            assert told(p) == {"ISDO strength": "noise level"}
            starts[strength] = sigmas[0]
        share = {
            s: sigma if host.prediction == "const" else sigma / (1 + sigma)
            for s, sigma in starts.items()
        }
        for strength in (0.3, 0.49, 0.5, 0.51):
            assert share[strength] == pytest.approx(strength, rel=1e-4)
        assert (
            starts[1.0] == starts[0.999] == pytest.approx(float(host.wrap().sigmas[-1]), rel=2e-3)
        )


def test_strength_in_steps_is_the_host_s_own(host):
    p = picture(
        init_latent=torch.full((1, 4, 8, 8), MEAN), denoising_strength=0.5, scheduler="Karras"
    )
    host.generate(p, AS_SCHEDULED)
    ours = [call.sigma for call in host.seen]
    host.generate(picture(**{**vars(p), "sampler_name": "Euler"}))
    assert ours == [call.sigma for call in host.seen]


# --------------------------------------------------------------------------------------------------------------- masks


def inpainting(**changes):
    image = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    nmask = torch.zeros(4, 8, 8)
    nmask[:, 2:6, 2:6] = 1
    return picture(init_latent=image, nmask=nmask, mask=1 - nmask, **changes)


def test_kept_pixels_are_those_that_euler_keeps(host):
    p = inpainting(scheduler="Karras")
    ours = host.generate(p)
    theirs = host.generate(inpainting(scheduler="Karras", sampler_name="Euler"))
    assert torch.equal(
        (ours * p.nmask + p.init_latent * p.mask)[:, p.mask == 1], p.init_latent[:, p.mask == 1]
    )
    assert torch.allclose(ours[:, p.mask == 1], theirs[:, p.mask == 1], atol=1e-6)
    assert ours.isfinite().all()


def test_forge_s_fresh_noise_does_not_reach_the_painted_area():
    with Host(forge=True).running() as host:
        host.load()
        torch.manual_seed(1)
        first = host.generate(inpainting())
        drawn = torch.rand(1)
        torch.manual_seed(2)
        assert torch.equal(first, host.generate(inpainting()))
        torch.manual_seed(1)
        host.generate(inpainting(sampler_name="Euler", scheduler="Karras"))
        assert torch.equal(
            drawn, torch.rand(1)
        )  # as many random numbers are drawn as with any sampler
        assert "noise_scaling" not in vars(host.predictor)


def test_what_another_extension_put_there_is_there_again():
    with Host(forge=True).running() as host:
        host.load()
        model = host.create("ISDO").model_wrap_cfg
        model.mask, model.inner_model.predictor.noise_scaling = 1, "another extension's"
        steady_mask = sys.modules["isdo.hosts.forge"].steady_mask
        with pytest.raises(KeyError), steady_mask(model, x=5):
            assert model.inner_model.predictor.noise_scaling(0, 0, 0, max_denoise=False) == 5
            raise KeyError
        assert model.inner_model.predictor.noise_scaling == "another extension's"


# ------------------------------------------------------------------------------------------------- infotext, page, API


def test_infotext_only_where_isdo_runs(host):
    p = picture(extra_generation_params={"ISDO order": 4, "Other": 1})
    host.generate(p, [{"order": 2, "tau": "auto"}])
    assert told(p) == {"ISDO order": 2, "Other": 1}
    p.sampler_name = "Euler"
    host.generate(p, [{"order": 2}])
    assert told(p) == {"Other": 1}


def test_what_automatic_was_for_isdo_is_not_told_of_the_next_cell(a1111):
    p = picture()
    a1111.generate(p)
    assert p.extra_generation_params == {"Schedule type": "Karras"}
    p.sampler_name = "Euler"
    a1111.generate(p)
    assert p.extra_generation_params == {}
    p.scheduler = "Karras"
    a1111.generate(p)
    assert p.extra_generation_params == {"Schedule type": "Karras"}


def test_the_settings_page_counts_where_the_accordion_is_closed(a1111):
    options = {f"isdo_{f.key}" for f in CONTROLS if len(f.choices) != 1} | {
        f"isdo_refine_{f.key}" for f in REFINE_CONTROLS
    }
    options |= {
        "isdo_invert_cfg",
        "isdo_invert_steps",
        "isdo_invert_full",
    }  # and no prompt: that belongs to its picture
    assert set(a1111.opts.labels) == options
    a1111.opts.isdo_order = 2
    p = picture()
    a1111.generate(p, [False])
    assert told(p) == {"ISDO order": 2}
    a1111.generate(p, [True, None, None, None, Settings().order])
    assert told(p) == {}


def test_wrong_settings_are_refused_when_the_sampler_starts(host):
    with pytest.raises(HTTPException) as said:
        host.generate(picture(), [{"order": 9}])
    assert (
        said.value.status_code == 422 and str(said.value).startswith("order is 9") and not host.seen
    )
    host.generate(
        picture(sampler_name="Euler"), [{"order": 9}]
    )  # another sampler is none of our business


def panel_of(host, img2img=False):
    script = host.script.IsdoScript()
    script.is_img2img = img2img
    return script, script.ui(img2img)


def test_the_page_has_a_control_for_every_setting_closed_by_default(host):
    for img2img in (False, True):
        script, (enabled, *controls) = panel_of(host, img2img)
        assert enabled.value is False
        assert [c.label for c in controls] == [field.label for field in CONTROLS]
        assert [c.value for c in controls] == [field.default for field in CONTROLS]
        assert all(
            c.given["info"] == field.help for c, field in zip(controls, CONTROLS, strict=True)
        )
        assert len({c.elem_id for c in (enabled, *controls)}) == len(CONTROLS) + 1
        assert all(("img2img" if img2img else "txt2img") in c.elem_id for c in controls)


def pasted(script, params):
    return [function(params) for _, function in script.infotext_fields]


def test_pasting_sets_the_page_to_what_made_the_picture(a1111):
    script, (enabled, *_) = panel_of(a1111)
    assert script.infotext_fields[0][0] is enabled
    assert pasted(script, {"Sampler": "Euler"}) == [False, *[None] * len(CONTROLS), ""]
    defaults = [field.default for field in CONTROLS]
    assert pasted(script, {"Sampler": "ISDO"}) == [False, *defaults, ""]
    found = pasted(script, {"Sampler": "Euler", "Hires sampler": "ISDO", "ISDO order": "2"})
    assert found == [
        True,
        *(2 if field.key == "order" else field.default for field in CONTROLS),
        "",
    ]
    a1111.opts.isdo_order = (
        2  # now the picture that says nothing differs from what the Settings would do
    )
    assert pasted(script, {"Sampler": "ISDO"}) == [True, *defaults, ""]


def test_pasting_takes_what_is_good_and_says_what_was_left_out(a1111, caplog):
    script, _ = panel_of(a1111)
    text = {
        "Sampler": "ISDO",
        "ISDO order": "9",
        "ISDO tau": "root",
        "ISDO placement": "much",
        "ISDO corrections": "2",
    }
    enabled, *values, said = pasted(script, text)
    good = {"tau": "root", "corrector": 2}
    assert enabled and values == [good.get(field.key, field.default) for field in CONTROLS]
    assert said == (
        "ISDO: of the pasted text this was left out: order is 9: give a whole number from 1 to 4; "
        "placement is 'much': give a number"
    )
    assert sys.modules["gradio"].warnings == [said] and [
        record.message for record in caplog.records
    ] == [said]


class Elements:
    """The parts of an accordion by the ends of their ids."""

    def __init__(self, host, monkeypatch, img2img=False, script="IsdoScript"):
        made = []
        for kind in ("Accordion", "Button", "Checkbox", "Dropdown", "Markdown", "Number", "Slider"):
            kind = getattr(sys.modules["gradio"], kind)
            monkeypatch.setattr(kind, "__init__", self.noting(kind.__init__, made))
        script = getattr(host.script, script)()
        script.is_img2img = img2img
        script.ui(img2img)
        self.all = made

    @staticmethod
    def noting(init, made):
        def noted(self, *args, **kwargs):
            init(self, *args, **kwargs)
            made.append(self)

        return noted

    def __getitem__(self, name):
        (found,) = [each for each in self.all if (each.elem_id or "").endswith(f"_{name}")]
        return found


def test_the_accordion_says_in_a_sentence_what_to_leave_alone(a1111, monkeypatch):
    page = Elements(a1111, monkeypatch)
    assert (
        page["advice"].value == "Leave this closed: the defaults are right."
        and page["accordion"].given["open"] is False
    )
    assert page["preset"].value == "Fast" and page["preset"].given["choices"] == [
        *PRESETS,
        "Custom",
    ]
    more = [field for field in CONTROLS if field.rare]
    assert [field.key for field in more] == [
        field.key for field in FIELDS if field.rare and field.key not in NOT_ASKED
    ]
    assert page["more"].given["open"] is False


def test_what_a_person_changes_counts_and_has_a_name(a1111, monkeypatch):
    page = Elements(a1111, monkeypatch)
    page["order"].happens("input", 2)
    assert page["enable"].value is True and page["preset"].value == "Custom"
    page["preset"].happens("input", "Fast")
    assert page["order"].value == Settings().order and page["preset"].value == "Fast"
    page = Elements(a1111, monkeypatch)
    page["strength"].happens("input", "noise level")
    assert page["enable"].value is True and page["preset"].value == "Fast"


def test_what_has_no_effect_is_grey(a1111, monkeypatch):
    page = Elements(a1111, monkeypatch)
    assert (
        page["response"].given["interactive"] is True and page["modes"].given["interactive"] is True
    )
    page["corrector"].happens("input", 0)
    page["power"].happens("input", "zero")
    assert (
        page["response"].given["interactive"] is False
        and page["modes"].given["interactive"] is False
    )
    page["corrector"].happens("input", 1)
    assert page["response"].given["interactive"] is True
    page = Elements(a1111, monkeypatch, script="RefineAccordion")
    of_actions, of_noise = (
        ("strength", "strength_decay", "antithetic", "undo"),
        ("calls", "noise_scale", "floor", "same"),
    )
    assert [page[key].given["interactive"] for key in of_actions] == [False] * 4
    assert [page[key].given["interactive"] for key in of_noise] == [True] * 4
    page["generators"].happens("input", "shifts")
    page["tolerance"].happens("input", 0.5)
    assert [page[key].given["interactive"] for key in of_actions] == [True] * 4
    assert [page[key].given["interactive"] for key in of_noise] == [True, True, False, True]
    page["noise"].happens("input", 0.0)
    assert [page[key].given["interactive"] for key in of_noise] == [False] * 4


@pytest.mark.parametrize("script", ["IsdoScript", "RefineAccordion", "RefineScript"])
def test_untouched_controls_follow_the_settings_and_a_button_puts_them_back(
    a1111, monkeypatch, script
):
    prefix, key, other = (
        ("isdo", "order", "corrector")
        if script == "IsdoScript"
        else ("isdo_refine", "lock", "iterations")
    )
    page = Elements(a1111, monkeypatch, True, script)
    page[other].happens("input", 3)
    setattr(a1111.opts, f"{prefix}_{key}", 2)
    setattr(a1111.opts, f"{prefix}_{other}", 2)
    page["follow"].happens("click")
    assert page[key].value == 2 and page[other].value == 3  # what a person set stays
    page["defaults"].happens("click")
    assert page[key].value == page[other].value == 2
    setattr(a1111.opts, f"{prefix}_{other}", 1)
    page["follow"].happens("click")
    assert page[other].value == 1


def test_settings_defaults_saves_neither_ticks_nor_values(a1111, monkeypatch):
    for script in ("IsdoScript", "RefineAccordion", "RefineScript"):
        page = Elements(a1111, monkeypatch, True, script)
        kept = [
            each.elem_id for each in page.all if not getattr(each, "do_not_save_to_config", False)
        ]
        assert all(name.endswith(("_accordion", "_more", "_advice", "_notice")) for name in kept)


def test_the_settings_pages_have_a_heading_and_their_help(a1111):
    assert sys.modules["modules.options"].categories.mapping == {"isdo": "ISDO"}
    for form in (CONTROLS, REFINE_CONTROLS):
        for field in form:
            label = a1111.opts.labels.get(
                f"{'isdo' if form is CONTROLS else 'isdo_refine'}_{field.key}"
            )
            if len(field.choices) != 1:
                assert label.category_id == "isdo" and label.component_args["info"] == field.help
    with Host(schedules=False).running() as older:  # a host that has no headings
        older.load()
        older.ui()
        assert older.opts.labels["isdo_order"].category_id is None


def test_every_setting_has_an_axis(a1111):
    plot = SimpleNamespace(
        axis_options=[], AxisOption=sys.modules["hostdouble"].AxisOption, Script=Plot
    )
    a1111.scripts_data += [SimpleNamespace(module=plot), SimpleNamespace(module=SimpleNamespace())]
    a1111.ui()
    axes = {axis.label: axis for axis in plot.axis_options}
    assert list(axes) == [
        "[ISDO] Preset", *(f"[ISDO] {field.label}" for field in CONTROLS),
        *(f"[ISDO refine] {field.label}" for field in REFINE_CONTROLS)
    ]  # fmt: skip
    axis = axes["[ISDO] Order"]
    p = picture()
    values = [2, Settings().order]
    cells = [
        SimpleNamespace(**vars(p)) for _ in range(2)
    ]  # shallow copies that share the infotext's parameters
    for cell, value in zip(cells, values, strict=True):
        axis.apply(cell, axis.type(value), values)
    a1111.generate(cells[0])
    assert told(p) == {"ISDO order": 2}
    a1111.generate(cells[1])
    assert told(p) == {} and not hasattr(p, "isdo_axes")
    axes["[ISDO] Path"].confirm(p, axes["[ISDO] Path"].choices())
    with pytest.raises(HTTPException, match="order is 9"):
        axis.confirm(p, [2, 9])


def test_the_presets_have_an_axis(a1111):
    plot = SimpleNamespace(
        axis_options=[], AxisOption=sys.modules["hostdouble"].AxisOption, Script=Plot
    )
    a1111.scripts_data += [SimpleNamespace(module=plot)]
    a1111.opts.isdo_draw = 3  # a preset means the same whatever the Settings page says
    a1111.ui()
    (axis,) = [axis for axis in plot.axis_options if axis.label == "[ISDO] Preset"]
    assert axis.choices() == list(PRESETS)
    axis.confirm(p := picture(), axis.choices())
    for name, changed in PRESETS.items():
        axis.apply(cell := SimpleNamespace(**vars(p)), axis.type(name), axis.choices())
        a1111.generate(cell)
        said = {key: value for key, value in told(p).items() if key != "ISDO calls"}
        assert said == {SAMPLER.by_key[key].infotext: value for key, value in changed.items()}
    with pytest.raises(HTTPException, match="preset is 'Slow': choose one of Fast"):
        axis.confirm(p, ["Fast", "Slow"])


class Plot:
    """The X/Y/Z plot's script, which makes its list when its controls are made."""

    def __init__(self):
        self.current_axis_options = []


@pytest.mark.parametrize("name", ["Script", "XYZ"])  # Forge Classic's class is XYZ
def test_without_a_page_the_axes_are_there_too(a1111, name):
    """--nowebui: the plot has made its list before the page would have been."""
    axis_option = sys.modules["hostdouble"].AxisOption
    plot = SimpleNamespace(axis_options=[], AxisOption=axis_option, **{name: Plot})
    a1111.scripts_data += [SimpleNamespace(module=plot)]
    made = [Plot(), Plot()]
    a1111.modules["modules.scripts"].scripts_txt2img = SimpleNamespace(scripts=[object(), made[0]])
    a1111.modules["modules.scripts"].scripts_img2img = SimpleNamespace(scripts=[made[1]])
    for _ in range(2):
        for begin in a1111.callbacks["on_app_started"]:
            begin(None, App(None))
    for axes in (plot.axis_options, made[0].current_axis_options, made[1].current_axis_options):
        assert len(axes) == len(CONTROLS) + len(REFINE_CONTROLS) + 1


class App:
    """FastAPI's routes as the host has them when the application has started."""

    def __init__(self, endpoint):
        host_s = SimpleNamespace(path="/sdapi/v1/txt2img", dependant=SimpleNamespace(call=endpoint))
        self.routes = [SimpleNamespace(path="/"), host_s]

    def add_api_route(self, path, endpoint, methods):
        self.routes.append(SimpleNamespace(path=path, endpoint=endpoint, methods=methods))


def test_the_api_describes_itself_and_checks_once(a1111):
    app = App(lambda body: body.alwayson_scripts)
    (started,) = a1111.callbacks["on_app_started"]
    started(None, app)
    started(None, app)
    paths = [route.path for route in app.routes]
    assert paths == [
        "/",
        "/sdapi/v1/txt2img",
        "/isdo/v1/version",
        "/isdo/v1/schema",
        "/isdo/v1/calls",
    ]
    assert (
        app.routes[2].endpoint()["name"] == "ISDO"
        and app.routes[3].endpoint()["args"][0] == "enabled"
    )
    call = app.routes[1].dependant.call
    assert not hasattr(call.isdo_inside, "isdo_inside")
    for args in ([True, None, None, None, 2], [{"order": 2}], {"order": 2}):
        assert call(SimpleNamespace(alwayson_scripts={"isdo": {"args": args}})) == {
            "isdo": {"args": [{"enabled": True, "order": 2}]}
        }
    assert call(body=SimpleNamespace(alwayson_scripts={"isdo": {"args": []}})) == {
        "isdo": {"args": [{"enabled": False}]}
    }
    other = {"Other": {"args": [1]}}
    assert call(SimpleNamespace(alwayson_scripts=other)) == {"Other": {"args": [1]}}
    assert call(SimpleNamespace(alwayson_scripts=None)) is None
    many = [True] * (len(CONTROLS) + 2)
    for wrong in (
        {"order": 2},
        {"args": 2},
        [2],
        {"args": [True, "euler"]},
        {"args": many},
        {"args": [], "more": 1},
    ):
        with pytest.raises(HTTPException) as said:
            call(SimpleNamespace(alwayson_scripts={"ISDO": wrong}))
        assert said.value.status_code == 422 and said.value.detail
    for wrong, says in (
        ({"ISDO": {"args": [{"order": 2}, 3]}}, "1 arguments after a mapping"),
        ({"ISDO": {"args": [{"order": 2}, None, None]}}, "2 arguments after a mapping"),
        ({"ISDO": {"args": [{"ordr": None}]}}, "no setting ordr"),
        ({"ISDO": {"args": {"enabled": False, "ordr": None}}}, "no setting ordr"),
        (
            {"ISDO": {"args": [{"order": 2}]}, "isdo": {"args": [{"order": 3}]}},
            "there 2 times, as ISDO, isdo",
        ),
        ({"ISDO": {"args": [{"preset": "Slow"}]}}, "preset is 'Slow': choose one of Fast"),
    ):
        with pytest.raises(HTTPException, match=says) as said:
            call(SimpleNamespace(alwayson_scripts=wrong))
        assert said.value.status_code == 422
    got = call(
        SimpleNamespace(
            alwayson_scripts={"ISDO": {"args": {"preset": "Fast", "order": 3, "tau": None}}}
        )
    )
    assert got == {"ISDO": {"args": [{"enabled": True, "draw": 0, "tolerance": 0.0, "order": 3}]}}
    assert app.routes[3].endpoint()["presets"] == PRESETS


@pytest.mark.parametrize("steps, scale", [(4, 1.0), (8, 2.0), (9, 1.0), (8, 2.5)])
def test_few_steps_without_guidance_stay_where_a_distilled_model_was_trained(a1111, steps, scale):
    """And the infotext says so, as if one had asked for it; what one asks for counts."""
    asked, told = {}, {}
    for own in ({}, {"placement": 0.5}, {"placement": 0}):
        p = picture(steps=steps, scheduler="Karras", cfg_scale=scale)
        a1111.generate(p, [own])
        placement = own.get("placement")
        asked[placement] = [call.sigma for call in a1111.seen]
        told[placement] = p.extra_generation_params.get("ISDO placement")
    distilled = steps <= 8 and scale <= 2
    assert told == {None: 0.0 if distilled else None, 0.5: 0.5, 0: 0.0}
    assert (asked[None] == asked[0]) == distilled and asked[0.5] != asked[0]


@pytest.mark.parametrize("scale", [1.0, 4.0, 7.0, 12.0])
def test_the_host_s_cfg_scale_says_where_calls_go(a1111, scale):
    def asked(**own):
        a1111.generate(picture(steps=9, scheduler="Karras", cfg_scale=scale), [own])
        return [call.sigma for call in a1111.seen]

    given, low = [*asked(placement=0), 0.0], float(a1111.seen[-1].sigma)
    assert asked() == pytest.approx(reposition(given, 1.0, low, guidance=scale)[:-1], rel=1e-4)
    assert (asked() == pytest.approx(reposition(given, 1.0, low)[:-1], rel=1e-4)) is (scale == 1)
