"""What Forge and Forge Neo do differently."""

from contextlib import nullcontext

import torch


def has_predictor(denoiser):
    """Say whether the host's denoiser is of Forge's kind, whose inner model carries a predictor."""
    return hasattr(denoiser.inner_model, "predictor")


class _SameNoise:
    """Let everything inside draw the same global random numbers each time, and leave no trace outside."""

    SEED = 0

    def __init__(self, device):
        self.fork = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])

    def __enter__(self):
        self.fork.__enter__()
        torch.manual_seed(self.SEED)

    def __exit__(self, *error):
        return self.fork.__exit__(*error)


def steady_mask(denoiser, x):
    """Return a context for one model call, in which the kept area of an inpainting is noised as in the call before.

    Forge draws new global noise for it at each call. The model sees it, and D of the repainted area moves by 12 to 64 %
    of |x - D| without x having moved: a multistep sampler would take that for a slope.
    """
    if denoiser.mask is None or not has_predictor(denoiser):
        return nullcontext()
    return _SameNoise(x.device)


def has_own_flow_grid():
    """Say whether the host knows a grid for the loaded flow model by itself (Forge Neo: Flux.2 Klein)."""
    try:
        from backend.args import dynamic_args
    except ImportError:
        return False
    return bool(getattr(dynamic_args, "klein", False))
