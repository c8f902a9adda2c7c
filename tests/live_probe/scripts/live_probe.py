"""An extension for the live tests only: lists the calls of the WebUI's denoiser at /live-probe/calls and forgets them then."""

import hashlib

from modules import script_callbacks

CALLS = []


def fingerprint(value):
    """Return a text that differs when a prompt's conditioning does."""
    if isinstance(value, dict):
        return "".join(fingerprint(value[key]) for key in sorted(value))
    if isinstance(value, (list, tuple)):
        return "".join(map(fingerprint, value))
    if not hasattr(value, "detach"):
        return repr(value)
    return hashlib.sha1(value.detach().float().cpu().numpy().tobytes()).hexdigest()[:12]


def on_call(params):
    CALLS.append(
        {
            "step": params.sampling_step,
            "total": params.total_sampling_steps,
            "sigma": [float(s) for s in params.sigma.flatten()],
            "shape": list(params.x.shape),
            "finite": bool(params.x.isfinite().all()),
            "cond": fingerprint(params.text_cond),
            "uncond": fingerprint(params.text_uncond),
        }
    )


def on_app(_, app):
    def calls():
        taken = list(CALLS)
        CALLS.clear()
        return taken

    app.add_api_route("/live-probe/calls", calls, methods=["GET"])


script_callbacks.on_cfg_denoiser(on_call)
script_callbacks.on_app_started(on_app)
