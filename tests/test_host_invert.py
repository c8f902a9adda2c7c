"""ISDO invert in a double of the WebUIs: what comes back, what the model is asked, what is told,
and how it ends early."""

from types import SimpleNamespace

import pytest
import torch
from hostdouble import MEAN, Host, HTTPException, asked

import isdo
from isdo import Settings
from isdo.hosts.request import INVERT
from isdo.settings import INVERT_HOST_FIELDS

KINDS = {
    "a1111": {}, "a1111 1.8": {"schedules": False}, "forge": {"forge": True},
    "forge flow": {"forge": True, "prediction": "const"},
}  # fmt: skip


def started(**kind):
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


def img2img(**changes):
    return asked(
        "img2img",
        **{"sampler_name": "ISDO", "scheduler": "Automatic", "steps": 8, "cfg_scale": 1.0}
        | changes,
    )


def script(host, p, *args):
    """Run the script of the dropdown on p."""
    host.ask(p, True)
    (found,) = [each for each in p.scripts if each.title() == "ISDO invert"]
    processed = found.run(p, *args)
    assert [error for error in host.reported if isinstance(error, Exception)] == []
    x = torch.stack([image.data for image in processed.images])
    return SimpleNamespace(
        x=x, p=p, texts=processed.infotexts, calls=list(host.seen), processed=processed
    )


def ours(params):
    return {key: value for key, value in params.items() if key in INVERT.infotext_keys}


def up_and_down(got):
    """Return (the calls of the way up, those of the way down)."""
    top = max(range(len(got.calls)), key=lambda i: got.calls[i].sigma)
    down = (
        next(i for i in range(1, len(got.calls)) if got.calls[i].scale != got.calls[i - 1].scale)
        if mixed(got)
        else top
    )
    return got.calls[:down], got.calls[down:]


def mixed(got):
    return len({call.scale for call in got.calls}) > 1


# ------------------------------------------------------------------------------------------------------ what comes out


def test_one_script_in_img2img_and_none_in_txt2img(host):
    found = {
        tab: [each for each in host.runner(tab) if each.title() == "ISDO invert"]
        for tab in (False, True)
    }
    assert found[False] == [] and [each.alwayson for each in found[True]] == [False]


@pytest.mark.parametrize("values", [{}, {"full": False}, {"steps": 33}, {"cfg": 2.0}], ids=str)
def test_the_picture_comes_back(host, values):
    # few steps begin so far down that rounding hides what D says of the variance there
    p = img2img(batch_size=2, steps=30)
    picture = p.init_images.clone()
    got = script(host, p, values)
    assert (got.x - picture).abs().max() < 1e-3 * picture.abs().max()
    plain = host.process_images(host.ask(img2img(batch_size=2, steps=30), True))
    assert (
        plain.images[0].data - picture[0]
    ).abs().max() > 0.1  # the seed's noise draws another one


@pytest.mark.parametrize("sampler", ["Euler", "Heun"])
def test_any_sampler_starts_from_the_picture_s_noise(host, sampler):
    p = img2img(
        sampler_name=sampler,
        scheduler="Karras" if host.prediction != "const" else "ISDO curvature",
        steps=40,
    )
    picture = p.init_images.clone()
    got = script(host, p, {"cfg": 2.0})
    up, down = up_and_down(got)
    assert down[0].x.std() > 0.9 * down[0].sigma  # pure noise, and not the seed's
    assert (got.x - picture).square().mean().sqrt() < 0.1 * picture.std()


def test_the_noise_is_that_of_the_library(host):
    p = img2img(steps=9)
    got = script(host, p, {"cfg": 2.0})
    _, down = up_and_down(got)
    path = "flow" if host.prediction == "const" else "ve"

    class Model:
        def __init__(self):
            self.inner_model = host.wrap()

        def __call__(self, x, sigma):
            return self.inner_model.denoise(x, sigma)

    sampler = host.create("ISDO")
    sampler.begin(p)
    sampler.steps_from_image = 9
    sigmas = sampler.get_sigmas(p, 9)
    want = isdo.invert(Model(), p.init_images, sigmas, disable=True, settings=Settings(path=path))
    torch.testing.assert_close(down[0].x, want, rtol=0, atol=2e-5 * float(sigmas[0]))


