"""install.py, run as a WebUI runs it at each start: by its own function and interpreter. See
livehost.py for what to set."""

import os
import subprocess

import livehost
import pytest
from livehost import QUIET, ROOT, declared, python

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(livehost.missing() is not None, reason=str(livehost.missing())),
]

RUN = """
import sys, time
extension, data, *flags = sys.argv[1:]
sys.argv = ["launch.py", "--data-dir", data, *flags]
from modules import launch_utils
for _ in range(5):
    start = time.monotonic()
    launch_utils.run_extension_installer(extension)
    print("seconds", time.monotonic() - start)
"""


def installer(data, **environment):
    """Return the lines that the WebUI prints while its own installer runs ours, five times, and the
    seconds of each."""
    folder = os.environ["WEBUI_DIR"]
    flags = ["--always-cpu"] if '"--always-cpu"' in declared(folder) else []
    command = [str(python(folder)), "-c", RUN, str(ROOT), str(data), *flags]
    env = QUIET | dict(os.environ) | environment
    run = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-3000:]
    lines = (
        run.stdout.splitlines() + run.stderr.splitlines()
    )  # what fails is swallowed and told on the latter
    said = [line for line in lines if "ISDO" in line or str(ROOT) in line]
    return said, [float(line.split()[1]) for line in lines if line.startswith("seconds ")]


def test_the_webui_runs_it_in_a_moment_and_it_says_nothing(tmp_path):
    said, seconds = installer(tmp_path)
    print(seconds)
    assert said == [] and len(seconds) == 5
    assert min(seconds) < 0.3  # a shared machine: the other runs measure the neighbours


def test_it_says_one_line_where_something_is_missing(tmp_path):
    hide = "import importlib.util as u\nfind = u.find_spec\nu.find_spec = lambda n, *a: None if n == 'tqdm' else find(n, *a)\n"
    (tmp_path / "sitecustomize.py").write_text(hide)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    said, _ = installer(tmp_path, PYTHONPATH=path)
    assert len(said) == 5 and len(set(said)) == 1 and "tqdm" in said[0]
