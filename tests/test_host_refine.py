"""ISDO refine in a double of the WebUIs: what comes out, what it costs, what it leaves behind, and
how it ends early."""

import copy
import sys
from types import SimpleNamespace

import pytest
import torch
from hostdouble import Host, HTTPException, ImageRNG, Script, asked, sample_sde

import isdo
from isdo.hosts.request import REFINE, REFINE_CONTROLS, SAMPLER
from isdo.refinement import SEED_OFFSET

KINDS = {
    "a1111": {}, "a1111 1.8": {"schedules": False}, "forge": {"forge": True},
    "forge flow": {"forge": True, "prediction": "const"},
}  # fmt: skip
ON = {"refine": [True]}


def started(**kind):
    """Return a host with samplers of every sort."""
    return Host(more_samplers=True, **kind)


@pytest.fixture(params=KINDS)
def host(request):
    with started(**KINDS[request.param]).running() as host:
        host.load()
        host.ui()
        yield host


@pytest.fixture
def a1111():
    with started().running() as host:
        host.load()
        host.ui()
        yield host


def draw(host, p, **args):
    """Draw p whole; return latents, the p and what the host was told."""
    host.ask(p, p.kind == "img2img", **args)
    processed = host.process_images(p)
    assert [error for error in host.reported if isinstance(error, Exception)] == []
    return SimpleNamespace(
        x=torch.stack([image.data for image in processed.images]),
        p=p,
        texts=processed.infotexts,
        calls=list(host.seen),
    )


def script(host, p, *args):
    """Run the script of the dropdown on p."""
    host.ask(p, True)
    (found,) = [each for each in p.scripts if not each.alwayson and each.title() == "ISDO refine"]
    processed = found.run(p, *args)
    x = torch.stack([image.data for image in processed.images])
    return SimpleNamespace(
        x=x, p=p, texts=processed.infotexts, calls=list(host.seen), processed=processed
    )


def ours(params):
    return {key: value for key, value in params.items() if key in REFINE.infotext_keys}


class Model:
    """The double's wrapper as a plain denoiser."""

    def __init__(self, host):
        self.inner_model = host.wrap()

    def __call__(self, x, sigma):
        return self.inner_model.denoise(x, sigma)


def by_hand(host, x, seeds, mask=None, pictures=None, **settings):
    """Refine latents as Python would, with the noise of the WebUI's own generators."""
    rng = ImageRNG(x.shape[1:], [seed + SEED_OFFSET for seed in seeds])
    keep = None if pictures is None else lambda state: pictures.append(state["x"])
    refined = isdo.refine(
        Model(host), x, callback=keep, disable=True, settings=isdo.RefineSettings(**settings), mask=mask,
        noise=lambda like: rng.next(),
    )  # fmt: skip
    return refined.x


# ------------------------------------------------------------------------------------------------------ what comes out


def test_one_accordion_in_both_tabs_and_one_script_in_img2img(host):
    for img2img in (False, True):
        found = [each for each in host.runner(img2img) if each.title() == "ISDO refine"]
        assert [each.alwayson for each in found] == (
            [True, False] if img2img else [True]
        )  # the API takes the first


def test_it_is_off_until_it_is_asked_for(host):
    plain = draw(host, asked(steps=12))
    assert len(plain.calls) == 12 and ours(plain.texts[0]) == {}
    again = draw(host, asked(steps=12), refine=[False, 9])
    assert torch.equal(plain.x, again.x) and ours(again.texts[0]) == {}


def test_the_accordion_refines_the_finished_latents(host):
    plain = draw(host, asked(steps=12, batch_size=2))
    got = draw(host, asked(steps=12, batch_size=2), **ON)
    assert torch.equal(got.x, by_hand(host, plain.x, [1, 2])) and not torch.equal(got.x, plain.x)
    assert ours(got.texts[0]) == {"ISDO refine": "4 iterations, 12 calls"} and len(got.calls) == 24


def test_the_script_refines_the_picture_that_is_given(host):
    p = asked("img2img", steps=12)
    before = {**vars(p), "script_args": None, "scripts": None}
    got = script(host, p)
    assert torch.equal(got.x, by_hand(host, p.init_images, [1]))
    assert (
        len(got.calls) == 12
        and got.texts[0]["Script"] == "ISDO refine"
        and got.texts[0]["Steps"] == 12
    )
    assert ours(got.texts[0]) == {"ISDO refine": "4 iterations, 12 calls"}
    assert {**vars(p), "script_args": None, "scripts": None} == before  # a copy was worked on
    assert p.extra_generation_params == {}


