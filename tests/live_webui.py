"""The plugin in a real WebUI, over HTTP: see livehost.py for what to set, and run python -m pytest
tests/live_webui.py."""

import threading
import time

import livehost
import numpy as np
import pytest
import torch
from livehost import Refused, encode, meanwhile, ours, rms, steps_of

import isdo
from isdo.hosts.request import CONTROLS

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(livehost.missing() is not None, reason=str(livehost.missing())),
]

ISDO = {"sampler_name": "ISDO"}
EULER = {"sampler_name": "Euler"}
SCHEDULE = "ISDO curvature"


def with_args(*args):
    return ISDO | {"alwayson_scripts": {"ISDO": {"args": list(args)}}}


AS_SCHEDULED = with_args({"placement": 0})  # what asks the noise level acts when it does with Euler


def same(a, b):
    return np.array_equal(a, b)


@pytest.fixture
def eps(webui):
    """The WebUI with the eps checkpoint loaded."""
    webui.model("tiny-eps")
    return webui


# ------------------------------------------------------------------------------------------------------------- the lists


def test_one_entry_in_the_samplers_and_not_the_first(webui):
    samplers = webui.get("/sdapi/v1/samplers")
    names = [sampler["name"] for sampler in samplers]
    assert names.count("ISDO") == 1 and names[0] != "ISDO"
    assert [name for name in names if name.lower().startswith("isdo")] == ["ISDO"]
    assert "isdo" in samplers[names.index("ISDO")]["aliases"]


def test_one_schedule(webui):
    if "/sdapi/v1/schedulers" not in webui.routes():
        pytest.skip("this WebUI has no schedules to choose")
    labels = [schedule["label"] for schedule in webui.get("/sdapi/v1/schedulers")]
    assert labels.count(SCHEDULE) == 1 and labels[0] != SCHEDULE
    assert [label for label in labels if "isdo" in label.lower()] == [SCHEDULE]


def test_version_and_schema(webui):
    assert webui.get("/isdo/v1/version")["version"] == isdo.__version__
    schema = webui.get("/isdo/v1/schema")
    assert schema["args"] == ["enabled", *(field.key for field in CONTROLS)]
    assert {key: value["default"] for key, value in schema["settings"].items()} == {
        f.key: f.default for f in CONTROLS
    }


def test_settings_page_has_each_choice(webui):
    shown = {
        part["props"].get("elem_id"): part["props"].get("value")
        for part in webui.get("/config")["components"]
    }
    ours_shown = {
        key: value for key, value in shown.items() if key and key.startswith("setting_isdo_")
    }
    others = ("setting_isdo_refine_", "setting_isdo_invert_")
    ours_shown = {key: value for key, value in ours_shown.items() if not key.startswith(others)}
    assert ours_shown == {
        f"setting_isdo_{field.key}": field.default for field in CONTROLS if len(field.choices) != 1
    }


# ----------------------------------------------------------------------------------------------------------- one picture


def test_the_name_alone_runs_isdo_and_says_no_more(eps):
    got = eps.picture(**ISDO)
    assert got.values["Sampler"] == "ISDO"
    assert ours(got.values) == {}
    assert len(got.calls) == 8 and all(call["finite"] for call in got.calls)
    for other in ("Euler", "DPM++ 2M"):  # an unknown name would silently be the latter
        assert rms(got.image, eps.picture(sampler_name=other).image) > 0.5


@pytest.mark.parametrize("alias", ["isdo", "k_isdo"])
def test_an_alias_is_never_another_sampler(eps, alias):
    got = eps.picture(sampler_name=alias)
    assert got.values["Sampler"] == "ISDO"
    assert same(got.image, eps.picture(**ISDO).image)


@pytest.mark.parametrize("steps", [1, 2, 3, 30])
def test_any_number_of_steps_is_as_many_calls(eps, steps):
    got, eulers = (
        eps.picture(**ISDO, steps=steps),
        eps.picture(**EULER, steps=steps, scheduler="Karras"),
    )
    assert steps_of(got.calls) == steps_of(eulers.calls)
    assert len(got.calls) == steps
    levels, as_scheduled, scheduled = (
        [call["sigma"] for call in p.calls]
        for p in (got, eps.picture(**AS_SCHEDULED, steps=steps), eulers)
    )
    assert (
        as_scheduled == scheduled
        and levels[0] == scheduled[0]
        and (levels == scheduled) == (steps == 1)
    )


def test_the_same_again_after_other_pictures(eps):
    first = eps.picture(**ISDO)
    eps.picture(**with_args(True, "multistep", "auto", 16, 2), seed=9, steps=5)
    assert same(first.image, eps.picture(**ISDO).image)


def test_schedule_by_name(eps):
    if "/sdapi/v1/schedulers" not in eps.routes():
        pytest.skip("this WebUI has no schedules to choose")
    got = eps.picture(**AS_SCHEDULED, scheduler=SCHEDULE)
    assert got.values["Schedule type"] == SCHEDULE
    sigmas = [call["sigma"][0] for call in got.calls]
    assert sigmas == sorted(sigmas, reverse=True) and len(set(sigmas)) == 8
    euler = eps.picture(**EULER, scheduler=SCHEDULE)
    assert [call["sigma"][0] for call in euler.calls] == sigmas and euler.values[
        "Schedule type"
    ] == SCHEDULE
    assert sigmas[1] != eps.picture(**ISDO).calls[1]["sigma"][0]


# ---------------------------------------------------------------------------------------------------- steps and prompts


