"""ISDO refine in a real WebUI, over HTTP: see livehost.py for what to set, and run python -m pytest
tests/live_refine.py."""

import threading
import time

import livehost
import numpy as np
import pytest
from live_webui import EULER, axes, grid, hires, mask, same, scene
from livehost import Refused, encode, meanwhile, ours, rms

from isdo.hosts.request import REFINE, REFINE_CONTROLS

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(livehost.missing() is not None, reason=str(livehost.missing())),
]

KARRAS = EULER | {"scheduler": "Karras", "steps": 12}
FULL = {"ISDO refine": "4 iterations, 12 calls"}


def refine(*args):
    """Return the part of a request that ticks the accordion."""
    return {"alwayson_scripts": {"ISDO refine": {"args": list(args) or [True]}}}


def script(webui, *args, **values):
    """Run the script of img2img's list."""
    ask = {
        "init_images": [encode(scene())],
        "script_name": "ISDO refine",
        "script_args": list(args),
        **KARRAS,
    }
    return webui.picture("img2img", **ask | values)


def alike(a, b):
    """Say whether two pictures are the same but for the rounding of a host's network, which a batch
    or a repetition moves."""
    return np.abs(a.astype(int) - b).max() <= 1


def sigmas(calls):
    return [call["sigma"][0] for call in calls]


@pytest.fixture
def eps(webui):
    """The WebUI with the eps checkpoint loaded."""
    webui.model("tiny-eps")
    return webui


# ------------------------------------------------------------------------------------------------------- what is there


def test_script_and_accordion_are_listed_once_where_they_belong(webui):
    found = [s for s in webui.get("/sdapi/v1/script-info") if s["name"] == "isdo refine"]
    listed, many = (
        [(s["is_img2img"], s["is_alwayson"], len(s["args"])) for s in found],
        len(REFINE_CONTROLS),
    )
    assert sorted(listed) == [(False, True, many + 1), (True, False, many), (True, True, many + 1)]


def test_schema_settings_and_axes_have_every_setting(webui):
    schema = webui.get("/isdo/v1/schema")["refine"]
    assert schema["script_args"] == [field.key for field in REFINE_CONTROLS] == schema["args"][1:]
    assert {key: value["default"] for key, value in schema["settings"].items()} == REFINE.defaults
    shown = {
        part["props"].get("elem_id"): part["props"].get("value")
        for part in webui.get("/config")["components"]
    }
    assert {
        key: shown.get(f"setting_isdo_refine_{key}", "missing") for key in REFINE.defaults
    } == REFINE.defaults
    for tab in ("txt2img", "img2img"):
        labels = axes(webui, tab)
        assert [label for label in labels if "ISDO refine" in label] == [
            f"[ISDO refine] {f.label}" for f in REFINE_CONTROLS
        ]


# ---------------------------------------------------------------------------------------------------------- one picture


def test_off_it_leaves_no_trace(eps):
    plain = eps.picture(**KARRAS)
    off = eps.picture(**KARRAS, **refine(False, 9))
    assert alike(plain.image, off.image) and plain.text == off.text and ours(plain.values) == {}


def test_the_accordion_adds_its_calls_and_says_so(eps):
    plain, got = eps.picture(**KARRAS), eps.picture(**KARRAS, **refine())
    assert sigmas(got.calls)[:12] == sigmas(plain.calls) and len(got.calls) == 24
    assert [call["total"] for call in got.calls] == [12] * 24
    assert sigmas(got.calls)[12] == pytest.approx(1, rel=0.01) and all(
        call["finite"] for call in got.calls
    )
    assert ours(got.values) == FULL and rms(plain.image, got.image) > 1
    assert alike(got.image, eps.picture(**KARRAS, **refine()).image)  # same seed, same picture
    assert alike(plain.image, eps.picture(**KARRAS).image)


def test_less_noise_changes_less(eps):
    plain = eps.picture(**KARRAS)
    moved = [
        rms(plain.image, eps.picture(**KARRAS, **refine({"noise": noise})).image)
        for noise in (0.0, 0.1, 0.3, 1.0)
    ]
    assert moved[0] == 0 and moved == sorted(moved)