def test_the_values_reach_the_refinement(host):
    values = {
        "iterations": 3,
        "calls": 2,
        "noise": 0.5,
        "generators": "shifts",
        "lock": 4,
        "tolerance": 0.001,
        "floor": 0.0,
    }
    p = asked("img2img", steps=4)
    got = script(host, p, values)
    assert torch.equal(got.x, by_hand(host, p.init_images, [1], **values))
    accordion = draw(host, asked(steps=6), refine=[values])
    plain = draw(host, asked(steps=6))
    assert torch.equal(accordion.x, by_hand(host, plain.x, [1], **values))
    told = {REFINE.by_key[key].infotext: value for key, value in values.items()}
    assert ours(accordion.texts[0]) == {**told, "ISDO refine": "3 iterations, 6 calls"}


def test_the_settings_page_counts_where_the_picture_says_nothing(a1111):
    a1111.opts.isdo_refine_noise = 0.5
    got = draw(a1111, asked(steps=12), **ON)
    assert ours(got.texts[0])["ISDO refine noise"] == 0.5
    assert ours(draw(a1111, asked(steps=12), refine=[{"noise": 1.0}]).texts[0]) == {
        "ISDO refine": "4 iterations, 12 calls"
    }
    p = asked("img2img", steps=12, override_settings={"isdo_refine_noise": 0.25, "other": 1})
    assert ours(script(a1111, p).texts[0])["ISDO refine noise"] == 0.25


def test_pictures_do_not_know_their_neighbours(host):
    together = draw(host, asked(steps=12, batch_size=2, n_iter=2, seed=5), **ON)
    assert len(together.x) == 4 and len(together.calls) == 48
    for i, picture in enumerate(together.x):
        assert torch.equal(draw(host, asked(steps=12, seed=5 + i), **ON).x[0], picture)
    refined = script(host, asked("img2img", batch_size=2, steps=12, seed=5))
    assert torch.equal(refined.x[1], script(host, asked("img2img", steps=12, seed=6)).x[0])
    assert not torch.equal(*refined.x)  # the same picture, other noise


def test_img2img_is_refined_after_its_own_pass(host):
    p = asked("img2img", steps=20, denoising_strength=0.6)
    plain = draw(host, p)
    got = draw(host, asked("img2img", steps=20, denoising_strength=0.6), **ON)
    assert len(plain.calls) == 13 and torch.equal(got.x, by_hand(host, plain.x, [1]))
    assert [call.image_cond.item() for call in got.calls] == [
        1
    ] * 25  # img2img's own, for checkpoints that look at it


def test_hires_is_refined_after_the_second_pass_and_once(host):
    ask = {"steps": 8, "enable_hr": True, "hr_second_pass_steps": 6, "denoising_strength": 0.6}
    plain, got = draw(host, asked(**ask)), draw(host, asked(**ask), **ON)
    assert len(plain.calls) == 14 and len(got.calls) == 26
    assert torch.equal(got.x, by_hand(host, plain.x, [1]))
    assert ours(got.texts[0]) == {"ISDO refine": "4 iterations, 12 calls"}


def test_the_sampler_isdo_and_the_refinement_go_together(host):
    plain = draw(host, asked(steps=12, sampler_name="ISDO"), sampler=[{"order": 2}])
    got = draw(host, asked(steps=12, sampler_name="ISDO"), sampler=[{"order": 2}], **ON)
    assert torch.equal(got.x, by_hand(host, plain.x, [1]))
    assert (
        got.texts[0]["ISDO order"] == 2 and got.texts[0]["ISDO refine"] == "4 iterations, 12 calls"
    )


@pytest.mark.parametrize("face", [draw, script])
def test_a_host_in_half_precision_runs_its_model_in_it_and_our_numbers_in_full(face):
    """AUTOMATIC1111's way; a lock of half precision would let the mean of a channel go."""
    with started(half=True).running() as host:
        host.load()
        p = asked("img2img", steps=12, denoising_strength=0.99)
        start = draw(host, p).x if face is draw else p.init_images
        got = face(host, p, **ON) if face is draw else face(host, p)
        assert torch.equal(got.x, by_hand(host, start, [1]))
        assert all(call.half for call in got.calls)


class Table:
    """A checkpoint's noise levels, which its host may change."""

    def __init__(self):
        self.sigmas = self.usual = torch.ones(2)

    def set_sigmas(self, sigmas):
        self.sigmas = sigmas


