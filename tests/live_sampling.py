"""Without a server or weights: a WebUI of Forge's kind loads our script by its own loader and
samples by its own classes."""

import json
import os
import subprocess

import livehost
import pytest
from livehost import QUIET, ROOT, python

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(livehost.missing() is not None, reason=str(livehost.missing())),
]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What tests/live_probe/sampling.py saw in the WebUI."""
    folder = os.environ["WEBUI_DIR"]
    if not os.path.isdir(os.path.join(folder, "modules_forge")):
        pytest.skip("not of Forge's kind: live_webui.py has it all")
    known = livehost.declared(folder)
    flags = [flag for flag in ("--always-cpu", "--all-in-fp32") if f'"{flag}"' in known]
    if "--always-cpu" not in flags:
        flags += ["--cpu"]
    data = tmp_path_factory.mktemp("data")
    command = [
        str(python(folder)),
        str(ROOT / "tests/live_probe/sampling.py"),
        folder,
        str(ROOT),
        str(data),
        *flags,
    ]
    run = subprocess.run(
        command, env=QUIET | dict(os.environ), capture_output=True, text=True, timeout=580
    )
    assert (data / "found.json").is_file(), run.stderr[-4000:]
    return json.loads((data / "found.json").read_text())


@pytest.fixture(params=["eps", "sdxl", "flow"])
def kind(request, found):
    """The four runs with one kind of model."""
    if request.param not in found:
        pytest.skip("this WebUI has no flow models")
    return found[request.param]


def test_one_isdo_that_asks_the_model_what_euler_asks(found, kind):
    assert found["names"] == 1
    asked, eulers = ([given for _, given in kind[who]["calls"]] for who in ("isdo", "euler"))
    assert (
        asked == eulers and len(asked) == 8
    )  # at the schedule's noise levels: Forge Classic has one for each sampler
    assert kind["isdo"]["dtype"] == kind["euler"]["dtype"] == "torch.float32"


def test_prompt_editing_and_sizes_reach_the_model(found, kind):
    prompts = [max(given["c_crossattn"]) for _, given in kind["isdo"]["calls"]]
    assert prompts == [1.0] * 5 + [2.0] * 3  # up to and with the fourth
    vectors = [max(given.get("y", [0])) for _, given in kind["isdo"]["calls"]]
    assert vectors == ([1.5] * 5 + [2.5] * 3 if kind is found["sdxl"] else [0] * 8)


def test_it_is_right_where_the_answer_is_known(kind):
    assert (
        kind["euler fine"]["error"] < kind["euler"]["error"] / 5
    )  # the answer is the hosts' own limit
    assert kind["isdo"]["error"] < kind["euler"]["error"] / 10


def test_no_key_of_ours_and_no_neighbour(kind):
    assert not any(key.startswith("ISDO") for key in kind["isdo"]["params"])
    assert kind["alone"]["first"] == kind["isdo"]["first"]


def test_a_flow_model_has_a_grid_of_its_own(found):
    if "flow" not in found:
        pytest.skip("this WebUI has no flow models")
    sigmas = [sigma for sigma, _ in found["own grid"]["calls"]]
    assert len(sigmas) == 8 and 0.9 < sigmas[0] <= 1 and sigmas == sorted(set(sigmas), reverse=True)
    assert found["own grid"]["error"] < found["flow"]["euler"]["error"] / 10


def test_the_accordion_s_hooks_refine_what_was_sampled(kind):
    got = kind["refined"]
    assert got["comments"] == [] and got["params"]["ISDO refine"] == "4 iterations, 12 calls"
    assert len(got["calls"]) == 24 and got["steps"] == 12 and got["dtype"] == "torch.float32"
    assert got["change"] > 0.1 and got["means"] < 1e-5  # repainted, and the lock held
    assert 0.35 < got["spread"] < 0.65  # of a Gaussian with 0.5
    assert {max(given["c_crossattn"]) for _, given in got["calls"][12:]} == {
        2.0
    }  # the prompt as it was at the end
    assert kind["refined alone"]["first"] == got["first"]
