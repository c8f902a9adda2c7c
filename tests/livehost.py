"""A real WebUI on a CPU for the live tests: started in a data folder of its own, driven over HTTP,
watched by a probe.

WEBUI_DIR names the WebUI; WEBUI_PYTHON its interpreter (default: WEBUI_DIR/venv/bin/python);
WEBUI_ARGS further flags. The rest of the environment is handed on as it is. The tests want the
checkpoints tiny-eps, tiny-v and tiny-gauss (SD1-shaped denoisers of latents N(0, 0.5^2), the first
two disturbed by the prompt), tiny-sdxl (as tiny-eps, but SDXL-shaped), and tiny-flux, tiny-sd3 and
tiny-chroma (flow) where the WebUI has such models; a test whose checkpoint is missing is skipped.
"""

import base64
import io
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
# Flags of all the family; each host is given those that its own parsers declare
FLAGS = (
    "--skip-prepare-environment --skip-install --skip-torch-cuda-test --skip-python-version-check --skip-version-check "
    "--no-download-sd-model --do-not-download-clip --disable-safe-unpickle --skip-google-blockly --attention-pytorch "
    "--always-cpu --all-in-fp32 --no-half --no-half-vae --api"
).split()
PARSERS = (
    "modules/cmd_args.py",
    "backend/args.py",
    "ldm_patched/modules/args_parser.py",
    "modules_forge/cmd_opts.py",
)
QUIET = {
    "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False", "PYTHONUNBUFFERED": "1",
    "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "8589934592",
}  # fmt: skip
# All options are saved once: A1111 gives back after an override only those that were. "Original"
# emphasis divides by the mean of the conditioning, which is 0 in an untrained text model. The noise
# is then the same in every WebUI. Every other kind of preview but the cheap one would download a
# network for SDXL and SD3.
OPTIONS = {"emphasis": "No norm", "randn_source": "CPU", "show_progress_type": "Approx cheap"}
NOT_SAVED = (
    "sd_model_checkpoint",
    "sd_checkpoint_hash",
    "disabled_extensions",
    "disable_all_extensions",
    "forge_preset",
)


def missing():
    """Return why no WebUI can be started here, or None."""
    folder = os.environ.get("WEBUI_DIR")
    if not folder:
        return "WEBUI_DIR is not set: name a WebUI that has its environment"
    if not (Path(folder) / "launch.py").is_file():
        return f"WEBUI_DIR is {folder}, and no launch.py is there"
    if not python(folder).is_file():
        return f"no interpreter at {python(folder)}: set WEBUI_PYTHON"
    return None


def python(folder):
    """Return the WebUI's interpreter."""
    return Path(os.environ.get("WEBUI_PYTHON") or Path(folder) / "venv/bin/python")


def declared(folder):
    """Return the sources of the WebUI's argument parsers."""
    return "".join(
        (Path(folder) / name).read_text(errors="replace")
        for name in PARSERS
        if (Path(folder) / name).is_file()
    )


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def pixels(encoded):
    """Return the picture of a base64 text as an (H, W, 3) array of bytes."""
    return np.asarray(
        Image.open(io.BytesIO(base64.b64decode(encoded.split(",")[-1]))).convert("RGB")
    )


def encode(array):
    """Return an array of bytes as a base64 PNG."""
    out = io.BytesIO()
    Image.fromarray(array).save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def rms(a, b):
    """Return the root mean square difference of two pictures, in levels of 255."""
    return float(np.sqrt(np.square(a.astype(float) - b.astype(float)).mean()))


class Refused(Exception):
    """The WebUI answered with an error: ``status`` and ``text``."""

    def __init__(self, status, text):
        super().__init__(f"{status}: {text[:500]}")
        self.status, self.text = status, text