@pytest.mark.parametrize("name", ["predictor", "model_sampling"])
def test_the_model_has_the_noise_levels_that_it_drew_with(name, monkeypatch):
    with started(forge=True).running() as host:
        host.load()
        table, changed, found = Table(), torch.zeros(2), []
        unet = SimpleNamespace(model=SimpleNamespace(**{name: table}))
        p = asked(steps=12, sd_model=SimpleNamespace(forge_objects=SimpleNamespace(unet=unet)))
        sample, refined = host.sample, sys.modules["isdo.hosts.refinement"].Counted.__call__

        def with_other_levels(p, hook):
            table.set_sigmas(changed)
            samples = sample(p, hook)
            table.set_sigmas(table.usual)
            return samples

        def looked_at(self, *args, **kwargs):
            found.append(table.sigmas is changed)
            return refined(self, *args, **kwargs)

        monkeypatch.setattr(host, "sample", with_other_levels)
        monkeypatch.setattr(sys.modules["isdo.hosts.refinement"].Counted, "__call__", looked_at)
        draw(host, p, **ON)
        assert found == [True] * 12 and table.sigmas is table.usual


# ----------------------------------------------------------------------------------------------------------- what it costs


@pytest.mark.parametrize(
    ("steps", "calls"), [(1, 1), (2, 2), (3, 3), (5, 3), (8, 6), (11, 9), (12, 12), (50, 12)]
)
def test_as_it_comes_it_costs_no_more_calls_than_the_picture(host, steps, calls):
    got = draw(host, asked(steps=steps), **ON)
    assert len(got.calls) == steps + calls <= 2 * steps
    assert len(script(host, asked("img2img", steps=steps)).calls) == calls


def test_who_says_how_many_calls_gets_them(a1111):
    assert len(draw(a1111, asked(steps=4), refine=[{"iterations": 5}]).calls) == 4 + 15
    assert len(draw(a1111, asked(steps=4), refine=[{"calls": 4}]).calls) == 4 + 16


def test_both_passes_and_both_calls_of_a_step_count_as_drawn(a1111):
    hires = {"steps": 5, "enable_hr": True, "hr_second_pass_steps": 3, "denoising_strength": 0.6}
    assert ours(draw(a1111, asked(**hires), **ON).texts[0]) == {
        "ISDO refine": "2 iterations, 6 calls"
    }
    again = asked(
        **hires, firstpass_image=object()
    )  # the button that makes hires of a finished picture
    assert sys.modules["isdo.hosts.calls"].passes(again, None) == [("Euler", 3, 3)]
    assert ours(draw(a1111, asked(steps=6, sampler_name="Heun"), **ON).texts[0]) == {
        "ISDO refine": "4 iterations, 12 calls"
    }


@pytest.mark.parametrize(
    "ask",
    [{}, {"n_iter": 2}, {"enable_hr": True, "hr_second_pass_steps": 5, "denoising_strength": 0.5}],
)
def test_the_progress_bar_runs_once_over_everything(host, ask):
    p, seen, bar = asked(steps=12, **ask), [], []

    def step_done(d):
        state = host.state
        seen.append((state.job_no, d["i"]))
        bar.append(
            (state.job_no + d["i"] / state.sampling_steps) / state.job_count
        )  # as the hosts compute it

    host.steps_done = SimpleNamespace(append=step_done, clear=lambda: None)
    draw(host, p, **ON)
    state = host.state
    assert (
        seen == sorted(set(seen)) and state.job_no == state.job_count and state.sampling_steps == 12
    )
    assert bar == sorted(bar) and bar[0] == 0 and bar[-1] < 1
    assert host.total_tqdm.done == host.total_tqdm._tqdm.total == len(seen)


@pytest.mark.parametrize("hires", [False, True])
@pytest.mark.parametrize("after", [2, 14, 16, 20])
def test_one_click_on_interrupt_stops_a_picture_that_is_being_refined(host, hires, after):
    """The host makes of the click "after this picture" wherever it counts more jobs than one; hires
    fix counts two."""
    ask = {"steps": 12, "enable_hr": hires, "hr_second_pass_steps": 2, "denoising_strength": 0.5}
    drawn = len(draw(host, asked(**ask)).calls)
    host.stop_at = after
    got = draw(host, asked(**ask), **ON)
    assert (
        len(got.calls) == after + 1
        and got.x.isfinite().all()
        and not host.reported
        and host.state.interrupted
    )
    assert bool(ours(got.texts[0])) is (after + 1 - drawn >= 3)  # an iteration was finished