@pytest.mark.parametrize(
    "prompt",
    [
        "a [cat:dog:.5]",
        "a [cat:dog:2] [[moon]:3]",
        "[cat|dog|sun]",
        "a red circle AND a blue square :0.7 AND [cat:dog:4]",
    ],
)
def test_prompts_change_when_they_do_with_euler(eps, prompt):
    ask = {"prompt": prompt, "negative_prompt": "[bad:worse:0.3]", "scheduler": "Karras"}
    ours_, eulers = eps.picture(**ISDO, **ask), eps.picture(**EULER, **ask)
    assert steps_of(ours_.calls) == steps_of(eulers.calls)
    assert len({str(call["cond"]) for call in ours_.calls}) > 1 or "[" not in prompt


@pytest.mark.parametrize(
    "options",
    [
        {"s_min_uncond": 4.0},
        {"skip_early_cond": 0.5},
        {"s_min_uncond_all": True, "s_min_uncond": 3.0},
    ],
)
def test_savings_of_the_negative_prompt_act_when_they_do_with_euler(eps, options):
    if unknown := set(options) - set(eps.get("/sdapi/v1/options")):
        pytest.skip(f"this WebUI has no {', '.join(unknown)}")
    ask = {"scheduler": "Karras", "steps": 10, "override_settings": options}
    got, eulers = eps.picture(**AS_SCHEDULED, **ask), eps.picture(**EULER, **ask)
    assert [call["shape"] for call in got.calls] == [call["shape"] for call in eulers.calls]
    assert steps_of(got.calls) == steps_of(eulers.calls)
    assert rms(got.image, eps.picture(**AS_SCHEDULED, steps=10).image) > 0


@pytest.mark.parametrize(
    "options", [{"sgm_noise_multiplier": True}, {"always_discard_next_to_last_sigma": True}]
)
def test_options_of_the_noise_act_as_with_euler(eps, options):
    if unknown := set(options) - set(eps.get("/sdapi/v1/options")):
        pytest.skip(f"this WebUI has no {', '.join(unknown)}")
    ask = {"scheduler": "Karras", "override_settings": options}
    got = eps.picture(**ISDO, **ask)
    assert steps_of(got.calls) == steps_of(eps.picture(**EULER, **ask).calls)
    assert rms(got.image, eps.picture(**ISDO).image) > 0


def once_a_step(calls):
    """Return what the host's denoiser was asked, the calls of one step as one: its number and its
    prompts."""
    seen = [[c[key] for key in ("own step", "cond", "uncond")] for c in calls]
    return [part for i, part in enumerate(seen) if i == 0 or part != seen[i - 1]]


@pytest.mark.parametrize(("solver", "a_step"), [("srk3", 3), ("srk4", 4), ("srk5", 6)])
def test_solvers_of_several_calls_a_step_keep_the_host_s_steps(eps, solver, a_step):
    ask = {"prompt": "[cat:dog:.5]", "steps": 6, "scheduler": "Karras"}
    got, euler = (
        eps.picture(**with_args({"solver": solver, "placement": 0}), **ask),
        eps.picture(**EULER, **ask),
    )
    assert len(got.calls) == 5 * a_step + 1 and got.values["ISDO calls"] == str(len(got.calls))
    assert once_a_step(got.calls) == once_a_step(euler.calls)
    fine = eps.picture(**with_args({"solver": solver}), **ask | {"prompt": "cat", "steps": 30})
    assert rms(fine.image, eps.picture(**ISDO, **ask | {"prompt": "cat", "steps": 60}).image) < 4


def test_an_accuracy_takes_as_many_calls_as_it_needs_and_no_more_than_steps(eps):
    ask = {"steps": 80, "scheduler": "Karras"}
    got = eps.picture(**with_args({"tolerance": 0.03}), **ask, batch_size=2)
    assert 3 < len(got.calls) < 80 and got.values["ISDO calls"] == str(len(got.calls))
    assert (
        rms(got.images[-2], eps.picture(**ISDO, **ask | {"steps": 100}, batch_size=2).images[-2])
        < 5
    )
    assert len(eps.picture(**with_args({"tolerance": 0.0001}), **ask | {"steps": 6}).calls) == 6
    with pytest.raises(Refused, match="cannot say how far off") as refused:
        eps.picture(**with_args({"tolerance": 0.01, "solver": "srk4"}), **ask)
    assert refused.value.status == 422


def test_refiner_takes_over_when_it_does_with_euler(eps):
    if "tiny-v" not in eps.models:
        pytest.skip("no checkpoint tiny-v to hand over to")
    ask = {
        "refiner_checkpoint": eps.models["tiny-v"],
        "refiner_switch_at": 0.5,
        "scheduler": "Karras",
        "steps": 10,
    }
    got, eulers = eps.picture(**ISDO, **ask), eps.picture(**EULER, **ask)
    assert got.values["Refiner"].startswith("tiny-v")
    assert steps_of(got.calls) == steps_of(eulers.calls)
    assert rms(got.image, eps.picture(**ISDO, steps=10).image) > 0.5  # it did take over
    fine = eps.picture(**EULER, **ask | {"steps": 100})
    # x is strange to the second of these nets, which know no pictures: what counts is that ISDO
    # goes on as well as Euler does
    assert rms(got.image, fine.image) < 1.1 * rms(eulers.image, fine.image)


@pytest.mark.parametrize("solver", ["srk3", "srk4", "srk5"])
def test_the_refiner_takes_over_from_solvers_of_several_calls_as_from_euler(eps, solver):
    if "tiny-v" not in eps.models:
        pytest.skip("no checkpoint tiny-v to hand over to")
    ask = {
        "refiner_checkpoint": eps.models["tiny-v"],
        "refiner_switch_at": 0.5,
        "scheduler": "Karras",
        "steps": 10,
    }
    got, eulers = (
        eps.picture(**with_args({"solver": solver, "placement": 0}), **ask),
        eps.picture(**EULER, **ask),
    )
    assert got.values["Refiner"].startswith("tiny-v") and once_a_step(got.calls) == once_a_step(
        eulers.calls
    )
    assert all(call["finite"] for call in got.calls) and got.image.std() > 5
    assert (
        rms(got.image, eps.picture(**with_args({"solver": solver}), steps=10).image) > 0.5
    )  # it did take over