def test_the_palette_is_locked(eps):
    """The stand-in VAE makes of a latent's channel mean, but for clipping, the mean of a colour."""
    ask = {"width": 256, "height": 256, "steps": 12, "seed": 3}
    plain = eps.picture(**EULER | {"scheduler": "Karras"} | ask)
    change = {}
    for lock in (0, 1):
        got = eps.picture(
            **EULER | {"scheduler": "Karras"} | ask, **refine({"lock": lock, "noise": 0.3})
        )
        change[lock] = np.abs(got.image.mean((0, 1)) - plain.image.mean((0, 1))).max()
    assert change[1] < 1.5 and change[1] < change[0]


@pytest.mark.parametrize(("steps", "calls"), [(2, 2), (8, 6), (20, 12)])
def test_as_it_comes_it_costs_no_more_calls_than_the_picture(eps, steps, calls):
    got = eps.picture(**KARRAS | {"steps": steps}, **refine())
    assert len(got.calls) == steps + calls <= 2 * steps


def test_the_sampler_isdo_and_the_refinement_go_together(eps):
    both = {"ISDO": {"args": [{"order": 2}]}} | refine()["alwayson_scripts"]
    got = eps.picture(sampler_name="ISDO", steps=12, alwayson_scripts=both)
    assert ours(got.values) == {"ISDO order": "2", **FULL} and len(got.calls) == 24


def test_the_prompt_stays_as_it_was_at_the_end(eps):
    got = eps.picture(
        **KARRAS, **refine(), prompt="a [cat:dog:.5]", negative_prompt="[bad:worse:.3]"
    )
    words = [call["cond"] for call in got.calls]
    assert words[0] != words[11] and set(words[11:]) == {words[11]}
    assert len({call["uncond"] for call in got.calls[11:]}) == 1


def test_the_prompt_changes_over_all_calls_of_the_script(eps):
    got = script(eps, prompt="a [cat:dog:.5]", steps=20)
    words = [call["cond"] for call in got.calls]
    assert len(words) == 12 and words[0] != words[-1]
    assert 5 <= words.count(words[0]) <= 7 and words == sorted(words, key=words.index)


@pytest.mark.parametrize("name", ["Heun", "Euler a", "DPM++ 2M SDE", "ISDO"])
def test_use_same_sampler_stays_within_the_calls(eps, name):
    ask = {"sampler_name": name, "steps": 12}
    plain = eps.picture(**ask)
    got = eps.picture(**ask, **refine({"same": True}))
    assert 4 <= len(got.calls) - len(plain.calls) <= 12
    assert ours(got.values)["ISDO refine same sampler"] == "True" and all(
        call["finite"] for call in got.calls
    )
    assert alike(got.image, eps.picture(**ask, **refine({"same": True})).image)
    assert rms(got.image, eps.picture(**ask, **refine()).image) > 0.1


def test_a_sampler_without_a_schedule_leaves_the_picture(eps):
    if "DPM fast" not in [sampler["name"] for sampler in eps.get("/sdapi/v1/samplers")]:
        pytest.skip("this WebUI has no DPM fast")
    ask = {"sampler_name": "DPM fast", "steps": 12}
    got = eps.picture(**ask, **refine({"same": True}))
    assert alike(got.image, eps.picture(**ask).image) and set(ours(got.values)) == {
        "ISDO refine problem"
    }
    assert (
        '"Use same sampler" off' in eps.text()
        and '"Use same sampler" off' in got.values["ISDO refine problem"]
    )


# ---------------------------------------------------------------------------------------------------- batches, hires, masks


def test_pictures_do_not_know_their_neighbours(eps):
    got = eps.picture(**KARRAS, **refine(), seed=5, batch_size=2, n_iter=2)
    assert got.seeds == [5, 6, 7, 8] and len(got.calls) == 48
    alone = [eps.picture(**KARRAS, **refine(), seed=seed).image for seed in got.seeds]
    for one, other in zip(got.images[-4:], alone, strict=True):
        assert alike(one, other)
    assert [ours(eps.parse(text)) for text in got.texts[-4:]] == [FULL] * 4


def test_the_script_with_batches(eps):
    got = script(eps, seed=5, batch_size=2, n_iter=2)
    alone = script(eps, seed=8)
    assert len(got.calls) == 24 and alike(got.images[-1], alone.image)
    assert rms(got.images[-1], got.images[-2]) > 1