def test_a_click_among_several_pictures_lets_this_one_finish(host):
    host.stop_at = 14
    got = draw(host, asked(steps=12, n_iter=2), **ON)
    assert len(got.calls) == 24 and ours(got.texts[0]) == {"ISDO refine": "4 iterations, 12 calls"}


def test_the_progress_bar_of_the_script_runs_once_over_everything(a1111):
    p = asked("img2img", steps=20, n_iter=2)
    script(a1111, p)
    assert a1111.state.job_no == a1111.state.job_count == 2 and a1111.state.sampling_steps == 12
    assert [d["i"] for d in a1111.steps_done] == [*range(12), *range(12)]


def test_the_counter_goes_on_and_the_prompt_stays_the_last_one(host):
    got = draw(host, asked(steps=12), **ON)
    assert [call.step for call in got.calls] == list(range(24))
    assert [call.prompts for call in got.calls] == [["cat"]] * 7 + [["dog"]] * 17
    assert [call.negative for call in got.calls] == [["bad"]] * 4 + [["worse"]] * 20
    assert {call.total for call in got.calls[12:]} == {24}
    assert got.p.c.batch[0][0].schedules == [
        (6, "cat"),
        (12, "dog"),
    ]  # the picture's own are as they were


def test_the_counter_of_the_script_runs_over_all_calls(host):
    got = script(host, asked("img2img", steps=20))
    assert [call.step for call in got.calls] == list(range(12)) and {
        call.total for call in got.calls
    } == {12}
    assert [call.prompts for call in got.calls] == [["cat"]] * 7 + [["dog"]] * 5
    assert got.texts[0]["Steps"] == 20  # as the page had it: its schedule is that of "Use same"


# ------------------------------------------------------------------------------------------------ interrupt, skip, trouble


@pytest.mark.parametrize("after", [12, 14, 15, 17, 18, 23])
def test_interrupted_it_gives_the_last_finished_iteration(host, after):
    plain, pictures = draw(host, asked(steps=12)).x, []
    by_hand(host, plain, [1], pictures=pictures)
    host.interrupt_at = after
    got = draw(host, asked(steps=12), **ON)
    done = (after - 12) // 3
    assert torch.equal(got.x, [plain, *pictures][done])
    said = f"{done} iteration{'s' * (done > 1)}, {after - 12} calls"
    assert ours(got.texts[0]) == ({"ISDO refine": said} if done else {})


def test_interrupted_the_script_gives_the_last_finished_iteration(host):
    p, pictures = asked("img2img", steps=12), []
    by_hand(host, p.init_images, [1], pictures=pictures)
    host.interrupt_at = 7
    assert torch.equal(script(host, p).x, pictures[1])
    host.interrupt_at = 1
    assert torch.equal(script(host, p).x, p.init_images)


def test_interrupted_before_it_began_it_does_not_begin(host):
    host.interrupt_at = 5
    got = draw(host, asked(steps=12), **ON)
    assert (
        len(got.calls) == 6
        and ours(got.texts[0]) == {}
        and got.x.isfinite().all()
        and not host.reported
    )


def test_skip_goes_on_with_the_next_picture(host):
    host.skip_at = 16
    got = draw(host, asked(steps=12, n_iter=2), **ON)
    alone = draw(host, asked(steps=12, seed=2), **ON)
    assert torch.equal(got.x[1:], alone.x)
    assert [ours(text)["ISDO refine"] for text in got.texts] == [
        "1 iteration, 4 calls",
        "4 iterations, 12 calls",
    ]


@pytest.mark.parametrize("hires", [False, True])
def test_a_model_that_gives_nan_costs_the_refinement_and_not_the_picture(host, capsys, hires):
    ask = {"steps": 12, "enable_hr": hires, "denoising_strength": 0.5}
    plain = draw(host, asked(**ask))
    host.nan_at = len(plain.calls) + 8
    got = draw(host, asked(**ask), **ON)
    (said,) = got.p.comments
    assert torch.equal(got.x, plain.x) and ours(got.texts[0]) == {
        "ISDO refine problem": said.removeprefix("ISDO refine: ")
    }
    assert (
        said.startswith("ISDO refine: the picture is as it was before the refinement")
        and "sigma" in said
    )
    assert "(start the WebUI with --no-half)" in said
    assert said in capsys.readouterr().out