@pytest.mark.parametrize("window", [(0.25, 0.75), (0.0, 0.4), (0.6, 1.0)])
def test_a_control_acts_in_the_steps_it_acts_in_with_euler(eps, window):
    """As ControlNet's: by the step counter of AUTOMATIC1111, by the noise level in Forge's own
    class."""
    ask = {"scheduler": "Karras", "steps": 12, "seed": centred(128)}
    with eps.probing(window=window):
        got, eulers = eps.picture(**AS_SCHEDULED, **ask), eps.picture(**EULER, **ask)
        fine = eps.picture(**EULER, **ask | {"steps": 200})
    controlled = [call["controlled"] for call in got.calls]
    assert controlled == [call["controlled"] for call in eulers.calls] and 0 < sum(controlled) < 12
    assert steps_of(got.calls) == steps_of(eulers.calls)
    plain = eps.picture(**AS_SCHEDULED, **ask)
    print(rms(got.image, plain.image), rms(got.image, fine.image), rms(eulers.image, fine.image))
    assert rms(got.image, plain.image) > 1 and not any(call["controlled"] for call in plain.calls)


# --------------------------------------------------------------------------------------------------- batches and seeds


def test_a_picture_does_not_know_its_neighbours(eps):
    """The bit-equality of the sampler itself is proven elsewhere: a host's network may round
    otherwise in a batch."""

    def worst(ask):
        batch = eps.picture(**ask, seed=5, batch_size=3).images[-3:]
        return max(
            np.abs(one.astype(int) - eps.picture(**ask, seed=5 + i).image).max()
            for i, one in enumerate(batch)
        )

    assert worst(ISDO) <= max(worst(EULER), 1)


def test_batch_count_and_seeds(eps):
    got = eps.picture(**ISDO, seed=5, n_iter=2, batch_size=2)
    assert got.seeds == [5, 6, 7, 8]
    for i, picture in enumerate(got.images[-4:]):
        assert np.abs(picture.astype(int) - eps.picture(**ISDO, seed=5 + i).image).max() <= 1


@pytest.mark.parametrize("ask", [{"subseed": 3, "subseed_strength": 0.4}, {"tiling": True}])
def test_variation_seed_and_tiling_act_as_with_euler(eps, ask):
    size = {"steps": 20, "width": 64, "height": 64}
    euler = eps.picture(**EULER, **size, **ask)
    if same(euler.image, eps.picture(**EULER, **size).image):
        pytest.skip("this option has no effect in this WebUI")
    got, plain = eps.picture(**ISDO, **size, **ask), eps.picture(**ISDO, **size)
    assert got.values["Sampler"] == "ISDO"
    assert rms(got.image, plain.image) > 2 * rms(got.image, euler.image)


# ------------------------------------------------------------------------------------------------------ arguments, leaks


def test_arguments_by_place_and_by_name(eps):
    plain = eps.picture(**ISDO)
    place = eps.picture(**with_args(True, "multistep", "auto", 64, 1))
    name = eps.picture(**with_args({"modes": 64, "order": 1}))
    mapping = eps.picture(**ISDO, alwayson_scripts={"ISDO": {"args": {"modes": 64, "order": 1}}})
    assert ours(place.values) == {"ISDO modes": "64", "ISDO order": "1"}
    assert place.text == name.text == mapping.text
    assert same(place.image, name.image) and same(place.image, mapping.image)
    assert rms(place.image, plain.image) > 0


def test_nothing_of_ours_is_left_in_the_next_picture(eps):
    asked = eps.picture(**with_args({"order": 1, "power": "zero"}))
    assert ours(asked.values) == {"ISDO order": "1", "ISDO power": "zero"}
    euler = eps.picture(**EULER, alwayson_scripts={"ISDO": {"args": [{"order": 1}]}})
    assert ours(euler.values) == {} and "ISDO" not in euler.text
    assert ours(eps.picture(**ISDO).values) == {}


def test_settings_page_counts_where_the_picture_says_nothing(eps):
    asked = eps.picture(**ISDO, override_settings={"isdo_order": 1})
    assert ours(asked.values) == {"ISDO order": "1"}
    assert same(asked.image, eps.picture(**with_args({"order": 1})).image)
    assert ours(eps.picture(**ISDO).values) == {}


@pytest.mark.parametrize(
    ("args", "word"),
    [
        ([True, "no such solver"], "solver"),
        ([{"order": 99}], "order"),
        ([{"order": "two"}], "order"),
        ([{"odrer": 2}], "odrer"),
        ([True, *range(40)], "arguments"),
        (["yes"], "enabled"),
        ({"response": 7}, "response"),
    ],
)
def test_wrong_arguments_answer_422_with_a_message(eps, args, word):
    with pytest.raises(Refused) as refused:
        eps.picture(**ISDO, alwayson_scripts={"ISDO": {"args": args}})
    assert refused.value.status == 422 and word in refused.value.text


def test_wrong_arguments_of_img2img_answer_422(eps):
    with pytest.raises(Refused) as refused:
        eps.picture(
            "img2img",
            init_images=[encode(np.zeros((64, 64, 3), np.uint8))],
            **with_args({"tau": "cubic"}),
        )
    assert refused.value.status == 422 and "tau" in refused.value.text


# ------------------------------------------------------------------------------------------------- hires, img2img, masks


def scene(size=128):
    """A picture with edges, to begin from."""
    y, x = np.mgrid[:size, :size] / size
    disc = np.hypot(x - 0.5, y - 0.5) < 0.3
    return (np.stack([disc, x, 1 - y], -1) * 200 + 20).astype(np.uint8)


