"""What once went wrong in real WebUIs, over HTTP: see livehost.py for what to set, and run pytest
tests/live_faults.py."""

import json
import re
import urllib.parse

import livehost
import numpy as np
import pytest
from live_refine import KARRAS, refine, script
from live_webui import CONTROLS, EULER, ISDO, SCHEDULE, scene, with_args
from livehost import Host, Refused, encode, meanwhile, ours

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(livehost.missing() is not None, reason=str(livehost.missing())),
]
HIRES = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 0.6}
LEVEL, IMAGE = {"strength": "noise level"}, {"init_images": [encode(scene())]}


@pytest.fixture(params=["tiny-eps", "tiny-flux", "tiny-sd3"])
def model(webui, request):
    webui.model(request.param)
    webui.flow = request.param != "tiny-eps"
    return webui


@pytest.fixture
def eps(webui):
    webui.model("tiny-eps")
    return webui


def schedulers(webui):
    try:
        return [row["label"] for row in webui.get("/sdapi/v1/schedulers")]
    except Refused:
        return ["Automatic"]


# ------------------------------------------------------------------------------------------------------ A. wrong pictures


@pytest.mark.parametrize("steps", [1, 2, 10])
@pytest.mark.parametrize(
    "scheduler", ["Automatic", "Karras", "Simple", "KL Optimal", "Align Your Steps", SCHEDULE]
)
def test_strength_as_noise_level_begins_where_it_was_asked(model, scheduler, steps):
    if scheduler not in schedulers(model):
        pytest.skip(f"this WebUI has no schedule {scheduler}")
    seen = {}
    for strength in (0.05, 0.3, 0.5, 0.75):
        for placement in (0, 0.75):
            ask = IMAGE | {
                "steps": steps,
                "scheduler": scheduler,
                "cfg_scale": 1 if model.flow else 5,
            }
            ask |= with_args(LEVEL | {"placement": placement})
            try:
                got = model.picture("img2img", **ask, denoising_strength=strength)
            except Refused as refused:  # a schedule of another kind
                assert model.flow and "choose the schedule" in refused.text
                continue
            levels = [call["sigma"][0] for call in got.calls]
            share = levels[0] if model.flow else levels[0] / (1 + levels[0])
            assert share == pytest.approx(strength, rel=2e-3) and levels == sorted(
                set(levels), reverse=True
            )
            seen[strength] = got.image
    if 0.05 in seen:  # the picture is still there
        assert (
            np.abs(seen[0.05].astype(float) - scene()).mean()
            < np.abs(seen[0.75].astype(float) - scene()).mean()
        )


def test_hires_with_strength_0_only_enlarges(eps):
    ask = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 0}
    for chosen in ({"scheduler": SCHEDULE}, with_args(LEVEL)):
        try:
            got = eps.picture(**EULER | chosen, **ask, hr_additional_modules=["Use same choices"])
        except Refused as refused:  # the host's own trouble with Euler and Karras as well
            with pytest.raises(Refused):
                eps.picture(
                    **EULER, scheduler="Karras", **ask, hr_additional_modules=["Use same choices"]
                )
            pytest.skip(f"this WebUI has no hires fix of strength 0: {refused.text[:200]}")
        assert len(got.calls) == 8 and got.image.shape[:2] == (256, 256)


def test_no_call_goes_below_the_user_s_own_smallest_level(eps):
    for options, least in (
        ({"sigma_min": 0.5}, 0.5),
        ({"use_old_karras_scheduler_sigmas": True}, 0.1),
    ):
        if set(options) - set(eps.get("/sdapi/v1/options")):
            continue
        got = eps.picture(**ISDO, scheduler="Karras", override_settings=options)
        assert got.calls[-1]["sigma"][0] >= least * 0.999
    assert eps.picture(**ISDO, scheduler="Karras").calls[-1]["sigma"][0] < 0.1


# ------------------------------------------------------------------------------------------------------- B. in the WebUIs


@pytest.mark.parametrize("hires", [{}, HIRES | {"hr_second_pass_steps": 3}])
@pytest.mark.parametrize("amid", ["drawing", "refining"])
def test_one_click_on_interrupt_stops_a_single_picture(eps, hires, amid):
    """The button says "after this picture" to a host that counts more jobs than one; the probe
    presses it."""
    size = {"width": 128, "height": 128} if hires else {"width": 256, "height": 256}
    ask = KARRAS | size | hires | ({"steps": 4} if amid == "refining" else {"steps": 150})
    ask |= refine({"iterations": 200, "calls": 2}) | (
        {"hr_additional_modules": ["Use same choices"]} if hires else {}
    )
    got, seconds = meanwhile(
        eps, lambda: eps.post("/live-probe/stop", {}), lambda: eps.picture(**ask), range(6, 395)
    )
    assert len(got.calls) < (390 if amid == "refining" else 150) and seconds < 10
    assert ("ISDO refine" in got.values) is (amid == "refining")