def test_somebody_else_s_mistake_costs_the_refinement_and_not_the_picture(a1111, monkeypatch):
    plain = draw(a1111, asked(steps=12, enable_hr=True, denoising_strength=0.5))

    def break_down(self, *args, **kwargs):
        raise KeyError("an extension's")

    monkeypatch.setattr(sys.modules["isdo.hosts.refinement"].Counted, "__call__", break_down)
    got = draw(a1111, asked(steps=12, enable_hr=True, denoising_strength=0.5), **ON)
    assert torch.equal(got.x, plain.x) and a1111.reported == ["Error in ISDO refine"]
    assert ["KeyError" in said for said in got.p.comments] == [True]


def test_bad_values_leave_the_picture_unrefined_and_say_so(host, capsys):
    plain = draw(host, asked(steps=12))
    got = draw(host, asked(steps=12), refine=[{"iterations": -1}])
    (said,) = got.p.comments
    assert torch.equal(got.x, plain.x) and not host.reported
    assert ours(got.texts[0]) == {"ISDO refine problem": said.removeprefix("ISDO refine: ")}
    assert (
        said
        == "ISDO refine: the picture is not refined. iterations is -1: give a whole number from 0 to 500"
    )
    assert said in capsys.readouterr().out
    with pytest.raises(HTTPException, match="iterations is -1") as said:
        script(host, asked("img2img"), {"iterations": -1})
    assert said.value.status_code == 422
    host.opts.isdo_refine_lock = 99
    with pytest.raises(HTTPException, match="Settings > ISDO refine: lock is 99"):
        script(host, asked("img2img"))


def test_nothing_to_do_does_nothing(host):
    plain = draw(host, asked(steps=12))
    none = draw(host, asked(steps=12), refine=[{"iterations": 0}])
    assert torch.equal(none.x, plain.x) and len(none.calls) == 12 and ours(none.texts[0]) == {}
    silent = draw(host, asked(steps=12), refine=[{"noise": 0.0}])
    assert torch.equal(silent.x, plain.x) and len(silent.calls) == 12


# ---------------------------------------------------------------------------------------------------------------- masks


def masked(**changes):
    nmask = torch.zeros(4, 8, 8)
    nmask[:, 2:6, 2:6] = 1
    return asked("img2img", nmask=nmask, mask=1 - nmask, steps=12, **changes)


def test_kept_pixels_stay_bit_for_bit(host):
    for got in (script(host, masked()), draw(host, masked(denoising_strength=0.99), **ON)):
        kept = got.p.mask.bool()
        assert torch.equal(got.x[0][kept], got.p.init_images[0][kept])
        assert (got.x[0][~kept] - got.p.init_images[0][~kept]).abs().mean() > 0.01
    assert [call.masked is None for call in got.calls] == [False] * 12 + [True] * 12


def test_the_mask_is_the_refinement_s(host):
    p = masked()
    held = by_hand(host, p.init_images, [1], mask=p.nmask)
    assert torch.equal(script(host, p).x, held * p.nmask + p.init_images * p.mask)
    assert p.mask is not None and p.nmask is not None


# --------------------------------------------------------------------------------------------------- other extensions


class Detailer(Script):
    """Makes another picture of each finished one: ``how`` gets it a p."""

    alwayson, args_from, args_to = True, 0, 0

    def __init__(self, host, how):
        self.host, self.how, self.seen = host, how, []

    def postprocess_image(self, p, pp):
        if p.outpath_samples == "detail":
            return
        before = len(self.host.seen)
        pp.image = self.host.process_images(self.how(p)).images[0]
        self.seen.append(len(self.host.seen) - before)


def fresh(p):
    return asked(
        "img2img", steps=10, denoising_strength=0.5, scripts=p.scripts, script_args=copy.deepcopy(p.script_args),
        outpath_samples="detail",
    )  # fmt: skip


def copied(p):
    q = copy.copy(p)
    q.extra_generation_params, q.outpath_samples, q.n_iter = {}, "detail", 1
    return q


@pytest.mark.parametrize("face", ["accordion", "script"])
@pytest.mark.parametrize(("how", "calls"), [(fresh, 6), (copied, 12)])
def test_a_detailer_after_it_draws_its_parts_unrefined(a1111, how, calls, face):
    p = asked("img2img", steps=12, denoising_strength=0.99, n_iter=2)
    a1111.ask(p, True, refine=[True])
    detailer = Detailer(a1111, how)
    p.scripts.append(detailer)
    if face == "script":
        (found,) = [
            each for each in p.scripts if not each.alwayson and each.title() == "ISDO refine"
        ]
        processed = found.run(p)
    else:
        processed = a1111.process_images(p)
    assert detailer.seen == [calls, calls] and not a1111.reported
    assert [text["ISDO refine"] for text in processed.infotexts] == ["4 iterations, 12 calls"] * 2


