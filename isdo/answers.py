"""What a model answers: whether it is a picture like the one it was asked about, and whether it
holds numbers."""

import ctypes
import math
from typing import Any

import torch
from torch import Tensor

from .protocols import Model

BLOCK = 64  # answers to a piece of memory


class NotFinite(RuntimeError):
    """A model returned NaN or infinity.

    Args:
        where: the step and the sigma.
        remedy: what gives full precision, where somebody knows.
    """

    def __init__(self, where: str, remedy: str = "full precision") -> None:
        super().__init__(
            f"the model returned NaN or infinity at {where}: try {remedy}, another checkpoint or a lower guidance scale"
        )
        self.where = where


def check_kind(denoised: Any, x: Tensor, where: str = "") -> Tensor:
    """Return what a model answered to x.

    Raises:
        RuntimeError: it is no tensor of floating point numbers in the shape of x.
    """
    if not torch.is_tensor(denoised):
        said = f"a {type(denoised).__name__}"
    elif denoised.shape != x.shape:
        said = f"a tensor {tuple(denoised.shape)} for x {tuple(x.shape)}"
    elif not denoised.is_floating_point():
        said = f"numbers of {denoised.dtype}"
    else:
        return denoised
    raise RuntimeError(
        f"the model returned {said}{where}: it must return denoised, floating point numbers in the shape of x"
    )


class Answers:
    """Looks at every answer of a run: at its kind at once, for NaN and infinity as soon as that
    costs no waiting.

    A GPU is asked whether it has come so far and is never waited for: what it finds is copied to
    the host's memory while the run goes on. Devices without such an event are looked at once, after
    the run.

    Args:
        device: the model's.
        steps: how many there are, for messages.
        unit: what these are.
    """

    def __init__(self, device: torch.device, steps: int, unit: str = "step") -> None:
        self.device, self.steps, self.unit = device, steps, unit
        self.kind: dict[str, Any] = {"dtype": torch.float32, "device": device}
        if device.type == "cuda":
            self.kind |= {"device": "cpu", "pin_memory": True}
        self.sigmas: list[float | Tensor] = []
        self.sums: list[Tensor] = []
        self.events: list[Any] = []
        self.seen = 0
        # the same memory, to be read without asking a device
        self.host: list[Any] = []

    def take(self, denoised: Any, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Return the answer to x at ``sigma``, a number or a tensor with one, and note whether it
        holds numbers.

        Raises:
            RuntimeError: it is no tensor of floating point numbers in the shape of x.
        """
        i = len(self.sigmas)
        self.sigmas.append(sigma)
        check_kind(denoised, x, f" at {self.unit} {i + 1} of {self.steps}")
        if i % BLOCK == 0:
            self.sums.append(torch.zeros(BLOCK, **self.kind))
            if self.sums[-1].device.type == "cpu":
                there = self.sums[-1].data_ptr()
                self.host.append((ctypes.c_float * BLOCK).from_address(there))
        # a sum with NaN or infinity in it is one of them: the cheapest look at all numbers
        place, every = self.sums[-1][i % BLOCK], tuple(range(denoised.ndim))
        if place.device == denoised.device:
            torch.sum(denoised, every, dtype=torch.float32, out=place)
        else:
            place.copy_(denoised.sum(dtype=torch.float32), non_blocking=True)
        if self.device.type == "cuda":
            self.events.append(torch.cuda.Event())
            self.events[-1].record(torch.cuda.current_stream(self.device))
        return denoised

    def look(self) -> None:
        """Raise if an answer that has come by now holds NaN or infinity: called before the model is
        asked again.

        Raises:
            NotFinite: it does.
        """
        if not self.host:
            return
        while self.seen < len(self.sigmas) and (not self.events or self.events[self.seen].query()):
            if not math.isfinite(self.host[self.seen // BLOCK][self.seen % BLOCK]):
                self._complain(self.seen)
            self.seen += 1

    def settle(self) -> None:
        """Look at all answers once the run is over, and wait for the device if need be.

        Raises:
            NotFinite: as for ``look``.
        """
        if self.events:
            self.events[-1].synchronize()
        sums = torch.cat(self.sums).cpu().tolist() if self.sums else []
        bad = [i for i, each in enumerate(sums) if not math.isfinite(each)]
        if bad:
            self._complain(bad[0])

    def _complain(self, i: int) -> None:
        raise NotFinite(f"{self.unit} {i + 1} of {self.steps}, sigma {float(self.sigmas[i]):g}")


class Checked:
    """A model whose answers are looked at; everything else is the wrapped model's."""

    def __init__(self, model: Model, device: torch.device, steps: int) -> None:
        self.model, self.answers = model, Answers(device, steps)

    def __call__(self, x: Tensor, sigma: Tensor, **extra: Any) -> Tensor:
        self.answers.look()
        return self.answers.take(self.model(x, sigma, **extra), x, sigma.flatten()[0])

    def __getattr__(self, name: str) -> Any:
        if name == "model":  # not set yet: a copy or an unpickled object asks before __init__ ran
            raise AttributeError(name)
        return getattr(self.model, name)