def test_pictures_do_not_know_their_neighbours(host):
    p = img2img(batch_size=3, init_images=torch.randn(3, 4, 8, 8) * 0.5 + MEAN)
    together = script(host, p).x
    for i in range(3):
        alone = script(host, img2img(init_images=p.init_images[i : i + 1], seed=p.seed + i)).x
        assert torch.equal(alone[0], together[i])


def test_the_strength_is_the_picture_s_where_it_is_not_overridden(host):
    full, part = (
        script(host, img2img(denoising_strength=0.4), {"full": on, "cfg": 2.0})
        for on in (True, False)
    )
    tops = [up_and_down(got)[1][0].sigma for got in (full, part)]
    assert tops[1] < 0.6 * tops[0]
    assert max(call.sigma for call in part.calls) == pytest.approx(tops[1])
    assert full.p.denoising_strength == 0.4  # a copy was worked on


def test_a_mask_is_the_drawing_s_and_kept_pixels_stay(host):
    mask = torch.zeros(1, 4, 8, 8)
    mask[..., :4] = 1
    p = img2img(mask=mask, nmask=1 - mask)
    got = script(host, p, {"cfg": 2.0})
    up, down = up_and_down(got)
    assert all(call.masked is None for call in up) and all(call.masked is mask for call in down)
    assert torch.equal(got.x[..., :4], p.init_images[..., :4])


# --------------------------------------------------------------------------------------------- what the model is asked


def test_the_way_up_has_the_original_prompts_and_guidance(host):
    p = img2img(cfg_scale=7.0, prompt="a dog", batch_size=2)
    got = script(host, p, {"prompt": "a cat <lora:x:1>", "negative_prompt": "blurry", "cfg": 2.0})
    up, down = up_and_down(got)
    assert {tuple(call.prompts) for call in up} == {("a cat ", "a cat ")} and {
        call.scale for call in up
    } == {2.0}
    assert {tuple(call.negative) for call in up} == {("blurry", "blurry")}
    assert {call.scale for call in down} == {7.0} and all(
        "cat " not in call.prompts for call in down
    )
    assert got.p.extra_network_data == {}


def test_the_counter_goes_backwards_on_the_way_up(host):
    got = script(host, img2img(), {"cfg": 2.0})
    up, down = up_and_down(got)
    steps = [call.step for call in up]
    assert steps == sorted(steps, reverse=True) and steps[0] == 7 and steps[-1] in (0, 1)
    assert [call.step for call in down] == list(range(8))


def test_steps_of_its_own(host):
    got = script(host, img2img(), {"steps": 20, "cfg": 2.0})
    up, down = up_and_down(got)
    assert len(down) == 8 and len({call.sigma for call in up}) in (19, 20)


def test_solvers_of_several_calls_a_step_go_up_as_well(a1111):
    a1111.opts.isdo_solver = "srk4"
    got = script(a1111, img2img(), {"cfg": 2.0})
    up, down = up_and_down(got)
    assert len(up) == 2 + 4 * 7 - 1 and len(down) == 4 * 7 + 1


@pytest.mark.parametrize(
    ("option", "value"), [("isdo_tolerance", 0.01), ("isdo_curvature_penalty", 0.1)]
)
def test_a_tolerance_and_a_penalty_are_the_drawing_s_alone(a1111, option, value):
    setattr(a1111.opts, option, value)
    p = img2img(steps=40)
    got = script(a1111, p)
    assert (got.x - p.init_images).abs().max() < 0.05