def test_the_same_p_again_is_refined_again(a1111):
    p = asked("img2img", steps=12, denoising_strength=0.99)
    first = draw(a1111, p, **ON)
    args = p.script_args
    again = a1111.process_images(p)
    assert (
        torch.equal(first.x[0], again.images[0].data)
        and p.script_args == args
        and args[p.scripts[1].args_from] is True
    )
    assert p.isdo_refining is None

    def broken(p, hook):
        raise KeyError

    sample, a1111.sample = a1111.sample, broken
    with pytest.raises(KeyError):
        a1111.process_images(p)
    a1111.sample = sample
    assert torch.equal(first.x[0], a1111.process_images(p).images[0].data) and p.script_args == args


# ------------------------------------------------------------------------------------------------ the picture's own sampler


def test_use_same_sampler_keeps_the_budget_and_the_pace(host):
    def refined(name, **values):
        got = draw(host, asked(steps=12, sampler_name=name), refine=[{"same": True, **values}])
        assert (
            got.x.isfinite().all()
            and not got.p.comments
            and ours(got.texts[0])["ISDO refine same sampler"] is True
        )
        return got.x, [call.sigma for call in got.calls][12 if name != "Heun" else 23 :]

    for name in ("Euler", "Heun", "SDE", "ISDO"):
        for calls in (2, 3, 7):
            x, sigmas = refined(name, calls=calls)
            assert 4 <= len(sigmas) <= 4 * calls
            assert len(sigmas) >= 4 * calls - (4 if name != "Heun" else 8)
    euler, paced = refined("Euler", floor=0.0)
    karras = [call.sigma for call in draw(host, asked(steps=12)).calls]
    start = next(i for i, sigma in enumerate(karras) if sigma < paced[0])
    isdo_s, curved = refined("ISDO", floor=0.0)
    assert paced[0] == curved[0] and not torch.equal(euler, isdo_s)
    assert paced[:3] == pytest.approx(
        isdo.schedules.rest(torch.tensor([*karras, 0.0]), paced[0], 3).tolist()[:3], rel=1e-4
    )
    assert 0 < start < 12


def test_same_sampler_isdo_means_with_its_settings(a1111):
    ask = asked(steps=12, sampler_name="ISDO")
    with_order = draw(
        a1111, copy.copy(ask), sampler=[{"order": 1}], refine=[{"same": True, "noise": 0.5}]
    )
    plain = draw(a1111, copy.copy(ask), sampler=[{"order": 1}])
    rng = ImageRNG(plain.x.shape[1:], [1 + SEED_OFFSET])
    sampler = a1111.create("ISDO")
    sigmas = (
        sampler.get_sigmas(asked(steps=12, scheduler="Karras"), 12)
        if sampler.begin(ask) is None
        else None
    )
    settings = isdo.RefineSettings(noise=0.5)
    expected = isdo.refine(
        Model(a1111), plain.x, disable=True, settings=settings, noise=lambda x: rng.next(), sampler=isdo.Settings(order=1),
        sigmas=sigmas,
    ).x  # fmt: skip
    assert torch.equal(with_order.x, expected)


def test_noise_of_a_stochastic_sampler_is_the_picture_s_own(a1111):
    together = draw(
        a1111, asked(steps=12, sampler_name="SDE", batch_size=2), refine=[{"same": True}]
    )
    alone = draw(a1111, asked(steps=12, sampler_name="SDE", seed=2), refine=[{"same": True}])
    assert torch.equal(together.x[1], alone.x[0])
    plain = draw(a1111, asked(steps=12, sampler_name="SDE", seed=2))
    rng, sigmas = (
        ImageRNG(plain.x.shape[1:], [2 + SEED_OFFSET]),
        [call.sigma for call in plain.calls],
    )

    def by_sde(model, x, sigmas, extra_args, callback, disable):
        return sample_sde(model, x, sigmas, {}, callback, disable, lambda *_: rng.next(), "heun")

    expected = isdo.refine(
        Model(a1111),
        plain.x,
        disable=True,
        noise=lambda x: rng.next(),
        sampler=by_sde,
        sigmas=torch.tensor([*sigmas, 0.0]),
    ).x
    assert torch.equal(alone.x, expected)