class Host:
    """One running WebUI.

    Args:
        data: an empty folder for its settings, extensions and pictures; the WebUI's own are not
            touched.
        second: name of an extension folder that holds a second copy, or None.
    """

    def __init__(self, data, second=None):
        self.dir = Path(os.environ["WEBUI_DIR"]).resolve()
        self.data, self.log, self.port = Path(data), Path(data) / "console.txt", free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._lay_out(second)
        known = declared(self.dir)
        flags = [flag for flag in FLAGS if f'"{flag}"' in known or f"'{flag}'" in known]
        if '"--cpu"' in known and "--always-cpu" not in flags:
            flags += ["--cpu"]
        if '"--use-cpu"' in known and "--always-cpu" not in flags:
            flags += ["--use-cpu", "all"]
        if '"--precision"' in known and "--all-in-fp32" not in flags:
            flags += ["--precision", "full"]
        if (
            '"--gradio-allowed-path"' in known
        ):  # a newer gradio hands out no script that lies outside the data folder
            flags += [f"--gradio-allowed-path={folder}" for folder in (self.dir, ROOT)]
        own = shlex.split(os.environ.get("WEBUI_ARGS", ""))
        command = [
            str(python(self.dir)),
            "launch.py",
            *flags,
            *own,
            "--port",
            str(self.port),
            "--data-dir",
            str(self.data),
        ]
        self.console = self.log.open("wb")
        self.process = subprocess.Popen(
            command, cwd=self.dir, env=QUIET | dict(os.environ), stdin=subprocess.DEVNULL, stdout=self.console,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            self.wait_started(1)
            self.wait_listening()
            values = self.get("/sdapi/v1/options")
            self.post(
                "/sdapi/v1/options",
                {k: v for k, v in values.items() if v is not None and k not in NOT_SAVED} | OPTIONS,
            )
            self.models = {
                m["model_name"].split(".")[0]: m["title"] for m in self.get("/sdapi/v1/sd-models")
            }
        except BaseException:
            self.stop()
            raise

    def _lay_out(self, second):
        extensions = self.data / "extensions"
        extensions.mkdir(parents=True)
        (extensions / "some-folder-name").symlink_to(ROOT)
        if second is not None:
            for part in ("scripts", "isdo", "javascript"):
                shutil.copytree(ROOT / part, extensions / second / part)
            shutil.copy(ROOT / "install.py", extensions / second)
        shutil.copytree(ROOT / "tests/live_probe", extensions / "zz-live-probe")
        for other in (self.dir / "extensions").glob(
            "*"
        ):  # whatever this WebUI needs to read its checkpoints
            if (
                other.is_dir()
                and other.resolve() != ROOT
                and not (extensions / other.name).exists()
            ):
                (extensions / other.name).symlink_to(other.resolve())
        (self.data / "models").symlink_to(self.dir / "models")

    def text(self):
        """Return all that the console has said."""
        return self.log.read_text(errors="replace")

    def wait_started(self, times, limit=420, pause=time.sleep):
        """Wait until the console has told the start-up time ``times`` times (a reload tells it
        again)."""
        end = time.monotonic() + limit
        while self.text().count("Startup time:") < times:
            if self.process.poll() is not None:
                raise RuntimeError(
                    f"the WebUI ended with {self.process.returncode}:\n{self.text()[-4000:]}"
                )
            if time.monotonic() > end:
                raise RuntimeError(f"the WebUI did not start in {limit} s:\n{self.text()[-4000:]}")
            pause(0.3)

    def wait_listening(self, limit=60):
        """Wait until the server answers: without a page it tells the start-up time before it
        does."""
        end = time.monotonic() + limit
        while True:
            try:
                return self.get("/sdapi/v1/options")
            except urllib.error.URLError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.3)

    def stop(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        self.console.close()

    def _ask(self, request, timeout=300):
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise Refused(error.code, error.read().decode(errors="replace")) from None

    def get(self, path):
        return self._ask(self.url + path)

    def post(self, path, values):
        body = json.dumps(values).encode()
        return self._ask(
            urllib.request.Request(self.url + path, body, {"Content-Type": "application/json"})
        )

    def routes(self):
        """Return the paths that the WebUI's API has."""
        return set(self.get("/openapi.json")["paths"])

    def model(self, name):
        """Make ``name`` the checkpoint, or skip the test."""
        if name not in self.models:
            pytest.skip(f"no checkpoint {name} among {', '.join(sorted(self.models)) or 'none'}")
        self.post("/sdapi/v1/options", {"sd_model_checkpoint": self.models[name]})

    @contextmanager
    def probing(self, **asked):
        """Have the probe do something to the pictures made meanwhile: see tests/live_probe."""
        self.post("/live-probe/ask", asked)
        try:
            yield
        finally:
            self.post("/live-probe/ask", {})

    def picture(self, kind="txt2img", **values):
        """Generate, and return pictures, infotexts (parsed by the WebUI itself) and the probe's
        list of calls.

        Args:
            kind: "txt2img" or "img2img".
            values: the request; what is not given is small and fast.
        """
        request = {
            "prompt": "a red circle",
            "seed": 1,
            "steps": 8,
            "width": 128,
            "height": 128,
            "cfg_scale": 5,
        } | values
        self.get("/live-probe/calls")
        answer = self.post(f"/sdapi/v1/{kind}", request)
        info = json.loads(answer["info"])
        # a grid, where there is one, comes first in both lists
        return SimpleNamespace(
            images=[pixels(image) for image in answer["images"]],
            image=pixels(answer["images"][0]),
            raw=answer["images"],
            texts=info["infotexts"],
            text=info["infotexts"][0],
            values=self.parse(info["infotexts"][0]),
            calls=self.get("/live-probe/calls"),
            seeds=info["all_seeds"],
        )

    @staticmethod
    def parse(text):
        """Return the last line of an infotext as a mapping."""
        pairs = re.findall(
            r'\s*([\w ][^:,]*): ("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)', text.strip().split("\n")[-1]
        )
        return {key: json.loads(value) if value[:1] == '"' else value for key, value in pairs}


def meanwhile(webui, act, ask, amid):
    """Call ``act`` once the sampling step that ``ask()`` has reached, in another thread, is
    ``amid``; return the answer and the seconds from then on to its end."""
    done = []
    thread = threading.Thread(target=lambda: done.append((ask(), time.monotonic())))
    thread.start()
    end = time.monotonic() + 120
    while (
        webui.get("/sdapi/v1/progress?skip_current_image=true")["state"]["sampling_step"]
        not in amid
    ):
        assert thread.is_alive() and time.monotonic() < end, (
            "the picture was ready before anything could be done"
        )
        time.sleep(0.02)
    at = time.monotonic()
    act()
    thread.join(240)
    return done[0][0], done[0][1] - at


def ours(values):
    """Return what of a parsed infotext is ours, the sampler's name apart."""
    return {key: value for key, value in values.items() if key.startswith("ISDO")}


def steps_of(calls):
    """Return what a host's denoiser was asked, call by call: steps, planned steps, prompts."""
    return [
        [c[key] for key in ("step", "total", "own step", "own total", "cond", "uncond")]
        for c in calls
    ]
