"""What pictures cost under the zoo's models: the variational bound, term by term."""

import torch
from torch import Tensor

from .. import gallery
from ..elbo import elbo, strata
from ..process import PROCESSES
from ..sampling import sample_isdo
from ..schedules import karras
from . import NAMES, data, load

COUNT, STRATA, SEED = 8, 20, 0


def held_out(count: int = COUNT) -> Tensor:
    """Return ``count`` emoji (N, 3, 32, 32) that no model was trained on, spread over the held-out
    ones.

    Raises:
        FileNotFoundError, ImportError: the font, or what reads it, is not on this machine.
    """
    pictures = data.load_emoji().split()[1].pictures[:, 0]
    return data.to_unit(pictures[torch.arange(count, device="cpu") * len(pictures) // count])


def drawn(count: int = COUNT, steps: int = 12) -> Tensor:
    """Return ``count`` pictures (N, 3, 32, 32) that the model eps draws of no class, in 256
    levels."""
    model = load("eps")
    x = model.sigma_max * gallery.noise(range(SEED, SEED + count), (3, data.SIZE, data.SIZE))
    pictures = sample_isdo(model, x, karras(steps, model.sigma_min, model.sigma_max), disable=True)
    return data.to_unit(gallery.to_bytes(pictures)).movedim(-1, 1)


def pictures() -> tuple[Tensor, str]:
    """Return (pictures, what they are): held-out emoji where the font is there, else what the zoo
    draws itself."""
    try:
        return held_out(), "held-out emoji"
    except (FileNotFoundError, ImportError):
        return (
            drawn(),
            "pictures drawn by the model eps (no emoji font here: see python -m isdo train --help)",
        )


def row(name: str, x0: Tensor) -> tuple[float, ...]:
    """Return the means over pictures of L_T, sum L_(t-1), L_0 (nats) and bits per dimension, and
    the latter's error."""
    model, t = load(name), torch.arange(999.0, -1, -1, dtype=torch.float64, device="cpu")
    # one chain for all: that of eps and v. Even steps in flow's own sigma would be coarse ones near
    # the picture
    sigmas = model.path.from_noise_to_signal(PROCESSES["vp discrete"].sigma(t))
    bound = elbo(model, x0, sigmas, seeds=SEED, groups=strata(model.path, sigmas, STRATA))
    terms = [
        term.mean().item() for term in (bound.prior, bound.steps.sum(0), bound.data, bound.bits)
    ]
    return *terms, bound.bits.std().item() / len(x0) ** 0.5


def table(x0: Tensor, what: str) -> str:
    """Return the bounds of all models as lines of text."""
    lines = [
        f"variational bound of {len(x0)} {what}, no class, in nats per picture",
        "  chain: the 1,000 levels of Stable Diffusion, noise-to-signal ratio 14.61 .. 0.0292, for all models",
        f"  from one step of each of {STRATA} strata; +- is the standard error over the pictures",
        f"  {'':6} {'L_T':>9} {'sum L_t-1':>10} {'L_0':>9}   bits per dimension",
    ]
    for name in NAMES:
        prior, steps, last, bits, error = row(name, x0)
        lines.append(
            f"  {name:6} {prior:9.3f} {steps:10.1f} {last:9.1f}   {bits:.3f} +- {error:.3f}"
        )
    return "\n".join(lines)