def test_variation_seeds_vary_the_refinement(eps):
    ask = {"subseed_strength": 0.5, "seed": 5, "init_images": [encode(scene())]}
    first, second = (script(eps, **ask, subseed=n) for n in (1, 2))
    assert rms(first.image, second.image) > 1 and alike(
        first.image, script(eps, **ask, subseed=1).image
    )


@pytest.mark.parametrize("upscaler", ["Latent", "Lanczos"])
def test_hires_is_refined_once_at_the_end(eps, upscaler):
    plain = hires(eps, **KARRAS, hr_upscaler=upscaler)
    got = hires(eps, **KARRAS, hr_upscaler=upscaler, **refine())
    assert sigmas(got.calls)[:18] == sigmas(plain.calls) and len(got.calls) == 30
    assert got.calls[-1]["shape"][-2:] == [32, 32] and got.image.shape == (256, 256, 3)
    assert ours(got.values) == FULL and rms(got.image, plain.image) > 1


def test_img2img_s_accordion(eps):
    ask = KARRAS | {"init_images": [encode(scene())], "denoising_strength": 0.999}
    plain, got = eps.picture("img2img", **ask), eps.picture("img2img", **ask, **refine())
    assert len(got.calls) == len(plain.calls) + 12 and ours(got.values) == FULL


def masked(full, **values):
    return values | {
        "init_images": [encode(scene())], "mask": encode(mask()), "mask_blur": 0, "inpainting_fill": 1,
        "inpaint_full_res": full, "inpaint_full_res_padding": 16,
    }  # fmt: skip


@pytest.mark.parametrize("full", [False, True])
def test_kept_pixels_are_those_that_euler_keeps(eps, full):
    ask = masked(full, **KARRAS, denoising_strength=0.999)
    euler, got, refined = (
        eps.picture("img2img", **ask),
        script(eps, **ask),
        eps.picture("img2img", **ask, **refine()),
    )
    kept = mask()[..., 0] == 0
    if full:  # the part that was cut out comes back resized, with any sampler
        kept = np.zeros_like(kept)
        kept[:16], kept[:, :16] = True, True
    for picture in (got.image, refined.image):
        assert same(picture[kept], euler.image[kept])
        assert rms(picture[mask()[..., 0] > 0], scene()[mask()[..., 0] > 0]) > 1
    assert ours(got.values) == FULL and got.values["Script"] == "ISDO refine"


def test_pictures_in_between(eps):
    alone = eps.picture(**KARRAS, **refine())
    got = eps.picture(**KARRAS, **refine({"show": True}))
    assert len(got.images) == len(got.texts) == 4 and alike(got.image, alone.image)
    plain = eps.picture(**KARRAS).image
    assert all(
        rms(picture, other) > 0.5 for picture in got.images[1:] for other in (got.image, plain)
    )


def test_a_detailer_after_it_draws_its_parts_unrefined(eps):
    detail = {"Live detailer": {"args": [True]}}
    plain = eps.picture(**KARRAS, alwayson_scripts=detail)
    got = eps.picture(**KARRAS, alwayson_scripts=detail | refine()["alwayson_scripts"])
    assert len(plain.calls) > 12 and len(got.calls) == len(plain.calls) + 12
    chosen = script(eps, alwayson_scripts=detail | refine()["alwayson_scripts"])
    assert len(chosen.calls) == len(
        plain.calls
    )  # twelve for the script's refinement as for Euler's picture
    assert ours(got.values) == ours(chosen.values) == FULL


# ------------------------------------------------------------------------------------------------ interrupt, skip, preview


def while_refining(webui, act, ask):
    """Call ``act`` when the refinement is some calls old; return the picture and the seconds from
    then to its end."""
    return meanwhile(webui, act, ask, range(6, 195))


LONG = {"iterations": 100, "calls": 2}
BIG = {"width": 256, "height": 256}


def counts(values):
    """Return (iterations, calls) that an infotext tells."""
    words = values["ISDO refine"].split()
    return int(words[0]), int(words[2])