def test_a_click_among_several_pictures_lets_this_one_finish(eps):
    ask = KARRAS | {"steps": 60, "n_iter": 3, "width": 256, "height": 256} | refine()
    got, _ = meanwhile(
        eps, lambda: eps.post("/live-probe/stop", {}), lambda: eps.picture(**ask), range(5, 60)
    )
    assert (
        len(got.calls) == 72
        and len(got.images) == 1
        and got.values["ISDO refine"] == "4 iterations, 12 calls"
    )


def test_the_path_of_another_kind_of_model_is_named(model):
    wrong = "ve" if model.flow else "flow"
    if wrong == "ve" and "Align Your Steps" not in schedulers(model):
        pytest.skip("this WebUI has no schedule that starts above 1")
    ask = {
        "scheduler": "Align Your Steps" if model.flow else "Karras",
        "cfg_scale": 1 if model.flow else 5,
    }
    with pytest.raises(Refused, match="setting Path.*auto") as refused:
        model.picture(**with_args({"path": wrong}), **ask)
    assert refused.value.status in (422, 500) and "choose the schedule" not in refused.value.text


@pytest.mark.parametrize(
    ("block", "says"),
    [
        ({"ISDO": {"args": [{"order": 2}, 3]}}, "after a mapping"),
        ({"ISDO": {"args": [{"ordr": None}]}}, "no setting ordr"),
        ({"ISDO": {"args": [{"order": 2}]}, "isdo": {"args": [{"order": 3}]}}, "2 times"),
        ({"ISDO refine": {"args": [{"noise": 1}, None]}}, "after a mapping"),
        ({"ISDO refine": {"args": [True]}, "isdo Refine": {"args": [False]}}, "2 times"),
    ],
)
def test_what_the_host_would_drop_is_refused(eps, block, says):
    with pytest.raises(Refused, match=says) as refused:
        eps.picture(**ISDO, alwayson_scripts=block)
    assert refused.value.status == 422


def test_the_answer_says_why_a_picture_was_not_refined(eps):
    got = eps.picture(sampler_name="DPM fast", steps=12, **refine({"same": True}))
    told = ours(got.values)
    assert (
        set(told) == {"ISDO refine problem"}
        and '"Use same sampler" off' in told["ISDO refine problem"]
    )
    assert ours(eps.picture(**KARRAS).values) == {}


def asked_on_the_page(ask, kind):
    """Return what the page would ask /isdo/v1/calls for such a request."""
    page = {
        "tab": kind,
        "sampler": ask["sampler_name"],
        "scheduler": ask.get("scheduler"),
        "steps": str(ask["steps"]),
    }
    page["strength"] = str(ask.get("denoising_strength", 0.75))
    if ask.get("enable_hr"):
        page |= {
            "hires": True,
            "hr_steps": str(ask.get("hr_second_pass_steps", 0)),
            "hr_sampler": ask.get("hr_sampler_name"),
        }
    for name, key in (("ISDO", "values"), ("ISDO refine", "refine")):
        block = ask.get("alwayson_scripts", {}).get(name)
        if block is not None:
            page[key] = {key: str(value) for key, value in block["args"][0].items()}
    if "script_name" in ask:
        page["script"] = {key: str(value) for key, value in ask["script_args"][0].items()}
    return page


PICTURES = [
    ("txt2img", ISDO | {"scheduler": "Karras", "steps": 7}),
    ("txt2img", ISDO | {"scheduler": "DDIM", "steps": 7}),
    ("txt2img", ISDO | {"scheduler": "KL Optimal", "steps": 7}),
    ("txt2img", ISDO | HIRES | {"steps": 7, "hr_second_pass_steps": 3}),
    ("txt2img", ISDO | HIRES | {"steps": 7, "scheduler": "DDIM"}),
    ("txt2img", EULER | HIRES | {"steps": 5, "hr_sampler_name": "ISDO"}),
    ("txt2img", ISDO | {"steps": 5} | refine({"noise": 0.5})),
    ("txt2img", {"sampler_name": "Heun", "steps": 6} | refine({"noise": 0.5})),
    ("txt2img", {"sampler_name": "HeunPP2", "steps": 4} | refine({"noise": 0.5})),
    ("txt2img", {"sampler_name": "Restart", "steps": 6} | refine({"noise": 0.5})),
    ("img2img", ISDO | IMAGE | {"steps": 9, "denoising_strength": 0.5}),
    ("img2img", ISDO | IMAGE | {"steps": 30, "denoising_strength": 0.33, "scheduler": "DDIM"}),
    ("img2img", with_args(LEVEL) | IMAGE | {"steps": 9, "denoising_strength": 0.05}),
    (
        "img2img",
        EULER | IMAGE | {"steps": 5, "script_name": "ISDO refine", "script_args": [{"noise": 0.5}]},
    ),
    (
        "img2img",
        EULER
        | IMAGE
        | {
            "steps": 5,
            "script_name": "ISDO refine",
            "script_args": [{"iterations": 7, "calls": 2}],
        },
    ),
]