def hires(webui, **values):
    ask = {
        "enable_hr": True,
        "hr_scale": 2,
        "hr_upscaler": "Latent",
        "denoising_strength": 0.6,
        "hr_second_pass_steps": 6,
    }
    schema = str(webui.get("/openapi.json"))
    if "hr_additional_modules" in schema:  # Forge: else its API route fails for every sampler
        ask["hr_additional_modules"] = ["Use same choices"]
    return webui.picture(**ask | values)


def test_hires(eps):
    got, eulers = hires(eps, **ISDO, scheduler="Karras"), hires(eps, **EULER, scheduler="Karras")
    assert got.image.shape == (256, 256, 3) and got.values["Hires steps"] == "6"
    assert steps_of(got.calls) == steps_of(eulers.calls)
    assert ours(got.values) == {} and got.values["Sampler"] == "ISDO"


def test_hires_alone(eps):
    got = hires(eps, **EULER, hr_sampler_name="ISDO")
    assert got.values["Sampler"] == "Euler" and got.values["Hires sampler"] == "ISDO"
    assert rms(got.image, hires(eps, **EULER).image) > 0.5
    asked = hires(
        eps, **EULER, hr_sampler_name="ISDO", alwayson_scripts={"ISDO": {"args": [{"order": 1}]}}
    )
    assert ours(asked.values) == {"ISDO order": "1"} and rms(asked.image, got.image) > 0


@pytest.mark.parametrize(("first", "second"), [("ISDO", "Euler"), ("Euler", "ISDO")])
def test_hires_by_another_sampler(eps, first, second):
    got = hires(eps, sampler_name=first, hr_sampler_name=second, scheduler="Karras")
    eulers = hires(eps, **EULER, scheduler="Karras")
    assert [call[:4] for call in steps_of(got.calls)] == [
        call[:4] for call in steps_of(eulers.calls)
    ]
    assert (got.values["Sampler"], got.values["Hires sampler"]) == (first, second)
    assert rms(got.image, eulers.image) > 0.1


@pytest.mark.parametrize(("strength", "calls"), [(0.05, 1), (0.275, 4), (0.815, 10), (1.0, 12)])
def test_img2img(webui, strength, calls):
    webui.model("tiny-gauss")
    ask = {
        "init_images": [encode(scene())],
        "denoising_strength": strength,
        "scheduler": "Karras",
        "steps": 12,
    }
    got, eulers = webui.picture("img2img", **ISDO, **ask), webui.picture("img2img", **EULER, **ask)
    assert got.values["Sampler"] == "ISDO"
    assert steps_of(got.calls) == steps_of(eulers.calls) and len(got.calls) == calls
    if calls in (
        4,
        10,
    ):  # of 111 steps, these two strengths begin at the very noise level they begin at of 12
        fine = webui.picture("img2img", **EULER, **ask | {"steps": 111})
        assert fine.calls[0]["sigma"] == pytest.approx(got.calls[0]["sigma"], rel=1e-4)
        assert rms(got.image, fine.image) < rms(eulers.image, fine.image) / 2


def test_strength_as_noise_level_has_no_jumps(eps):
    """Strengths between two steps of the schedule start at different noise."""

    def first_sigma(strength, **values):
        ask = {"init_images": [encode(scene())], "denoising_strength": strength, "steps": 10}
        return eps.picture("img2img", **ask, **values).calls[0]["sigma"][0]

    by_level = [
        first_sigma(s, **with_args({"strength": "noise level"})) for s in (0.41, 0.45, 0.49)
    ]
    assert by_level[0] < by_level[1] < by_level[2]
    assert len({first_sigma(s, **ISDO) for s in (0.41, 0.45, 0.49)}) == 1


def mask(size=128, soft=False):
    y, x = np.mgrid[:size, :size] / size
    inside = (
        np.clip((0.35 - np.hypot(x - 0.5, y - 0.5)) * 5, 0, 1)
        if soft
        else (np.hypot(x - 0.5, y - 0.5) < 0.3)
    )
    return np.repeat((inside * 255).astype(np.uint8)[..., None], 3, -1)


@pytest.mark.parametrize("fill", [0, 1, 2, 3])
def test_inpaint_keeps_what_euler_keeps(eps, fill):
    ask = {
        "init_images": [encode(scene())], "mask": encode(mask()), "denoising_strength": 0.8, "mask_blur": 0,
        "inpainting_fill": fill, "inpaint_full_res": False, "scheduler": "Karras",
    }  # fmt: skip
    got, eulers = eps.picture("img2img", **ISDO, **ask), eps.picture("img2img", **EULER, **ask)
    kept = mask()[..., 0] == 0
    assert same(got.image[kept], eulers.image[kept])
    assert rms(got.image[~kept], eulers.image[~kept]) > 0.5  # there, the samplers differ
    assert [call[:4] for call in steps_of(got.calls)] == [
        call[:4] for call in steps_of(eulers.calls)
    ]


def test_inpaint_of_the_latent_keeps_what_euler_keeps(eps):
    """With the masked area only and a blurred mask, the host pastes the rest back."""
    ask = {
        "init_images": [encode(scene())], "mask": encode(mask()), "denoising_strength": 0.6, "mask_blur": 4,
        "inpainting_fill": 1, "inpaint_full_res": True, "inpaint_full_res_padding": 16,
    }  # fmt: skip
    got, eulers = eps.picture("img2img", **ISDO, **ask), eps.picture("img2img", **EULER, **ask)
    corner = np.s_[:20, :20]
    assert same(got.image[corner], eulers.image[corner])
    assert rms(got.image, eulers.image) > 0