def test_interrupt_gives_the_best_so_far(eps):
    start = encode(scene(256))
    got, seconds = while_refining(
        eps,
        lambda: eps.post("/sdapi/v1/interrupt", {}),
        lambda: script(eps, LONG, init_images=[start], **BIG),
    )
    iterations, calls = counts(got.values)
    assert 3 <= iterations < 100 and calls // 2 == iterations and seconds < 10
    # the noise of iteration k is that of a whole run: the picture is one it passed through
    between = script(
        eps, LONG | {"show": True, "iterations": iterations + 1}, init_images=[start], **BIG
    )
    assert alike(got.image, between.images[iterations])
    assert ours(script(eps).values) == FULL


def test_interrupt_of_the_accordion_keeps_the_picture(eps):
    ask = KARRAS | BIG | {"steps": 4}
    got, seconds = while_refining(
        eps, lambda: eps.post("/sdapi/v1/interrupt", {}), lambda: eps.picture(**ask, **refine(LONG))
    )
    assert 3 <= counts(got.values)[0] < 100 and seconds < 10
    assert got.image.std() > 5 and ours(eps.picture(**ask, **refine()).values) == {
        "ISDO refine": "1 iteration, 3 calls"
    }


def test_skip_goes_on_with_the_next_picture(eps):
    ask = KARRAS | BIG | {"steps": 4, "n_iter": 2} | refine(LONG)
    got, _ = while_refining(eps, lambda: eps.post("/sdapi/v1/skip", {}), lambda: eps.picture(**ask))
    told = [counts(eps.parse(text)) for text in got.texts[-2:]]
    assert told[0][0] < 100 and told[1] == (100, 200)


def test_progress_never_falls_and_shows_the_picture(eps):
    seen, previews, done = [], [], []
    ask = (
        KARRAS
        | BIG
        | {"steps": 30, "hr_second_pass_steps": 10}
        | refine({"iterations": 15, "calls": 2})
    )
    thread = threading.Thread(target=lambda: done.append(hires(eps, **ask)))
    thread.start()
    while thread.is_alive():
        now = eps.get("/sdapi/v1/progress")
        if now["state"]["job_count"] > 0 and now["state"]["sampling_steps"]:
            seen.append((now["state"]["job_no"], now["state"]["sampling_step"]))
            previews.append((now["state"]["job_no"], now["current_image"]))
            assert now["state"]["job_count"] in (2, 3) and now["progress"] <= 1
        time.sleep(0.05)
    assert len(done[0].calls) == 70 and seen == sorted(seen)
    assert (
        max(step for job, step in seen if job == 2) > 5
    )  # three jobs: both passes, and the refinement
    if eps.get("/sdapi/v1/options").get("live_previews_enable"):
        assert any(picture for job, picture in previews if job == 2)


# ------------------------------------------------------------------------------------------------------- arguments, leaks


@pytest.mark.parametrize(
    ("args", "word"),
    [
        ([True, "four"], "iterations"),
        ([{"noise": 99}], "noise"),
        ([{"nois": 1}], "nois"),
        ([True, *range(40)], "arguments"),
        (["yes"], "enabled"),
        ({"generators": "spin"}, "generators"),
        ({"same": 1}, "same"),
    ],
)
def test_wrong_arguments_of_the_accordion_answer_422_with_a_message(eps, args, word):
    with pytest.raises(Refused) as refused:
        eps.picture(**KARRAS, alwayson_scripts={"ISDO refine": {"args": args}})
    assert refused.value.status == 422 and word in refused.value.text


@pytest.mark.parametrize(
    ("args", "word"),
    [
        ([-1], "iterations"),
        ([{"nois": 1}], "nois"),
        (list(range(40)), "arguments"),
        ([True], "iterations"),
    ],
)
def test_wrong_arguments_of_the_script_answer_422_with_a_message(eps, args, word):
    with pytest.raises(Refused) as refused:
        script(eps, *args)
    assert refused.value.status == 422 and word in refused.value.text


def test_a_wrong_value_in_the_settings_costs_the_refinement_and_not_the_picture(eps):
    plain = eps.picture(**KARRAS)
    got = eps.picture(**KARRAS, **refine(), override_settings={"isdo_refine_lock": 99})
    said = "the picture is not refined. Settings > ISDO refine: lock is 99"
    assert alike(plain.image, got.image) and said in got.values["ISDO refine problem"]
    assert f"ISDO refine: {said}" in eps.text()
    with pytest.raises(Refused) as refused:
        script(eps, override_settings={"isdo_refine_lock": 99})
    assert "lock is 99" in refused.value.text
    assert ours(eps.picture(**KARRAS, **refine()).values) == FULL


