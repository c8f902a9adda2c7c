"""ISDO invert in a real WebUI, over HTTP: see livehost.py for what to set, and run python -m pytest
tests/live_invert.py."""

import livehost
import numpy as np
import pytest
from live_webui import EULER, mask, scene
from livehost import Refused, encode, ours, rms

from isdo.hosts.request import INVERT
from isdo.settings import INVERT_HOST_FIELDS

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(livehost.missing() is not None, reason=str(livehost.missing())),
]

ISDO = EULER | {
    "sampler_name": "ISDO",
    "scheduler": "Automatic",
    "steps": 24,
    "cfg_scale": 1.0,
    "prompt": "a cat",
}


def script(webui, picture=None, *, values=None, **ask):
    """Run the script of img2img's list."""
    request = {
        "init_images": [encode(scene() if picture is None else picture)],
        "script_name": "ISDO invert",
    }
    return webui.picture(
        "img2img", **request, **ISDO | ask, script_args=[{"prompt": "a cat"} | (values or {})]
    )


def plain(webui, picture, **ask):
    return webui.picture(
        "img2img", init_images=[encode(picture)], **ISDO | {"denoising_strength": 1.0} | ask
    )


def sigmas(calls):
    return [call["sigma"][0] for call in calls]


@pytest.fixture(params=["tiny-eps", "tiny-v", "tiny-sdxl", "tiny-flux", "tiny-sd3"])
def model(webui, request):
    webui.model(request.param)
    return webui


@pytest.fixture
def eps(webui):
    webui.model("tiny-eps")
    return webui


def test_the_script_is_listed_once_in_img2img(webui):
    found = [s for s in webui.get("/sdapi/v1/script-info") if s["name"] == "isdo invert"]
    assert [(s["is_img2img"], s["is_alwayson"], len(s["args"])) for s in found] == [
        (True, False, len(INVERT_HOST_FIELDS))
    ]
    schema = webui.get("/isdo/v1/schema")["invert"]
    assert schema["script_args"] == [field.key for field in INVERT_HOST_FIELDS]
    assert {key: value["default"] for key, value in schema["settings"].items()} == INVERT.defaults


def test_the_same_prompt_brings_the_picture_back(model):
    """The picture is one that the model drew; the number is in grey levels, and holds the VAE's own
    way to and fro."""
    picture = model.picture(**ISDO | {"seed": 5}).image
    got, other = script(model, picture), plain(model, picture, seed=6)
    vae = rms(
        picture,
        model.picture(
            "img2img", init_images=[encode(picture)], **ISDO | {"denoising_strength": 0.0}
        ).image,
    )
    back, else_where = rms(picture, got.image), rms(picture, other.image)
    print(
        f"\nround trip: {back:.2f} grey levels, the VAE alone {vae:.2f}, another seed {else_where:.1f}"
    )
    assert back < max(3.0, 1.5 * vae) < 0.5 * else_where
    assert (
        ours(got.values)["ISDO invert"].startswith("24 steps, ")
        and got.values["Script"] == "ISDO invert"
    )


def test_other_words_draw_another_picture_from_the_same_noise(eps):
    picture = eps.picture(**ISDO | {"seed": 5}).image
    same, other = script(eps, picture), script(eps, picture, prompt="a dog")
    assert rms(same.image, other.image) > 0.5
    assert ours(other.values)["ISDO invert prompt"] == "a cat"


def test_the_way_up_comes_first_and_rises(eps):
    got = script(eps, values={"negative_prompt": "blurry", "cfg": 2.0}, cfg_scale=7.0)
    levels = sigmas(got.calls)
    top = levels.index(max(levels))
    assert levels[: top + 1] == sorted(levels[: top + 1]) and levels[top:] == sorted(
        levels[top:], reverse=True
    )
    assert len(levels) - top == 24 and all(call["finite"] for call in got.calls)


@pytest.mark.parametrize("name", ["Euler", "DPM++ 2M", "Heun"])
def test_samplers_of_the_host_draw_from_it(eps, name):
    picture = eps.picture(**ISDO | {"seed": 5}).image
    got = script(eps, picture, sampler_name=name, scheduler="Karras", steps=40)
    other = plain(eps, picture, sampler_name=name, scheduler="Karras", steps=40, seed=6)
    assert rms(picture, got.image) < 0.5 * rms(picture, other.image)


def test_less_strength_goes_less_far_up(eps):
    got = script(eps, values={"full": False}, denoising_strength=0.5)
    assert max(sigmas(got.calls)) < 0.5 * max(sigmas(script(eps).calls))


def test_under_a_mask_the_kept_part_stays(eps):
    picture = scene()
    got = script(
        eps,
        picture,
        prompt="a dog",
        mask=encode(mask()),
        inpainting_fill=1,
        mask_blur=0,
        inpaint_full_res=False,
    )
    kept = mask().max(-1) == 0
    assert np.abs(got.image.astype(int) - picture)[kept].max() <= 2


def test_a_batch_is_its_pictures(eps):
    both = script(eps, batch_size=2)
    assert len(both.images) >= 2 and rms(both.images[0], script(eps).image) < 1


def test_wrong_arguments_are_refused_in_words(eps):
    with pytest.raises(Refused, match="promt"):
        script(eps, values={"promt": "x"})
    with pytest.raises(Refused, match="does not run on a schedule"):
        script(eps, sampler_name="DPM fast")
