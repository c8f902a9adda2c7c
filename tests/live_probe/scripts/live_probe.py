"""An extension for the live tests only: /live-probe/calls lists the calls of the WebUI's denoiser
and forgets them then.

/live-probe/ask takes {"window": [start, end]}, a control of the model between two parts of the
steps, and {"stop_at": step}; {} takes them back. /live-probe/stop is the button that ends the
generation after the current picture.
"""

import hashlib

import torch
from fastapi import Body
from modules import script_callbacks, scripts, shared

try:
    from backend.patcher.controlnet import ControlNet
except ImportError:  # AUTOMATIC1111 has no control of its own
    ControlNet = None

CALLS, ASKED, CONTROLLED = [], {}, []


def fingerprint(value):
    """Return a text that differs when a prompt's conditioning does."""
    if isinstance(value, dict):
        return "".join(f"{key}={fingerprint(value[key])} " for key in sorted(value))
    if isinstance(value, (list, tuple)):
        return "".join(map(fingerprint, value))
    if not hasattr(value, "detach"):
        return repr(value)
    return hashlib.sha1(value.detach().float().cpu().numpy().tobytes()).hexdigest()[:12]


def on_call(params):
    denoiser = params.denoiser
    if "stop_at" in ASKED:
        denoiser.sampler.stop_at = ASKED["stop_at"]
    if "window" in ASKED and ControlNet is None:
        # the comparison that the ControlNet extension makes, in the place where it does
        part = params.sampling_step / params.total_sampling_steps
        if ASKED["window"][0] <= part <= ASKED["window"][1]:
            params.x = params.x * 1.05
            CONTROLLED.append(len(CALLS))
    CALLS.append(
        {
            "step": params.sampling_step,
            "total": params.total_sampling_steps,
            "own step": denoiser.step,
            "own total": denoiser.total_steps,
            "sigma": [float(s) for s in params.sigma.flatten()],
            "shape": list(params.x.shape),
            "finite": bool(params.x.isfinite().all()),
            "cond": fingerprint(params.text_cond),
            "uncond": fingerprint(params.text_uncond),
        }
    )


class Control(torch.nn.Module):
    """What Forge takes for a network that controls: its answer is added to the middle of the
    model."""

    dtype = torch.float32

    def forward(self, **given):
        CONTROLLED.append(len(CALLS) - 1)
        return [
            torch.linspace(-20, 20, 64).view(1, 64, 1, 1)
        ]  # the tiny models have 64 channels there


class LiveProbe(scripts.Script):
    def title(self):
        return "Live probe"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def process_before_every_sampling(self, p, *args, **kwargs):
        if "window" in ASKED and ControlNet is not None:
            unet = p.sd_model.forge_objects.unet.clone()
            control = ControlNet(
                Control(), device=torch.device("cpu"), load_device=torch.device("cpu")
            )
            hint = torch.zeros(1, 3, p.height, p.width)
            unet.add_patched_controlnet(control.set_cond_hint(hint, 1.0, tuple(ASKED["window"])))
            p.sd_model.forge_objects.unet = unet


def on_app(_, app):
    def calls():
        taken = [call | {"controlled": i in CONTROLLED} for i, call in enumerate(CALLS)]
        CALLS.clear()
        CONTROLLED.clear()
        return taken

    def ask(asked: dict = Body(...)):  # noqa: B008  FastAPI's way
        ASKED.clear()
        ASKED.update(asked)
        return {}

    app.add_api_route("/live-probe/calls", calls, methods=["GET"])
    app.add_api_route("/live-probe/ask", ask, methods=["POST"])
    app.add_api_route("/live-probe/stop", lambda: shared.state.stop_generating(), methods=["POST"])


script_callbacks.on_cfg_denoiser(on_call)
script_callbacks.on_app_started(on_app)
