"""Drawing, then repainting in a real WebUI: see livehost.py for what to set, and run pytest
tests/live_odyssey.py."""

import livehost
import numpy as np
import pytest
from live_faults import HIRES
from live_refine import alike, sigmas
from live_webui import EULER, ISDO, SCHEDULE, grid, scene, with_args
from livehost import Refused, encode, meanwhile, ours, rms, steps_of

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(livehost.missing() is not None, reason=str(livehost.missing())),
]
ODYSSEY = with_args({"preset": "Odyssey"}) | {"steps": 24, "scheduler": "Karras"}
SMALL = with_args({"preset": "Odyssey", "draw": 6}) | {"steps": 12, "scheduler": "Karras"}


@pytest.fixture(params=["tiny-eps", "tiny-v", "tiny-flux", "tiny-sd3"])
def model(webui, request):
    webui.model(request.param)
    webui.flow = request.param in ("tiny-flux", "tiny-sd3")
    return webui


@pytest.fixture
def eps(webui):
    webui.model("tiny-eps")
    return webui


def test_a_run_of_n_steps_is_n_calls_on_every_model(model):
    ask = ODYSSEY | ({"scheduler": "Automatic", "cfg_scale": 1} if model.flow else {})
    got, plain = model.picture(**ask), model.picture(**ask | ISDO | {"alwayson_scripts": {}})
    assert len(got.calls) == len(plain.calls) == 24 and ours(got.values) == {"ISDO draw": "12"}
    levels = sigmas(got.calls)
    assert [i for i in range(1, 24) if levels[i] > levels[i - 1]] == [12, 15, 18, 21]
    assert rms(got.image, plain.image) > 3 and alike(model.picture(**ask).image, got.image)


def test_the_host_counts_the_ways_back_as_steps(eps):
    ask = {"prompt": "a [cat:dog:.75]", "negative_prompt": "[bad:worse:0.3]"}
    assert steps_of(eps.picture(**SMALL | ask).calls) == steps_of(
        eps.picture(**SMALL | EULER | ask).calls
    )


def test_a_picture_does_not_know_its_neighbours(eps):
    together = eps.picture(**SMALL, batch_size=2, seed=5)
    assert alike(together.images[-1], eps.picture(**SMALL, seed=6).image)
    assert alike(together.images[-2], eps.picture(**SMALL, seed=5).image)


def test_the_infotext_brings_the_picture_back(eps):
    got = eps.picture(**SMALL, seed=3)
    values = {"draw": int(got.values["ISDO draw"])}
    again = eps.picture(**SMALL | with_args(values), seed=int(got.values["Seed"]))
    assert (
        got.values["ISDO draw"] == "6"
        and "ISDO repainting" not in got.values
        and alike(again.image, got.image)
    )


@pytest.mark.parametrize("amid", [3, 8])
def test_interrupt_gives_a_finished_picture(eps, amid):
    """While it is drawn as every sampler does; then the picture as it was before this way back."""
    ask = with_args({"draw": 6}) | {
        "steps": 150,
        "scheduler": "Karras",
        "width": 256,
        "height": 256,
    }
    got, seconds = meanwhile(
        eps,
        lambda: eps.post("/sdapi/v1/interrupt", {}),
        lambda: eps.picture(**ask),
        range(amid, 148),
    )
    assert len(got.calls) < 150 and seconds < 10 and got.image.std() > 5
    ways = max(len(got.calls) - 6, 0) // 3
    if ways > 1:  # its noise is that of a shorter run with as many whole ways
        whole = eps.picture(**ask | {"steps": 150})
        assert rms(got.image, whole.image) < 60


def test_hires_repaints_no_more_than_its_strength(eps):
    ask = SMALL | HIRES | {"denoising_strength": 0.4, "hr_second_pass_steps": 20}
    try:
        got = eps.picture(**ask, hr_additional_modules=["Use same choices"])
    except Refused as refused:
        pytest.skip(f"this WebUI has no such hires fix: {refused.text[:200]}")
    levels = sigmas(got.calls)
    second = levels[12:]
    assert max(second) == pytest.approx(second[0], rel=1e-3) and second[0] < levels[0] / 2


def test_img2img_and_inpainting(eps):
    mask = np.zeros((128, 128, 3), np.uint8)
    mask[:, 64:] = 255
    ask = {
        "init_images": [encode(scene())],
        "denoising_strength": 0.75,
        "steps": 20,
        "scheduler": "Karras",
    }
    got = eps.picture("img2img", **with_args({"draw": 6}) | ask)
    levels = sigmas(got.calls)
    assert len(got.calls) == 16 and max(levels) == pytest.approx(levels[0], rel=1e-3)
    masked = ask | {"mask": encode(mask), "inpainting_fill": 1, "mask_blur": 0}
    ours_ = eps.picture("img2img", **with_args({"draw": 6}) | masked)
    euler = eps.picture("img2img", **EULER | masked)
    assert np.abs(ours_.image[:, :56].astype(float) - euler.image[:, :56]).max() <= 1
    assert rms(ours_.image[:, 72:], euler.image[:, 72:]) > 1


def test_a_grid_over_the_presets(eps):
    ask = ISDO | {"steps": 18, "scheduler": "Karras"}
    got = grid(eps, ("[ISDO] Preset", "Odyssey,Fast"), **ask)
    assert [ours(eps.parse(text)) for text in got.texts] == [{"ISDO draw": "12"}, {}]
    assert alike(got.images[1], eps.picture(**ask).image) and rms(*got.images) > 3
    with pytest.raises(Refused, match="preset is"):
        grid(eps, ("[ISDO] Preset", "Fast,Slow"), **ask)


def test_the_schedule_of_the_user_gives_the_pace(eps):
    ask = {"steps": 24}
    paces = {
        name: sigmas(eps.picture(**ODYSSEY | ask | {"scheduler": name}).calls)
        for name in ("Karras", SCHEDULE)
    }
    assert all(
        levels[0] == pytest.approx(paces["Karras"][0], rel=1e-2) for levels in paces.values()
    )
    assert paces["Karras"][12:] == pytest.approx(
        paces[SCHEDULE][12:]
    )  # the ways back are ISDO's own
