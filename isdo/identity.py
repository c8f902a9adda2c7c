"""What a model computes with, so that a change of it is told from a new wrapper round the same."""

import functools
import types

import torch

DEPTH = 6  # wrappers within wrappers


class Identity:
    """The networks behind the ``inner_model`` of a WebUI's denoiser, as they are at one moment.

    A refiner puts another network there, or loads other weights into the same one; what was
    computed before is then no history of what comes. A wrapper may also be made anew at each
    access, or be a method: that is no change. So networks are compared, by their first parameter
    and its version (a count of what was written into it), and functions by their code. Only where
    nothing of the kind is found does the object itself count, and only if it is the same twice in a
    row.
    """

    def __init__(self, model):
        inner = getattr(model, "inner_model", None)
        self.parts = tuple(_parts(inner, DEPTH, set()))
        if not self.parts and getattr(model, "inner_model", None) is inner:
            self.parts = ((inner, None),)

    def __eq__(self, other):
        pairs = zip(self.parts, other.parts, strict=False)
        return len(self.parts) == len(other.parts) and all(
            a is b and v == w for (a, v), (b, w) in pairs
        )


def _parts(thing, depth, met):
    """Yield (object, version) of all that computes in ``thing``: parameters, buffers, the code of
    functions."""
    if depth == 0 or id(thing) in met:
        return
    met.add(id(thing))
    if isinstance(thing, torch.nn.Module):
        tensor = next(thing.parameters(), None)
        tensor = next(thing.buffers(), None) if tensor is None else tensor
        if tensor is not None:
            # a tensor that was made for inference keeps no count
            yield tensor, None if tensor.is_inference() else tensor._version
            return
    if isinstance(thing, types.MethodType):
        yield thing.__func__, None
        inside = [thing.__self__]
    elif isinstance(thing, types.FunctionType):
        yield thing.__code__, None
        inside = [cell.cell_contents for cell in thing.__closure__ or ()]
    elif isinstance(thing, functools.partial):
        inside = [thing.func, *thing.args]
    else:  # not what it holds besides: counters and the last picture change without a change of the model
        inside = (
            vars(thing).values()
            if hasattr(thing, "__dict__") and not isinstance(thing, type)
            else ()
        )
    for part in inside:
        if callable(part) or hasattr(part, "__dict__"):
            yield from _parts(part, depth - 1, met)