def test_inpaint_converges_faster_than_euler(eps):
    """Each against its own limit: where a WebUI noises the kept area anew at each call, Euler's
    averages over noises."""
    ask = {
        "init_images": [encode(scene())], "mask": encode(mask()), "denoising_strength": 0.85, "mask_blur": 0,
        "inpainting_fill": 1, "inpaint_full_res": False, "scheduler": "Karras",
    }  # fmt: skip
    got, eulers = eps.picture("img2img", **ISDO, **ask), eps.picture("img2img", **EULER, **ask)
    fine, eulers_fine = (
        eps.picture("img2img", **who, **ask | {"steps": 106}) for who in (ISDO, EULER)
    )
    assert fine.calls[0]["sigma"] == pytest.approx(
        got.calls[0]["sigma"], rel=1e-4
    )  # else the limits would differ
    assert rms(got.image, fine.image) < rms(eulers.image, eulers_fine.image)


def test_soft_inpainting(eps):
    scripts = eps.get("/sdapi/v1/scripts")["img2img"]
    if "soft inpainting" not in scripts:
        pytest.skip("this WebUI has no soft inpainting")
    ask = {
        "init_images": [encode(scene())], "mask": encode(mask(soft=True)), "denoising_strength": 0.8, "mask_blur": 4,
        "inpainting_fill": 1, "inpaint_full_res": False,
        "alwayson_scripts": {"Soft inpainting": {"args": [True, 1, 0.5, 4, 0, 0.5, 2]}},
    }  # fmt: skip
    eulers = eps.picture("img2img", **EULER, **ask)
    if rms(eulers.image, scene()) < 1:
        pytest.skip(
            "with these checkpoints this WebUI gives the original back, whatever the sampler"
        )
    got = eps.picture("img2img", **ISDO, **ask)
    assert got.values["Sampler"] == "ISDO" and got.values["Soft inpainting enabled"] == "True"
    assert 0 < rms(got.image, eulers.image) < 60


# ----------------------------------------------------------------------------------------------- interrupt, skip, preview


def while_running(webui, act, **values):
    """Call ``act`` in the middle of a long picture; return the picture and the seconds from then to
    its end."""
    ask = {"steps": 150, "width": 256, "height": 256} | values
    return meanwhile(webui, act, lambda: webui.picture(**ask), range(5, ask["steps"] + 1))


def test_interrupt_is_quick_and_leaves_nothing_behind(eps):
    before = eps.picture(**ISDO)
    got, seconds = while_running(
        eps, lambda: eps.post("/sdapi/v1/interrupt", {}), **with_args({"order": 2})
    )
    assert 5 <= len(got.calls) < 140
    assert got.values["Sampler"] == "ISDO" and ours(got.values) == {"ISDO order": "2"}
    assert seconds < 10
    after = eps.picture(**ISDO)
    assert same(before.image, after.image) and after.text == before.text


def test_skip_goes_on_with_the_next_picture(eps):
    got, _ = while_running(eps, lambda: eps.post("/sdapi/v1/skip", {}), **ISDO, n_iter=2, steps=60)
    assert 60 < len(got.calls) < 120
    assert same(got.images[-1], eps.picture(**ISDO, seed=2, steps=60, width=256, height=256).image)


def test_stop_after_this_picture_finishes_it(eps):
    got, _ = while_running(
        eps, lambda: eps.post("/live-probe/stop", {}), **ISDO, n_iter=3, steps=60
    )
    assert len(got.calls) == 60 and len(got.images) == 1
    assert same(got.image, eps.picture(**ISDO, steps=60, width=256, height=256).image)


@pytest.mark.parametrize("last", [0, 4])
def test_a_sampler_told_to_stop_stops_where_euler_does(eps, last):
    ask = {"scheduler": "Karras", "steps": 12}
    before = eps.picture(**ISDO, **ask)
    with eps.probing(stop_at=last):
        got, eulers = eps.picture(**ISDO, **ask), eps.picture(**EULER, **ask)
    assert len(got.calls) == len(eulers.calls) == last + 2  # it is looked at after the step
    assert got.values["Sampler"] == "ISDO" and rms(got.image, before.image) > 0.5
    assert same(eps.picture(**ISDO, **ask).image, before.image)


def test_progress_never_falls_and_shows_the_picture(eps):
    seen, previews, done = [], [], []
    thread = threading.Thread(
        target=lambda: done.append(eps.picture(**ISDO, steps=60, width=256, height=256))
    )
    thread.start()
    while thread.is_alive():
        now = eps.get("/sdapi/v1/progress")
        if now["state"]["job_count"] > 0:
            seen.append((now["state"]["job_no"], now["state"]["sampling_step"]))
            previews.append(now["current_image"])
        time.sleep(0.05)
    assert len(done[0].calls) == 60
    assert seen == sorted(seen) and max(step for _, step in seen) <= 60 and len(set(seen)) > 5
    if eps.get("/sdapi/v1/options").get("live_previews_enable"):
        assert any(previews)


# ------------------------------------------------------------------------------------------------------------------- XYZ


def axes(webui, tab="txt2img"):
    """Return the labels of the axis menu of the X/Y/Z plot, in its order."""
    for part in webui.get("/config")["components"]:
        if part.get("props", {}).get("elem_id") == f"script_{tab}_xyz_plot_x_type":
            return [
                choice if isinstance(choice, str) else choice[0]
                for choice in part["props"]["choices"]
            ]
    raise AssertionError("no X/Y/Z plot on the page")