# ------------------------------------------------------------------------------------------- what is told, and how it ends


def test_the_infotext_says_it_and_it_comes_back(host):
    values = {"prompt": "a cat, sitting", "cfg": 1.5, "steps": 12, "full": False}
    got = script(host, img2img(), values)
    text = got.texts[0]
    assert text["Script"] == "ISDO invert" and ours(text)["ISDO invert"].startswith("12 steps, ")
    assert {INVERT.by_key[key].infotext: value for key, value in values.items()}.items() <= ours(
        text
    ).items()
    assert INVERT.read({key: str(value) for key, value in text.items()}) == INVERT.defaults | values
    assert got.p.extra_generation_params == {}
    plain = script(host, img2img())
    assert set(ours(plain.texts[0])) == {"ISDO invert"}


def test_pasting_sets_the_controls(a1111):
    (found,) = [each for each in a1111.runner(True) if each.title() == "ISDO invert"]
    assert [control.label for control in found.controls] == [
        field.label for field in INVERT_HOST_FIELDS
    ]
    text = {
        "Script": "ISDO invert",
        "ISDO invert": "8 steps, 9 calls",
        "ISDO invert prompt": "7",
        "ISDO invert steps": "12",
    }
    pasted = {control.label: function(text) for control, function in found.infotext_fields}
    assert (
        pasted["Original prompt"] == "7"
        and pasted["Inversion steps"] == 12
        and pasted["Original CFG scale"] == 1.0
    )
    assert {function({"Steps": "8"}) for _, function in found.infotext_fields} == {None}


@pytest.mark.parametrize("after", [0, 3])
def test_interrupted_on_the_way_up_nothing_is_drawn(host, after):
    p = img2img()
    host.interrupt_at = after
    got = script(host, p)
    assert torch.equal(got.x, p.init_images) and len(got.calls) == after + 1


def test_one_click_on_interrupt_stops_the_only_picture(host):
    host.stop_at = 4
    p = img2img()
    got = script(host, p)
    assert len(got.calls) <= 6 and torch.equal(got.x, p.init_images)


def test_the_progress_bar_counts_two_jobs_a_batch(host):
    script(host, img2img(n_iter=2))
    assert host.state.job_count == 4 and host.state.job_no == 4


def test_nan_is_an_error_with_a_remedy(a1111):
    a1111.nan_at = 2
    with pytest.raises(
        RuntimeError, match=r"NaN or infinity at call 3 of .* \(start the WebUI with --no-half\)"
    ):
        script(a1111, img2img())


def test_a_sampler_without_a_schedule_is_refused_in_words(a1111):
    with pytest.raises(HTTPException) as said:
        script(a1111, img2img(sampler_name="DPM fast", scheduler="Karras"))
    assert (
        said.value.status_code == 422 and "DPM fast does not run on a schedule" in said.value.detail
    )


@pytest.mark.parametrize("args", [[{"promt": "x"}], [3], [{"cfg": 0.5}], ["", "", 1.0, 0, True, 1]])
def test_the_api_refuses_wrong_arguments(a1111, args):
    route = SimpleNamespace(
        path="/sdapi/v1/img2img", dependant=SimpleNamespace(call=lambda body: body)
    )
    app = SimpleNamespace(routes=[route], add_api_route=lambda *args, **kwargs: None)
    for begin in a1111.callbacks["on_app_started"]:
        begin(None, app)

    def ask(given):
        body = SimpleNamespace(alwayson_scripts=None, script_name="isdo invert", script_args=given)
        return route.dependant.call(body).script_args

    with pytest.raises(HTTPException) as said:
        ask(args)
    assert said.value.status_code == 422
    nothing = [None] * (len(INVERT_HOST_FIELDS) - 1)
    assert ask(["a cat", None, 2.0]) == [{"prompt": "a cat", "cfg": 2.0}, *nothing] and ask([]) == [
        {},
        *nothing,
    ]