def test_arguments_by_place_and_by_name(eps):
    told = {"ISDO refine iterations": "3", "ISDO refine calls": "2", "ISDO refine noise": "0.5"}
    told |= {"ISDO refine": "3 iterations, 6 calls"}
    for args in ([True, 3, 2, 0.5], [{"iterations": 3, "calls": 2, "noise": 0.5}]):
        assert ours(eps.picture(**KARRAS, **refine(*args)).values) == told
    pictures = [
        script(eps, *args) for args in ([3, 2, 0.5], [{"iterations": 3, "calls": 2, "noise": 0.5}])
    ]
    assert ours(pictures[0].values) == ours(pictures[1].values) == told and alike(
        pictures[0].image, pictures[1].image
    )


def test_nothing_of_ours_is_left_in_the_next_picture(eps):
    assert ours(eps.picture(**KARRAS, **refine({"noise": 0.5})).values) == FULL | {
        "ISDO refine noise": "0.5"
    }
    assert ours(eps.picture(**KARRAS).values) == {}
    script(eps, {"noise": 0.5})
    plain = eps.picture("img2img", init_images=[encode(scene())], **KARRAS)
    assert ours(plain.values) == {} and "Script" not in plain.values


def test_grid_over_settings_leaks_no_keys(eps):
    got = grid(
        eps,
        ("[ISDO refine] Iterations", "2,0,4"),
        ("[ISDO refine] Undo the action", "True,False"),
        **KARRAS,
    )
    cells = [ours(eps.parse(text)) for text in got.texts]
    for row, undo in zip((cells[:3], cells[3:]), ({}, {"ISDO refine undo": "False"}), strict=True):
        assert row == [
            {"ISDO refine": "2 iterations, 6 calls", "ISDO refine iterations": "2"} | undo, {}, FULL | undo
        ]  # fmt: skip
    assert alike(got.images[1], eps.picture(**KARRAS).image)
    assert alike(got.images[0], eps.picture(**KARRAS, **refine({"iterations": 2})).image)
    assert alike(got.images[2], eps.picture(**KARRAS, **refine()).image)


def test_grid_refuses_wrong_values(eps):
    with pytest.raises(Refused) as refused:
        grid(eps, ("[ISDO refine] Lock", "1,99"), **KARRAS)
    assert "lock" in refused.value.text


# ---------------------------------------------------------------------------------------------------------- other models


def test_v_prediction(webui):
    webui.model("tiny-v")
    plain, got = webui.picture(**KARRAS), webui.picture(**KARRAS, **refine())
    assert len(got.calls) == 24 and ours(got.values) == FULL and rms(plain.image, got.image) > 1


@pytest.mark.parametrize("checkpoint", ["tiny-flux", "tiny-sd3", "tiny-chroma"])
def test_flow_models(webui, checkpoint):
    webui.model(checkpoint)
    # the default preview would be downloaded
    ask = {
        "scheduler": "Simple",
        "cfg_scale": 1,
        "steps": 12,
        "override_settings": {"show_progress_type": "Approx cheap"},
    }
    ask |= EULER
    plain, got = webui.picture(**ask), webui.picture(**ask, **refine())
    assert len(got.calls) == 24 and ours(got.values) == FULL and rms(plain.image, got.image) > 1
    levels = sigmas(got.calls)[12:]
    assert (
        levels[0] == pytest.approx(0.5, abs=0.01) and max(levels) < 0.51
    )  # as much noise as signal
    kept = script(webui, **masked(False, **ask))
    assert same(
        kept.image[mask()[..., 0] == 0],
        webui.picture("img2img", **masked(False, **ask)).image[mask()[..., 0] == 0],
    )


# ------------------------------------------------------------------------------------------------------ the whole session


def test_the_console_has_no_trouble_of_ours(webui):
    """Runs last in this file: what the WebUI said of us during all of the above."""
    text = webui.text()
    assert (
        "Error loading script" not in text
        and "Error running" not in text
        and "Error in ISDO refine" not in text
    )
    for part in text.split("Traceback (most recent call last)")[1:]:
        trace = part[:6000].split("\n---")[0]
        if "isdo/" in trace:
            assert "HTTPException" in trace or "Refused" in trace, trace[-1500:]
