"""Small diffusion models, one for each prediction type: of emoji, embedded, or of anybody's own
pictures, from files trained here."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..denoiser import PREDICTIONS, Denoiser
from .net import CLASSES, EMOJI, MULTIPLE, Architecture, Net, scaled_linear
from .net import zero_terminal_snr as zero_snr

FOLDER = Path(__file__).parent
NAMES = ("eps", "v", "flow")
Name = str | os.PathLike[str]


def _file(name: Name) -> Path:
    """Return the path of a model's file: of the zoo's own by name, else of any by its path."""
    if name in NAMES:
        file = FOLDER / f"{name}.safetensors"
        if not file.exists():
            raise ValueError(
                f"the zoo's model {name!r} has no weights here: make them with python -m isdo train --model {name} --out {file}"
            )
        return file
    file = Path(name)
    if not file.is_file():
        why = "is a folder" if file.is_dir() else "is no file here"
        raise ValueError(
            f"no model {os.fspath(name)!r} in the zoo, and it {why}: choose one of {', '.join(NAMES)}, or give the path of a "
            "file that python -m isdo train wrote"
        )
    return file


@contextmanager
def _open(name: Name) -> Iterator[tuple[Any, dict[str, str]]]:
    """Open a model's file and look at what it says: gives (the open file, its metadata)."""
    file = _file(name)
    try:
        opened = safe_open(file, "pt")
    except SafetensorError as error:
        raise ValueError(
            f"{file} is no safetensors file ({error}): give one that python -m isdo train wrote"
        ) from None
    with opened:
        metadata = opened.metadata() or {}
        if missing := sorted({"prediction", "config"} - metadata.keys()):
            raise ValueError(
                f"{file} does not say its {' and '.join(missing)}: give a file that python -m isdo train --model "
                f"{'|'.join(NAMES)} wrote"
            )
        if metadata["prediction"] not in NAMES:
            raise ValueError(
                f"{file} says that it predicts {metadata['prediction']!r}: it must be one of {', '.join(NAMES)}"
            )
        yield opened, metadata


def load_trunk(name: Name) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return (state dict float32, metadata) of a model: one of NAMES, or a file that `isdo train`
    wrote."""
    with _open(name) as (file, metadata):
        return {key: file.get_tensor(key).float() for key in file.keys()}, metadata


def architecture(metadata: dict[str, str]) -> Architecture:
    """Return what the net of a model's file is built from, as its metadata say.

    Raises:
        ValueError: they say it in a way that no training does.
    """
    try:
        config = dict(json.loads(metadata["config"]))
        classes = json.loads(metadata.get("classes", json.dumps(CLASSES)))
        given = {key: config[key] for key in ("size", "width", "sigma_data") if key in config}
        return Architecture(classes=tuple(map(str, classes)), **given)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"its metadata describe no net ({error}): give a file that python -m isdo train wrote"
        ) from None


def architecture_of(name: Name) -> Architecture:
    """Return what a model's net is built from, the weights unread: its size and its classes.

    Raises:
        ValueError: when there is no such model.
    """
    if name in NAMES:
        return EMOJI
    with _open(name) as (_, metadata):
        return architecture(metadata)


def info(name: Name) -> dict[str, Any]:
    """Return what a model's file says: prediction, config, losses (per band of t), classes,
    licence.

    Raises:
        ValueError: when there is no such model.
    """
    with _open(name) as (_, metadata):
        pass
    return {
        "prediction": metadata["prediction"],
        "config": json.loads(metadata["config"]),
        "losses": json.loads(metadata["loss_per_band"]),
        "classes": json.loads(metadata["classes"]),
        "licence": metadata["data"],
    }


def denoiser(net: Net) -> Denoiser:
    """Return ``net`` (zoo.net.Net) as a Denoiser; its table is its schedule's, or 1/1000 .. 1 for
    flow."""
    indexed = net.log_sigmas is not None
    sigmas = (
        torch.arange(1, 1001, dtype=torch.float64, device="cpu") / 1000
        if net.log_sigmas is None
        else net.log_sigmas.exp()
    )
    return Denoiser(
        net,
        net.prediction,
        sigmas,
        indexed,
        null_label=net.null,
        multiple=MULTIPLE,
        shape=net.architecture.shape,
        classes=net.architecture.classes,
    )


def load(name: Name, zero_terminal_snr: bool = False) -> Denoiser:
    """Return a model as ``model(x, sigma, labels=None, guidance=1.0) -> denoised``, a Denoiser.

    Args:
        name: one of NAMES, or the path of a file that ``isdo train`` wrote, which says its
            prediction, size, width and classes. ``eps`` and ``v`` travel on the ``ve`` path
            (x = x0 + sigma n), ``flow`` on the flow path.
        zero_terminal_snr: for ``v`` only, the schedule whose last sigma is 4518.8 (Lin et al.
            2023).

    Raises:
        ValueError: when there is no such model, a file that holds none, or one that cannot start at
            zero terminal SNR.
    """
    state, metadata = load_trunk(name)
    prediction = metadata["prediction"]
    alphas_cumprod = None if PREDICTIONS[prediction].path.fade else scaled_linear()
    if zero_terminal_snr:
        if prediction != "v":
            raise ValueError(
                f"zero_terminal_snr is for the model 'v', not {prediction!r}: only v is defined where no signal is left"
            )
        alphas_cumprod = zero_snr(scaled_linear())
    with torch.device("cpu"):  # the weights are there, whatever device is the default
        net = Net(prediction, alphas_cumprod, architecture(metadata))
    try:
        net.trunk.load_state_dict(state)
    except RuntimeError:
        raise ValueError(
            f"{os.fspath(name)} holds the weights of another architecture: give a file that python -m isdo train of this "
            "version wrote"
        ) from None
    net = net.eval().requires_grad_(False)
    # channels last: an eighth faster on a CPU; torch's stubs do not know that `to` takes it
    return denoiser(net.to(memory_format=torch.channels_last))  # type: ignore[call-overload]
