"""Without a server or weights: a WebUI of Forge's kind loads our script by its own loader and samples by its own classes."""

import json
import os
import subprocess

import livehost
import pytest
from livehost import QUIET, ROOT, python

pytestmark = [pytest.mark.live, pytest.mark.skipif(livehost.missing() is not None, reason=str(livehost.missing()))]


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
    command = [str(python(folder)), str(ROOT / "tests/live_probe/sampling.py"), folder, str(ROOT), str(data), *flags]
    run = subprocess.run(command, env=QUIET | dict(os.environ), capture_output=True, text=True, timeout=580)
    assert (data / "found.json").is_file(), run.stderr[-4000:]
    return json.loads((data / "found.json").read_text())


def test_one_isdo_that_calls_the_model_once_a_step(found):
    assert found["names"] == 1
    assert found["isdo"]["calls"] == found["euler"]["calls"] == 8
    assert found["isdo"]["dtype"] == found["euler"]["dtype"] == "torch.float32"


def test_it_is_right_where_the_answer_is_known(found):
    assert found["euler fine"]["error"] < found["euler"]["error"] / 5  # the answer is the hosts' own limit
    assert found["isdo"]["error"] < found["euler"]["error"] / 10


def test_no_key_of_ours_and_no_neighbour(found):
    assert not any(key.startswith("ISDO") for key in found["isdo"]["params"])
    assert found["alone"]["first"] == found["isdo"]["first"]


def test_the_accordion_s_hooks_refine_what_was_sampled(found):
    got = found["refined"]
    assert got["comments"] == [] and got["params"]["ISDO refine"] == "4 iterations, 12 calls"
    assert got["calls"] == 24 and got["steps"] == 12 and got["dtype"] == "torch.float32"
    assert got["change"] > 0.1 and got["means"] < 1e-5  # repainted, and the lock held
    assert 0.35 < got["spread"] < 0.65  # of a Gaussian with 0.5
    assert found["refined alone"]["checksum"] == got["checksum"]
