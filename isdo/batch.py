"""Many pictures at many noise levels, asked of a model together where it takes that, else level by
level."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .answers import check_kind
from .protocols import ExtraArgs, Model

log = logging.getLogger(__name__)
# What a model may say to a batch that it does not take, running out of memory included.
REFUSALS = (RuntimeError, ValueError, TypeError, IndexError, AssertionError, NotImplementedError)
PLAIN = (type(None), bool, int, float, str)


def repeatable(extra_args: ExtraArgs, count: int) -> bool:
    """Say whether the arguments of ``count`` pictures can be had for any selection of these: plain
    values and tensors.

    A host's conditions are objects of its own, and its denoiser knows its own batch only.
    """
    return all(
        isinstance(v, PLAIN) or (torch.is_tensor(v) and (v.ndim == 0 or len(v) in (1, count)))
        for v in extra_args.values()
    )


def selected(extra_args: ExtraArgs, count: int, index: Sequence[int]) -> dict[str, Any]:
    """Return the arguments for the pictures ``index``: what has a row for each picture is taken row
    by row."""
    rows = {
        key: torch.is_tensor(v) and v.ndim > 0 and len(v) == count for key, v in extra_args.items()
    }
    at = {
        v.device: torch.tensor(index, device="cpu").to(v.device)
        for key, v in extra_args.items()
        if rows[key]
    }
    return {
        key: v.index_select(0, at[v.device]) if rows[key] else v for key, v in extra_args.items()
    }


class Batch:
    """Model calls at pairs of a picture and a level, in one call a round or in one for each level.

    What a model says to a batch of another size than that of the run is taken if it is of the right
    shape; from when it is not, or the model refuses, the run goes on level by level.

    Args:
        model: ``model(x, sigma, **extra_args) -> denoised``. If it has a method ``at_step(i)``,
            that is called before each call that is made level by level, with the index of the
            level.
        extra_args: for ``count`` pictures.
        count: pictures of the run.
        together: False: level by level from the start.
    """

    def __init__(
        self, model: Model, extra_args: ExtraArgs, count: int, together: bool = True
    ) -> None:
        self.model, self.extra_args, self.count = model, extra_args, count
        self.together = together and repeatable(extra_args, count)

    def at_once(self, x: Tensor, levels: Tensor, index: Sequence[int]) -> Tensor | None:
        """Return what the model says to x (n, ...) at levels (n,), pictures ``index``; None if it
        does not take that."""
        try:
            denoised = check_kind(
                self.model(x, levels, **selected(self.extra_args, self.count, index)), x
            )
        except REFUSALS:
            log.debug(
                "the model takes no batch of %d, and is asked level by level", len(x), exc_info=True
            )
            self.together = False
            return None
        return denoised

    def at_level(self, x: Tensor, levels: Tensor, step: int) -> Tensor:
        """Return what the model says to the pictures x of the run, all at one level, the one of
        index ``step``."""
        if (tell := getattr(self.model, "at_step", None)) is not None:
            tell(step)
        return self.model(x, levels, **self.extra_args)