@pytest.mark.parametrize(("kind", "ask"), PICTURES)
def test_the_accordions_tell_the_calls_that_are_made(eps, kind, ask):
    names = [row["name"] for row in eps.get("/sdapi/v1/samplers")]
    if ask["sampler_name"] not in names:
        pytest.skip(f"this WebUI has no {ask['sampler_name']}")
    if ask.get("scheduler") not in (None, *schedulers(eps)):
        pytest.skip(f"this WebUI has no schedule {ask['scheduler']}")
    eps.picture(**KARRAS)  # a checkpoint is there to be asked
    query = urllib.parse.urlencode({"page": json.dumps(asked_on_the_page(ask, kind))})
    told = eps.get(f"/isdo/v1/calls?{query}")
    hires = {"hr_additional_modules": ["Use same choices"]} if "enable_hr" in ask else {}
    made = len(eps.picture(kind, **ask, **hires).calls)
    if "script_name" in ask:
        assert f"makes {made} model call" in told["sampler"]
        return
    refined = re.match(
        r"on: (\d+) model calls? a picture, after (\d+) that draw it", told["refine"]
    )
    if refined:
        assert sum(map(int, refined.groups())) == made
    elif ask["sampler_name"] == "ISDO":
        assert told["sampler"].startswith(f"{made} model call")
    else:
        assert made == ask["steps"] + int(told["sampler"].split()[0])


@pytest.mark.parametrize(
    "name", ["Heun", "DPM2", "DPM++ 2S a", "DPM++ SDE", "Restart", "HeunPP2", "DPM++ 3M SDE", "LCM"]
)
def test_use_same_sampler_counts_calls(eps, name):
    if name not in [row["name"] for row in eps.get("/sdapi/v1/samplers")]:
        pytest.skip(f"this WebUI has no {name}")
    ask = {"sampler_name": name, "scheduler": "Karras", "steps": 12}
    plain = eps.picture(**ask)
    for calls in (2, 3, 6):
        got = eps.picture(**ask, **refine({"same": True, "iterations": 3, "calls": calls}))
        made = len(got.calls) - len(plain.calls)
        assert 3 <= made <= 3 * calls and got.values["ISDO refine"] == f"3 iterations, {made} calls"


def test_saved_pictures_in_between_carry_the_number_of_their_finished_one(eps):
    before = set(eps.data.rglob("*.png"))
    ask = KARRAS | {"batch_size": 2, "n_iter": 2, "save_images": True}
    eps.picture(**ask, **refine({"iterations": 3, "save": True, "noise": 0.5}))
    made = {path.stem for path in set(eps.data.rglob("*.png")) - before if "grid" not in path.stem}
    finished = {name for name in made if "refine" not in name}
    assert len(finished) == 4 and made - finished == {
        f"{name}-refine-{k}" for name in finished for k in (1, 2)
    }


def test_nothing_of_ours_is_saved_with_the_page_s_defaults(webui):
    file = webui.data / "ui-config.json"
    if not file.exists():
        pytest.skip("this WebUI keeps its page's defaults elsewhere")
    assert [
        key for key in json.loads(file.read_text()) if "isdo" in key.lower() and "probe" not in key
    ] == []


def test_without_a_page_the_axes_are_there(tmp_path, monkeypatch):
    monkeypatch.setenv("WEBUI_ARGS", "--nowebui")
    host = Host(tmp_path / "data")
    try:
        host.model("tiny-eps")
        (plot,) = [
            s
            for s in host.get("/sdapi/v1/script-info")
            if s["name"] == "x/y/z plot" and not s["is_img2img"]
        ]
        args = [setting["value"] for setting in plot["args"]]
        # its own menu was made before ours were added, behind the others
        place = len(plot["args"][0]["choices"]) + [field.key for field in CONTROLS].index("order")
        args[:9] = [place, "1, 2", [], 0, "", [], 0, "", []]
        args[[i for i, s in enumerate(plot["args"]) if "text inputs" in (s["label"] or "")][0]] = (
            True
        )
        got = host.picture(**ISDO, script_name="x/y/z plot", script_args=args)
        assert {"ISDO order": "1"} in [ours(host.parse(text)) for text in got.texts]
        assert {"ISDO order": "2"} in [ours(host.parse(text)) for text in got.texts]
    finally:
        host.stop()


def test_the_script_s_refinement_is_told(eps):
    got = script(eps, {"same": True}, sampler_name="DPM fast")
    assert "ISDO refine problem" in got.values and len(got.calls) == 0
