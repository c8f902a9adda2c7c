"""A device that is not there: tensors on it hold their numbers on the CPU, and float64 is refused
as Apple's MPS does it."""

import contextlib

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

NAME = "meta"


class OnDevice(torch.Tensor):
    """A tensor that says that it is on the device."""

    @staticmethod
    def __new__(cls, held):
        if held.dtype in (torch.float64, torch.complex128):
            raise TypeError(
                "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64"
            )
        kind = {"dtype": held.dtype, "layout": held.layout, "device": NAME, "requires_grad": False}
        kind |= {"strides": held.stride(), "storage_offset": held.storage_offset()}
        return torch.Tensor._make_wrapper_subclass(cls, held.shape, **kind)

    def __init__(self, held):
        self.held = held

    def __repr__(self):
        return f"OnDevice({self.held})"

    __torch_function__ = (
        torch._C._disabled_torch_function_impl
    )  # what comes back to the CPU is a plain tensor

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


class Device(TorchDispatchMode):
    """While it is on, what is asked for on the device comes to be there."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


def run(func, args, kwargs):
    """Do on the CPU what is asked for on the device, and refuse what a real one refuses."""
    flat = tree_flatten((args, kwargs))[0]
    there = any(isinstance(v, OnDevice) for v in flat)
    if there and any(type(v) is torch.Tensor and v.ndim > 0 for v in flat) and func not in MOVES:
        raise RuntimeError(
            f"{func}: expected all tensors to be on the same device, but found at least two, {NAME} and cpu"
        )
    asked = kwargs.get("device")
    if asked is not None:
        there, kwargs = torch.device(asked).type == NAME, {**kwargs, "device": torch.device("cpu")}
        if there and kwargs.get("dtype") == torch.float64:
            raise TypeError(
                "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64"
            )
    if kwargs.get("dtype") == torch.float64 and any(isinstance(v, OnDevice) for v in flat):
        raise TypeError(
            "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64"
        )
    bare = tree_map(lambda v: v.held if isinstance(v, OnDevice) else v, (args, kwargs))
    if func in IN_PLACE_MOVES:
        func(*bare[0], **bare[1])
        return args[0]
    out = func(*bare[0], **bare[1])
    if func._schema.is_mutable and isinstance(args[0], OnDevice) and out is bare[0][0]:
        return args[0]
    return tree_map(lambda v: OnDevice(v) if isinstance(v, torch.Tensor) and there else v, out)


MOVES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}
IN_PLACE_MOVES = {torch.ops.aten.copy_.default}


class FromNumbers(TorchFunctionMode):
    """While it is on, tensors of numbers for the device are made on the CPU and go there: torch
    would make them empty."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if (
            func in (torch.tensor, torch.as_tensor)
            and torch.device(kwargs.get("device") or "cpu").type == NAME
        ):
            return func(*args, **{**kwargs, "device": "cpu"}).to(NAME)
        return func(*args, **kwargs)


@contextlib.contextmanager
def device():
    """Make the device be there; gives its name."""
    with Device(), FromNumbers():
        yield NAME