def test_what_the_host_s_sampler_notes_of_its_own_pass_is_not_told(a1111):
    got = script(a1111, asked("img2img", steps=12), {"same": True})
    assert "Schedule type" not in got.texts[0]  # nor extra noise, nor whatever else was not done


def test_a_sampler_without_a_schedule_is_refused_in_words(a1111, monkeypatch):
    p = asked("img2img", steps=12, sampler_name="DPM fast")
    got = script(a1111, p, {"same": True})
    assert torch.equal(got.x, p.init_images) and not got.calls
    assert ['"Use same sampler" off' in said for said in got.processed.p.comments] == [True]


# -------------------------------------------------------------------------------------------------- pictures in between


@pytest.mark.parametrize("values", [{"show": True}, {"save": True}, {"show": True, "save": True}])
def test_pictures_in_between_are_shown_and_saved(a1111, values):
    p = asked("img2img", steps=12, batch_size=2)
    pictures = []
    by_hand(a1111, p.init_images, [1, 2], pictures=pictures)
    got = script(a1111, p, values)
    between = [latents[i] for latents in pictures[:-1] for i in range(2)]
    shown = got.x[2:]
    assert len(shown) == len(got.texts) - 2 == (6 if values.get("show") else 0)
    assert all(torch.equal(a, b) for a, b in zip(shown, between, strict=False))
    assert len(a1111.saved) == 2 + (6 if values.get("save") else 0)
    for (image, seed, text, name), i in zip(a1111.saved[2:], range(6), strict=False):
        assert torch.equal(image.data, between[i]) and seed == 1 + i % 2
        assert (
            name == f"out/{i % 2:05}-{seed}-refine-{i // 2 + 1}.png"
        )  # the number of the finished one
        assert text["ISDO refine"] == "4 iterations, 12 calls" and image.info["parameters"] == text


def test_nothing_is_saved_where_finished_pictures_are_not(a1111):
    script(a1111, asked("img2img", steps=12, do_not_save_samples=True), {"save": True})
    assert not a1111.saved


# ------------------------------------------------------------------------------------------------------- infotext and page


def test_no_key_of_ours_reaches_the_next_picture(a1111):
    shared = {"Other": 1}
    first = draw(a1111, asked(steps=12, extra_generation_params=shared), refine=[{"noise": 0.5}])
    assert ours(shared) and first.texts[0]["Other"] == 1
    cell = draw(a1111, asked(steps=12, extra_generation_params=shared))
    assert ours(cell.texts[0]) == {} and shared == {"Other": 1, "Schedule type": "Karras"}


def refiners(host, img2img):
    """Return the accordion, and in img2img the script."""
    return [page for page in host.runner(img2img) if page.title() == "ISDO refine"]


def pasted(page, params):
    return [function(params) for _, function in page.infotext_fields]


def test_pasting_restores_the_accordion_or_the_script(a1111):
    accordion, chosen = refiners(a1111, True)
    defaults = [field.default for field in REFINE_CONTROLS]
    nothing = [None] * len(REFINE_CONTROLS)
    assert (
        pasted(accordion, {"Sampler": "Euler"}) == [False, *nothing, ""]
        and pasted(chosen, {}) == nothing
    )
    ran = {"ISDO refine": "4 iterations, 12 calls"}
    assert pasted(accordion, ran) == [True, *defaults, ""] and pasted(chosen, ran) == nothing
    assert pasted(accordion, {**ran, "Script": "X/Y/Z plot"}) == [True, *defaults, ""]
    by_script = {
        **ran,
        "Script": "ISDO refine",
        "ISDO refine noise": "0.5",
        "ISDO refine same sampler": "True",
    }
    assert pasted(accordion, by_script) == [False, *nothing, ""]
    changed = {**REFINE.defaults, "noise": 0.5, "same": True}
    assert pasted(chosen, by_script) == list(changed.values())
    assert pasted(accordion, {**ran, "ISDO refine lock": "99", "ISDO refine noise": "0.5"})[:4] == [
        True,
        4,
        3,
        0.5,
    ]


def test_what_was_written_comes_back(a1111):
    values = {
        "iterations": 2,
        "generators": "all",
        "antithetic": False,
        "undo": False,
        "same": True,
        "show": True,
    }
    text = {
        key: str(value)
        for key, value in draw(a1111, asked(steps=3), refine=[values]).texts[0].items()
    }
    assert REFINE.read(text) == {**REFINE.defaults, **values}
    assert SAMPLER.read(text) is None


