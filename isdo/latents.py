"""Files of noise that pictures are drawn from: what `python -m isdo invert` writes and ``sample
--noise`` reads."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from . import files

KIND = "isdo noise"
NEAR = 1e-3  # the first level of a schedule is that of the file up to so much, relative


@dataclass(frozen=True)
class Noise:
    """Where pictures are drawn from.

    Attributes:
        x: (B, C, H, W) float32, at the noise level ``sigma``, in the sampler's units: noise of
            about that size, and on the path ve the picture's mean.
        sigma, steps, schedule: of the schedule that they were found by.
        labels: names of classes, of the pictures in turn.
    """

    x: torch.Tensor
    sigma: float
    steps: int
    schedule: str
    labels: list

    def check(self, path, sigma, shape):
        """Look whether a schedule that starts at ``sigma``, of pictures of that shape, can start
        here.

        Raises:
            ValueError: it cannot.
        """
        if abs(sigma - self.sigma) > NEAR * self.sigma:
            raise ValueError(
                f"{path} is of the noise level {self.sigma:g} and the schedule starts at {sigma:g}: give the model and the "
                "schedule that it was made with"
            )
        if self.x.shape[1] != shape[0]:
            raise ValueError(
                f"{path} holds pictures {tuple(self.x.shape[1:])}, and the model's are {tuple(shape)}"
            )


def check_target(path):
    """Return the path of a file of noise that can be written.

    Raises:
        ValueError: it cannot, or its name says that it is of another kind.
    """
    if Path(path).suffix.lower() != ".safetensors":
        raise ValueError(f"{path} is to hold noise, not a picture: name it something.safetensors")
    return files.check_target(path)


def write(path, x, sigma, about, labels):
    """Write the x (B, C, H, W) at the level ``sigma``; ``about`` {key: value} says how it was
    made."""
    said = {"kind": KIND, "sigma": repr(sigma), "labels": json.dumps(list(labels))}
    with files.replacing(path) as part:
        save_file(
            {"x": x.float().contiguous()},
            part,
            said | {key: str(value) for key, value in about.items()},
        )


def read(path):
    """Return the Noise of a file.

    Raises:
        ValueError: there is none, or it holds something else.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path} is no file here: give one that python -m isdo invert wrote")
    try:
        with safe_open(path, "pt") as file:
            said, names = file.metadata() or {}, list(file.keys())
            x = file.get_tensor("x") if names == ["x"] else None
        noise = Noise(
            x,
            float(said["sigma"]),
            int(said["Steps"]),
            said["Schedule type"],
            json.loads(said["labels"]),
        )
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path} holds no noise ({error}): give a file that python -m isdo invert wrote"
        ) from None
    if said.get("kind") != KIND or x is None or x.ndim != 4 or not len(x) or not x.isfinite().all():
        raise ValueError(f"{path} holds no noise: give a file that python -m isdo invert wrote")
    return noise
