"""What a device can do, and numbers on their way to it and back."""

import contextlib
import functools
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from .protocols import Device


def wide(values: Any) -> Tensor:
    """Return numbers, or a tensor of any device, as float64 on the CPU.

    The tensor comes to the CPU first and is widened there: Apple's MPS has no float64, and no
    default device is the CPU.
    """
    if torch.is_tensor(values):
        return values.detach().cpu().double()
    return torch.as_tensor(values, dtype=torch.float64, device="cpu")


def beside(values: Tensor, like: Tensor) -> Tensor:
    """Return a tensor of the CPU in the dtype and on the device of ``like``; it is narrowed before
    it goes there."""
    return values.to(like.dtype).to(like.device)


def constants(values: Any, like: Tensor) -> Tensor:
    """Return (nested lists of) numbers as a tensor beside ``like``, without waiting until a GPU has
    them."""
    return _sent(values, like.dtype, like.device)


def table(values: tuple[Any, ...], like: Tensor) -> Tensor:
    """Return (nested tuples of) numbers as a tensor beside ``like``, made once: schedules repeat,
    and what depends on their levels alone does."""
    return _table(values, like.dtype, like.device)


def _sent(values: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    made = torch.tensor(values, dtype=dtype, device="cpu")
    if device.type == "cuda" and _pins():
        return made.pin_memory().to(device, non_blocking=True)
    return made.to(device)


_table = functools.lru_cache(maxsize=4096)(_sent)


@functools.cache
def _pins() -> bool:
    """Say whether memory can be pinned for a GPU."""
    return torch.cuda.is_available()


@functools.lru_cache(maxsize=8)
def precision(device: Device) -> torch.dtype:
    """Return the dtype in which coefficients are computed on a device: float64 where it has that
    (MPS has not)."""
    try:
        return torch.zeros((), dtype=torch.float64, device=device).dtype
    except (RuntimeError, TypeError):
        return torch.float32


@functools.lru_cache(maxsize=8)
def has_complex_fft(device: Device) -> bool:
    """Say whether a small FFT works on a device (DirectML and older MPS have none)."""
    try:
        probe = torch.arange(16.0, device=device).reshape(4, 4)
        there_and_back = torch.fft.irfft2(torch.fft.rfft2(probe), s=(4, 4))
        return bool((there_and_back - probe).abs().max() < 1e-3)
    except (RuntimeError, NotImplementedError, TypeError):
        return False


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Return the context in which matrix products keep their precision: WebUIs sample under
    autocast, which halves it."""
    return (
        torch.autocast(device.type, enabled=False)
        if _halved(device.type)
        else contextlib.nullcontext()
    )


def _halved(kind: str) -> bool:
    try:
        return torch.is_autocast_enabled(kind)
    except RuntimeError:  # a device that autocast does not know
        return False
    except TypeError:  # torch before 2.4 asks CUDA's by that name, without a device, and knows the CPU's by another
        asked = {"cuda": torch.is_autocast_enabled, "cpu": torch.is_autocast_cpu_enabled}.get(kind)
        return asked is not None and asked()
