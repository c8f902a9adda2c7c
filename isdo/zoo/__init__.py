"""Embedded models: small class-conditional diffusion models of emoji, one for each prediction type."""

import json
from pathlib import Path

import torch
from safetensors import safe_open

from ..denoiser import PREDICTIONS, Denoiser
from .net import NULL, Net, scaled_linear
from .net import zero_terminal_snr as zero_snr

FOLDER = Path(__file__).parent
NAMES = ("eps", "v", "flow")
MULTIPLE = 8  # of the picture's sides: the net folds 2x2 pixels and halves twice


def _open(name):
    if name not in NAMES:
        raise ValueError(f"no model {name!r} in the zoo: choose one of {', '.join(NAMES)}")
    file = FOLDER / f"{name}.safetensors"
    if not file.exists():
        raise ValueError(
            f"the zoo's model {name!r} has no weights here: make them with python -m isdo train --model {name} --out {file}"
        )
    return safe_open(file, "pt")


def load_trunk(name):
    """Return (state dict float32, metadata) of an embedded model."""
    with _open(name) as file:
        return {key: file.get_tensor(key).float() for key in file.keys()}, file.metadata()


def info(name):
    """Return what an embedded model's file says: prediction, config, losses (per band of t), classes, licence.

    Raises:
        ValueError: when there is no such model.
    """
    with _open(name) as file:
        metadata = file.metadata()
    return {
        "prediction": metadata["prediction"],
        "config": json.loads(metadata["config"]),
        "losses": json.loads(metadata["loss_per_band"]),
        "classes": json.loads(metadata["classes"]),
        "licence": metadata["data"],
    }


def denoiser(net):
    """Return ``net`` (zoo.net.Net) as a Denoiser; its table is its schedule's, or 1/1000 .. 1 for flow."""
    indexed = net.alphas_cumprod is not None
    sigmas = net.log_sigmas.exp() if indexed else torch.arange(1, 1001, dtype=torch.float64, device="cpu") / 1000
    return Denoiser(net, net.prediction, sigmas, indexed, null_label=NULL, multiple=MULTIPLE)


def load(name, zero_terminal_snr=False):
    """Return an embedded model as ``model(x, sigma, labels=None, guidance=1.0) -> denoised``, a Denoiser.

    Args:
        name: one of NAMES. ``eps`` and ``v`` travel on the ``ve`` path (x = x0 + sigma n), ``flow`` on the flow path.
        zero_terminal_snr: for ``v`` only, the schedule whose last sigma is 4518.8 (Lin et al. 2023).

    Raises:
        ValueError: when there is no such model, or it cannot start at zero terminal SNR.
    """
    state, metadata = load_trunk(name)
    alphas_cumprod = None if PREDICTIONS[name].path.fade else scaled_linear()
    if zero_terminal_snr:
        if name != "v":
            raise ValueError(f"zero_terminal_snr is for the model 'v', not {name!r}: only v is defined where no signal is left")
        alphas_cumprod = zero_snr(alphas_cumprod)
    with torch.device("cpu"):  # the weights are there, whatever device is the default
        net = Net(metadata["prediction"], alphas_cumprod)
    net.trunk.load_state_dict(state)
    # channels last: an eighth faster on a CPU
    return denoiser(net.eval().requires_grad_(False).to(memory_format=torch.channels_last))
