"""The picture of the first page: what two samplers draw from the same noise in a few calls, and how
it differs from the converged pictures."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.nn.functional import interpolate

from .. import gallery
from .problems import rms
from .work_precision import SAMPLERS

SHOWN = ("isdo", "dpmpp_2m")
CALLS = (6, 8)
COUNT = 5  # pictures of a model: the first seeds, 0, 1, 2, ...
HEIGHT = 96  # pixels of a picture on the page
MAGNIFIED = 5  # brings errors of 0.02 to 0.1, as at 6 and 8 calls, into sight


@dataclass(frozen=True, eq=False)
class Group:
    """Pictures of one model.

    Args:
        title: what stands above them.
        converged: (COUNT, 3 or 1, H, W) in [-1, 1].
        drawn: {(sampler, calls): pictures shaped like these}, sampler a key of SAMPLERS.
    """

    title: str
    converged: torch.Tensor
    drawn: Mapping[tuple[str, int], torch.Tensor]

    def error(self, job):
        """Return the median over the pictures of the RMS error of what was drawn."""
        return rms(self.drawn[job] - self.converged).median().item()

    def difference(self, job):
        """Return pictures of what is too bright and too dark: grey is right, MAGNIFIED times the
        error is added."""
        return MAGNIFIED * (self.drawn[job] - self.converged)


def enlarged(pictures, height=HEIGHT):
    """Return pictures (N, C, H, W) as (N, C, ``height``, as wide as that makes them): what becomes
    larger is not smoothed."""
    tall, wide = pictures.shape[-2:]
    size = (height, max(1, round(height * wide / tall)))
    return interpolate(pictures.float(), size, mode="nearest-exact" if tall <= height else "area")


def page(groups, samplers=SHOWN, calls=CALLS):
    """Lay the groups out side by side, on white: converged pictures, then for each number of calls
    what every sampler drew, then how that differs.

    Args:
        groups: list of Group; all of them hold every (sampler, calls).
        samplers, calls: keys of ``drawn``, in the order in which they stand on the page.

    Returns:
        A PIL image. Errors in its labels stand in the order of the groups.
    """
    jobs = [[(sampler, budget) for sampler in samplers] for budget in calls]
    names = ["converged"]
    for row in jobs:
        for job in row:
            errors = ", ".join(f"{group.error(job):.3f}" for group in groups)
            names.append(f"{_label(job)}\nerror {errors}")
        names += [f"{_label(job)}\ndifference x {MAGNIFIED}" for job in row]
    sheets = [
        gallery.page(_rows(group, jobs), None if i else names, _above(group), zoom=1)
        for i, group in enumerate(groups)
    ]
    return _side_by_side(sheets)


def _label(job):
    sampler, calls = job
    return f"{SAMPLERS[sampler].label}, {calls} calls"


def _rows(group, jobs):
    """Return the rows of a group's sheet, (COUNT, C, HEIGHT, width) each."""
    rows = [group.converged]
    for row in jobs:
        rows += [group.drawn[job] for job in row] + [group.difference(job) for job in row]
    return [enlarged(pictures) for pictures in rows]


def _above(group):
    """Return the labels of the columns: one text, over the middle."""
    count = len(group.converged)
    return [group.title if i == count // 2 else "" for i in range(count)]


def _side_by_side(sheets):
    from PIL import Image

    size = (sum(sheet.width for sheet in sheets), max(sheet.height for sheet in sheets))
    whole, left = Image.new("RGB", size, "white"), 0
    for sheet in sheets:
        whole.paste(sheet, (left, 0))
        left += sheet.width
    return whole