def grid(webui, x, y=("Nothing", ""), **values):
    """Run an X/Y/Z plot and return the pictures of its cells, row by row."""
    labels = axes(webui)
    settings = [
        s
        for s in webui.get("/sdapi/v1/script-info")
        if s["name"] == "x/y/z plot" and not s["is_img2img"]
    ][0]["args"]
    args = [setting["value"] for setting in settings]
    names = [setting["label"] for setting in settings]
    for i, (label, text) in enumerate((x, y)):
        args[3 * i : 3 * i + 3] = [labels.index(label), text, []]
    args[6:9] = [labels.index("Nothing"), "", []]
    for label, value in (
        ("Draw legend", False),
        ("Include Sub Images", True),
        ("Keep -1 for seeds", False),
    ):
        args[names.index(label)] = value
    args[[i for i, name in enumerate(names) if "text inputs" in (name or "")][0]] = True
    got = webui.picture(**values, script_name="x/y/z plot", script_args=args)
    cells = len(text_cells(x[1])) * len(text_cells(y[1]))
    assert len(got.images) >= cells
    return SimpleGrid(got, cells)


def text_cells(text):
    return text.split(",") if text else [""]


class SimpleGrid:
    def __init__(self, got, cells):
        self.images, self.texts = got.images[-cells:], got.texts[-cells:]


def test_every_setting_has_one_axis(webui):
    for tab in ("txt2img", "img2img"):
        labels = axes(webui, tab)
        assert [label for label in labels if "[ISDO]" in label] == [
            "[ISDO] Preset",
            *(f"[ISDO] {field.label}" for field in CONTROLS),
        ]


def test_grid_over_our_settings(eps):
    got = grid(eps, ("[ISDO] Order", "1,2,3"), ("[ISDO] Power", "fitted,zero"), **ISDO, cfg_scale=1)
    cells = iter(zip(got.images, got.texts, strict=True))
    for power in ("fitted", "zero"):
        for order in (1, 2, 3):
            image, text = next(cells)
            alone = eps.picture(**with_args({"order": order, "power": power}), cfg_scale=1)
            assert same(image, alone.image)
            assert ours(eps.parse(text)) == ours(alone.values)
    assert len({image.tobytes() for image in got.images}) == 6


def test_grid_over_samplers_leaks_no_keys(eps):
    got = grid(eps, ("Sampler", "ISDO,Euler,isdo"), **with_args({"order": 1}))
    found = [eps.parse(text) for text in got.texts]
    assert [values["Sampler"] for values in found] == ["ISDO", "Euler", "ISDO"]
    assert [ours(values) for values in found] == [{"ISDO order": "1"}, {}, {"ISDO order": "1"}]
    assert same(got.images[0], got.images[2]) and rms(got.images[0], got.images[1]) > 0.5


def test_grid_refuses_wrong_values(eps):
    with pytest.raises(Refused) as refused:
        grid(eps, ("[ISDO] Order", "1,99"), **ISDO)
    assert "order" in refused.value.text


def test_grid_over_samplers_and_our_settings_and_prompts(eps):
    got = grid(
        eps, ("Sampler", "ISDO,Euler"), ("[ISDO] Order", f"1,{isdo.Settings().order}"), **ISDO
    )
    found = [eps.parse(text) for text in got.texts]
    assert [(values["Sampler"], ours(values)) for values in found] == [
        ("ISDO", {"ISDO order": "1"}), ("Euler", {}), ("ISDO", {}), ("Euler", {}),
    ]  # fmt: skip
    assert same(got.images[1], got.images[3]) and rms(got.images[0], got.images[2]) > 0
    got = grid(eps, ("Prompt S/R", "red,blue"), **ISDO)
    assert same(got.images[1], eps.picture(**ISDO, prompt="a blue circle").image)


def test_grid_over_checkpoints_and_pictures_after_a_change_of_checkpoint(eps):
    names = [
        name
        for name in ("tiny-eps", "tiny-v", "tiny-sdxl", "tiny-sd3", "tiny-flux")
        if name in eps.models
    ]
    pictures = {}
    for name in names:
        eps.model(name)
        pictures[name] = eps.picture(**ISDO, cfg_scale=3)
    eps.model("tiny-eps")
    again = eps.picture(**ISDO, cfg_scale=3)
    assert same(again.image, pictures["tiny-eps"].image) and again.text == pictures["tiny-eps"].text
    got = grid(
        eps, ("Checkpoint name", ",".join(eps.models[name] for name in names)), **ISDO, cfg_scale=3
    )
    for name, image in zip(names, got.images, strict=True):
        assert same(image, pictures[name].image), name


# --------------------------------------------------------------------------------------------------- the hosts' scripts


def script_args(webui, name, tab, changes):
    """Return a script's own arguments, some changed by the beginning of their labels; skip where
    there is no such script."""
    found = [
        s
        for s in webui.get("/sdapi/v1/script-info")
        if s["name"] == name and s["is_img2img"] == (tab == "img2img")
    ]
    if not found:
        pytest.skip(f"this WebUI has no {name}")
    args = [argument["value"] for argument in found[0]["args"]]
    for start, value in changes.items():
        (i,) = [
            i
            for i, argument in enumerate(found[0]["args"])
            if (argument["label"] or "").startswith(start)
        ]
        args[i] = value
    return {"script_name": name, "script_args": args}


@pytest.mark.parametrize(
    ("tab", "name", "changes"),
    [
        ("txt2img", "prompt matrix", {}),
        (
            "txt2img",
            "prompts from file or textbox",
            {"List of prompt inputs": 'a cat\n--prompt "a dog" --steps 5'},
        ),
        ("img2img", "sd upscale", {"Scale Factor": 2}),
        ("img2img", "loopback", {"Loops": 3}),
        ("img2img", "outpainting mk2", {}),
    ],
)
def test_the_hosts_scripts_run_isdo_as_they_run_euler(eps, tab, name, changes):
    ask = {
        "prompt": "a circle|red|blue",
        "scheduler": "Karras",
        "steps": 6,
        "width": 256,
        "height": 256,
    }
    if tab == "img2img":
        ask |= {"init_images": [encode(scene(256))], "denoising_strength": 0.6}
    ask |= script_args(eps, name, tab, changes)
    got, eulers = eps.picture(tab, **ISDO, **ask), eps.picture(tab, **EULER, **ask)
    assert got.calls and [call[:4] for call in steps_of(got.calls)] == [
        call[:4] for call in steps_of(eulers.calls)
    ]
    made = [eps.parse(text).get("Sampler") for text in got.texts if "Sampler:" in text]
    assert made and set(made) == {"ISDO"}
    assert (
        got.images[-1].shape == eulers.images[-1].shape
        and rms(got.images[-1], eulers.images[-1]) > 0.1
    )