def test_the_page_has_a_control_for_every_setting(host):
    seen = []
    for img2img in (False, True):
        for page in refiners(host, img2img):
            controls = page.controls[1:] if page.alwayson else page.controls
            assert [control.label for control in controls] == [
                field.label for field in REFINE_CONTROLS
            ]
            assert [control.value for control in controls] == [
                field.default for field in REFINE_CONTROLS
            ]
            assert all(
                control.given["info"] == field.help
                for control, field in zip(controls, REFINE_CONTROLS, strict=True)
            )
            assert not page.alwayson or page.controls[0].value is False
            seen += [control.elem_id for control in page.controls]
    assert len(set(seen)) == len(seen)


def axes(host):
    plot = SimpleNamespace(
        axis_options=[], AxisOption=sys.modules["hostdouble"].AxisOption, Script=Script
    )
    host.scripts_data.append(SimpleNamespace(module=plot))
    host.ui()
    return {axis.label: axis for axis in plot.axis_options}


def test_an_axis_sets_its_cell_and_switches_refinement_on(a1111):
    found = axes(a1111)
    p = asked(steps=12)
    for value, said in (
        ("2", "2 iterations, 6 calls"),
        ("0", None),
        ("4", "4 iterations, 12 calls"),
    ):
        cell, axis = copy.copy(p), found["[ISDO refine] Iterations"]
        axis.apply(cell, axis.type(value), [2, 0, 4])
        assert ours(draw(a1111, cell).texts[0]).get("ISDO refine") == said
    assert not hasattr(p, "isdo_refine_axes")
    axis = found["[ISDO refine] Undo the action"]
    assert axis.choices() == ["True", "False"]
    axis.confirm(p, ["True", "False"])
    cell = copy.copy(p)
    axis.apply(cell, axis.type("False"), ["False"])
    assert ours(draw(a1111, cell, refine=[{"noise": 0.5}]).texts[0])["ISDO refine undo"] is False
    with pytest.raises(HTTPException, match="undo is 'perhaps'"):
        axis.confirm(p, ["perhaps"])


# -------------------------------------------------------------------------------------------------------------- the API


@pytest.fixture
def ask_api(a1111):
    """Return what the host's endpoint gets of a request."""
    route = SimpleNamespace(
        path="/sdapi/v1/img2img", dependant=SimpleNamespace(call=lambda body: body)
    )
    app = SimpleNamespace(routes=[route], add_api_route=lambda *args, **kwargs: None)
    for begin in a1111.callbacks["on_app_started"]:
        begin(None, app)
    return lambda **body: route.dependant.call(SimpleNamespace(**{"alwayson_scripts": None} | body))


def test_the_api_takes_few_arguments_or_names(ask_api):
    for args in (
        [True, 4, None, 0.5],
        [{"iterations": 4, "noise": 0.5}],
        {"iterations": 4, "noise": 0.5},
    ):
        got = ask_api(alwayson_scripts={"isdo refine": {"args": args}}).alwayson_scripts
        assert got == {"isdo refine": {"args": [{"enabled": True, "iterations": 4, "noise": 0.5}]}}
    for args in (
        [4, None, 0.5],
        [{"iterations": 4, "noise": 0.5}],
        {"iterations": 4, "noise": 0.5},
    ):
        got = ask_api(script_name="isdo refine", script_args=args).script_args
        assert got == [{"iterations": 4, "noise": 0.5}] + [None] * (len(REFINE_CONTROLS) - 1)
    assert ask_api(script_name="ISDO refine", script_args=[]).script_args[0] == {}
    assert ask_api(script_name="Other", script_args=[1]).script_args == [1]


@pytest.mark.parametrize(
    "args", [[True], ["4"], [1] * 40, [{"enabled": True}], [{"nois": 1}], {"noise": 11}]
)
def test_the_api_refuses_wrong_arguments_of_the_script(ask_api, args):
    with pytest.raises(HTTPException) as said:
        ask_api(script_name="ISDO refine", script_args=args)
    assert said.value.status_code == 422 and said.value.detail


def test_the_api_refuses_wrong_arguments_of_the_accordion(ask_api):
    for args in ([True, "four"], [True] * 40, [{"nois": 1}], {"same": 1}):
        with pytest.raises(HTTPException) as said:
            ask_api(alwayson_scripts={"ISDO refine": {"args": args}})
        assert said.value.status_code == 422 and said.value.detail