# ---------------------------------------------------------------------------------------------- against what is known


def noise(seed, size):
    """Return the noise that the WebUIs draw on the CPU for a seed."""
    return torch.randn(
        4, size // 8, size // 8, generator=torch.Generator().manual_seed(seed)
    ).double()


def centred(size):
    """Return the seed whose noise has the smallest means: 14.6 times a mean drives a small picture
    into white or black."""
    return min(range(1, 400), key=lambda seed: noise(seed, size).mean((-2, -1)).abs().max())


def exact_gauss(seed, size, sigma):
    """Return the picture at the end of the ODE for tiny-gauss, and where it is neither white nor
    black.

    The checkpoint knows its Gaussian up to each channel's mean: that is taken out here and by
    ``off``.
    """
    x = noise(seed, size) * sigma
    z = (x - x.mean((-2, -1), keepdim=True)) * 0.5 / (0.25 + sigma**2) ** 0.5
    rgb = z[:3] * 0.9 + z[3:] * 0.1
    big = torch.nn.functional.interpolate(
        rgb[None], scale_factor=8, mode="bicubic", align_corners=False
    )[0]
    return big.add(1).mul(127.5).permute(1, 2, 0).numpy()


def off(picture, known):
    """Return the root mean square error of a picture, each channel's mean apart, where it is
    neither white nor black."""
    errors = []
    for channel, truth in zip(np.moveaxis(picture, -1, 0), np.moveaxis(known, -1, 0), strict=True):
        inside = (channel > 0) & (channel < 255)
        errors.append(np.std(channel[inside] - truth[inside]))
    return float(np.mean(errors))


def test_eight_steps_against_the_known_solution(webui):
    webui.model("tiny-gauss")
    seed = centred(256)
    ask = {"seed": seed, "width": 256, "height": 256, "cfg_scale": 1, "scheduler": "Karras"}
    got, euler = webui.picture(**ISDO, **ask), webui.picture(**EULER, **ask)
    fine = webui.picture(**EULER, **ask | {"steps": 200})
    known = exact_gauss(seed, 256, got.calls[0]["sigma"][0])
    errors = {
        name: off(r.image, known) for name, r in (("isdo", got), ("euler", euler), ("fine", fine))
    }
    print(errors, rms(got.image, fine.image), rms(euler.image, fine.image))
    assert known.std() > 20
    # in grey levels: rounding to them is 0.29 of it already
    assert errors["isdo"] < errors["euler"] / 10 and errors["isdo"] < 0.5
    assert rms(got.image, fine.image) < rms(euler.image, fine.image) / 5


@pytest.mark.parametrize("checkpoint", ["tiny-eps", "tiny-v"])
def test_twelve_steps_are_nearer_to_the_limit_than_eulers(webui, checkpoint):
    webui.model(checkpoint)
    ask = {"seed": centred(128), "scheduler": "Karras", "steps": 12}
    got, euler = webui.picture(**ISDO, **ask), webui.picture(**EULER, **ask)
    fine = webui.picture(**EULER, **ask | {"steps": 150})
    print(checkpoint, rms(got.image, fine.image), rms(euler.image, fine.image))
    assert fine.image.std() > 20
    assert rms(got.image, fine.image) < 0.8 * rms(euler.image, fine.image)


@pytest.mark.parametrize("scheduler", ["Karras", SCHEDULE])
def test_zero_terminal_snr(webui, scheduler):
    if "sd_noise_schedule" not in webui.get("/sdapi/v1/options"):
        pytest.skip("this WebUI has no noise schedule to choose")
    webui.model("tiny-v")
    ask = {
        "steps": 12,
        "scheduler": scheduler,
        "override_settings": {"sd_noise_schedule": "Zero Terminal SNR"},
    }
    got, euler = webui.picture(**ISDO, **ask), webui.picture(**EULER, **ask)
    assert (
        got.calls[0]["sigma"][0] > 1000
        and len(got.calls) == 12
        and all(call["finite"] for call in got.calls)
    )
    fine = webui.picture(**EULER, **ask | {"steps": 200})
    print(rms(got.image, fine.image), rms(euler.image, fine.image))
    assert fine.image.std() > 20
    assert rms(got.image, fine.image) < rms(euler.image, fine.image)


# --------------------------------------------------------------------------------------------------------------- SDXL


@pytest.fixture
def sdxl(webui):
    """The WebUI with an SDXL-shaped checkpoint: its conditions are mappings of text and of
    sizes."""
    webui.model("tiny-sdxl")
    return webui


@pytest.mark.parametrize(
    "prompt",
    ["a red circle", "a [cat:dog:.5]", "a red circle AND a blue square :0.7 AND [cat:dog:4]"],
)
def test_sdxl_is_asked_what_euler_asks_and_is_nearer_to_the_limit(sdxl, prompt):
    ask = {
        "prompt": prompt,
        "negative_prompt": "[bad:worse:0.3]",
        "scheduler": "Karras",
        "seed": centred(128),
    }
    got, eulers = sdxl.picture(**ISDO, **ask), sdxl.picture(**EULER, **ask)
    assert all("crossattn=" in call["cond"] and "vector=" in call["cond"] for call in got.calls)
    assert steps_of(got.calls) == steps_of(eulers.calls) and len(got.calls) == 8
    fine = sdxl.picture(**EULER, **ask | {"steps": 200})
    print(rms(got.image, fine.image), rms(eulers.image, fine.image), fine.image.std())
    assert fine.image.std() > 20
    assert rms(got.image, fine.image) < rms(eulers.image, fine.image)


def test_sdxl_without_guidance_in_batches_and_hires(sdxl):
    batch = sdxl.picture(**ISDO, seed=5, batch_size=2, n_iter=2).images[-4:]
    for i, picture in enumerate(batch):
        # these nets round otherwise in a batch, and as they know no pictures they make a few grey
        # levels of it here and there
        assert rms(picture, sdxl.picture(**ISDO, seed=5 + i).image) < 1
    for ask in ({"cfg_scale": 1}, {"s_min_uncond": 4.0}):
        got, eulers = (sdxl.picture(**who, **ask, scheduler="Karras") for who in (ISDO, EULER))
        assert steps_of(got.calls) == steps_of(eulers.calls)
    got, eulers = hires(sdxl, **ISDO, scheduler="Karras"), hires(sdxl, **EULER, scheduler="Karras")
    assert got.image.shape == (256, 256, 3) and steps_of(got.calls) == steps_of(eulers.calls)


def test_sdxl_inpainting_keeps_what_euler_keeps(sdxl):
    ask = {
        "init_images": [encode(scene())], "mask": encode(mask()), "denoising_strength": 0.8, "mask_blur": 0,
        "inpainting_fill": 1, "inpaint_full_res": False, "scheduler": "Karras",
    }  # fmt: skip
    got, eulers = sdxl.picture("img2img", **ISDO, **ask), sdxl.picture("img2img", **EULER, **ask)
    kept = mask()[..., 0] == 0
    assert same(got.image[kept], eulers.image[kept]) and rms(got.image, eulers.image) > 0.5


# -------------------------------------------------------------------------------------------------------- flow models


@pytest.fixture(params=["tiny-flux", "tiny-sd3", "tiny-chroma"])
def flow(webui, request):
    """The WebUI with a flow model whose ODE is that of a Gaussian."""
    webui.model(request.param)
    return webui


def test_flow_is_nearer_to_the_limit_than_euler(flow):
    ask = {"scheduler": "Simple", "cfg_scale": 1}
    got, euler = flow.picture(**ISDO, **ask), flow.picture(**EULER, **ask)
    assert steps_of(got.calls) == steps_of(euler.calls) and got.calls[0]["sigma"][0] <= 1
    fine = flow.picture(**EULER, **ask | {"steps": 200})
    print(rms(got.image, fine.image), rms(euler.image, fine.image))
    assert fine.image.std() > 20
    assert rms(got.image, fine.image) < rms(euler.image, fine.image) / 2


@pytest.mark.parametrize("scheduler", ["Automatic", SCHEDULE])
def test_flow_has_a_grid_of_its_own(flow, scheduler):
    got = flow.picture(**ISDO, scheduler=scheduler, cfg_scale=1)
    sigmas = [call["sigma"][0] for call in got.calls]
    assert len(sigmas) == 8 and 0.9 < sigmas[0] <= 1 and sigmas == sorted(set(sigmas), reverse=True)
    fine = flow.picture(**EULER, scheduler="Simple", cfg_scale=1, steps=200)
    eight = flow.picture(**EULER, scheduler="Simple", cfg_scale=1)
    print(rms(got.image, fine.image), rms(eight.image, fine.image))
    assert rms(got.image, fine.image) < rms(eight.image, fine.image)


def test_flow_refuses_a_schedule_of_another_kind(flow):
    try:
        got = flow.picture(**ISDO, scheduler="Align Your Steps", cfg_scale=1)
    except Refused as refused:
        assert (
            refused.status in (422, 500) and "sigma" in refused.text and "Automatic" in refused.text
        )
    else:
        assert got.calls[0]["sigma"][0] <= 1


def test_flow_img2img_and_inpaint(flow):
    ask = {
        "init_images": [encode(scene())],
        "denoising_strength": 0.6,
        "scheduler": "Simple",
        "cfg_scale": 1,
    }
    got, euler = flow.picture("img2img", **ISDO, **ask), flow.picture("img2img", **EULER, **ask)
    assert steps_of(got.calls) == steps_of(euler.calls)
    fine = flow.picture("img2img", **EULER, **ask | {"steps": 200})
    ask |= {"mask": encode(mask()), "mask_blur": 0, "inpainting_fill": 1, "inpaint_full_res": False}
    got, euler = flow.picture("img2img", **ISDO, **ask), flow.picture("img2img", **EULER, **ask)
    kept = mask()[..., 0] == 0
    assert same(got.image[kept], euler.image[kept])
    assert fine.image.std() > 20


def test_flow_strength_counts_as_noise_level(flow):
    ask = {"init_images": [encode(scene())], "scheduler": "Simple", "cfg_scale": 1, "steps": 10}
    by_level = [
        flow.picture(
            "img2img", **ask, **with_args({"strength": "noise level"}), denoising_strength=s
        ).calls[0]["sigma"][0]
        for s in (0.41, 0.45, 0.49)
    ]
    assert by_level == pytest.approx([0.41, 0.45, 0.49], abs=0.02)


# ------------------------------------------------------------------------------------------------------ the whole session


def test_the_console_has_no_trouble_of_ours(webui):
    """Runs last in this file: what the WebUI said of us during all of the above."""
    text = webui.text()
    assert "Error loading script" not in text and "Error running" not in text
    for part in text.split("Traceback (most recent call last)")[1:]:
        trace = part[:6000].split("\n---")[0]
        if "isdo/" in trace:
            assert "HTTPException" in trace or "Refused" in trace, trace[-1500:]
