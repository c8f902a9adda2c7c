"""Runs whose results are stored, so that a rewrite can be shown to change nothing.

    python tests/runs.py        writes tests/runs.safetensors anew; only where a rule was changed

A rule that is changed on purpose goes with its numbers into docs/experiments.md, and the file is written
anew in the same commit.
"""

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from isdo import sample_isdo
from isdo.bench import problems
from isdo.bench.work_precision import limited
from isdo.settings import Settings

FILE = Path(__file__).with_name("runs.safetensors")
SEED, PICTURES = 31, 2


def _analytic(name, path):
    return lambda: problems.problem(name, path, SEED)


def _zoo(model, guidance):
    return lambda: problems.zoo_problem(model, guidance, SEED)


# name: (problem, schedule, model calls, settings that differ, level at which it begins, mask)
RUNS = {
    f"{name}, {path}, {schedule} {calls}": (_analytic(name, path), schedule, calls, {}, None, False)
    for name in ("stationary", "anisotropic", "stationary, guidance 7.5", "data set")
    for path, schedule, calls in (("ve", "karras", 8), ("flow", "flow shift 3", 10))
} | {
    "eps, guidance 3, karras 8": (_zoo("eps", "guidance 3"), "karras", 8, {}, None, False),
    "eps, no class, simple 12": (_zoo("eps", "no class"), "simple", 12, {}, None, False),
    "v, guidance 1, karras 20": (_zoo("v", "guidance 1"), "karras", 20, {}, None, False),
    "v, guidance 7, karras 6": (_zoo("v", "guidance 7"), "karras", 6, {}, None, False),
    "flow, guidance 1, shift 1": (_zoo("flow", "guidance 1"), "flow shift 1", 8, {}, None, False),
    "flow, guidance 3, shift 3": (_zoo("flow", "guidance 3"), "flow shift 3", 8, {}, None, False),
    "scheduled": (_zoo("v", "guidance 1"), "karras", 8, {"placement": 0.0}, None, False),
    "order 2": (_zoo("v", "guidance 1"), "karras", 8, {"order": 2}, None, False),
    "order 1": (_zoo("v", "guidance 1"), "karras", 8, {"order": 1}, None, False),
    "one tau": (_zoo("v", "guidance 1"), "karras", 8, {"tau": "root"}, None, False),
    "two corrections": (_zoo("v", "guidance 1"), "karras", 8, {"corrector": 2}, None, False),
    "no correction": (_zoo("v", "guidance 1"), "karras", 8, {"corrector": 0}, None, False),
    "two corrections from pure noise": (
        _analytic("stationary", "flow"), "flow shift 3", 8, {"corrector": 2}, None, False,
    ),
    "no power": (_analytic("anisotropic", "ve"), "karras", 8, {"power": "zero"}, None, False),
    "no response": (_zoo("v", "guidance 1"), "karras", 8, {"response": 0.0}, None, False),
    "cosine": (_zoo("v", "guidance 1"), "karras", 8, {"basis": "cosine"}, None, False),
    "from near": (_zoo("v", "guidance 1"), "karras", 8, {}, 1.0, False),
    "from near, flow": (_zoo("flow", "guidance 1"), "flow shift 3", 8, {}, 0.6, False),
    "masked": (_zoo("v", "guidance 1"), "karras", 8, {}, None, True),
    "masked Gaussian": (_analytic("anisotropic", "ve"), "karras", 8, {}, None, True),
}  # fmt: skip


class Single:
    """A model that takes float32, held to a known picture where ``mask`` is 0."""

    def __init__(self, model, dtype, mask):
        self.model, self.dtype, self.mask = model, dtype, mask

    def __getattr__(self, name):
        if name == "model":
            raise AttributeError(name)
        return getattr(self.model, name)

    def __call__(self, x, sigma, **extra):
        denoised = self.model(x.to(self.dtype), sigma.to(self.dtype), **extra).float()
        return torch.lerp(torch.full_like(x, 0.3), denoised, self.mask)


def solve(name):
    """Return the pictures (B, C, H, W), float32, of a run."""
    make, schedule, calls, changed, start, masked = RUNS[name]
    problem = limited(make(), PICTURES)
    sigmas, x = problem.schedules()[schedule](calls).float(), problem.x.float()
    if start is not None:
        sigmas = torch.cat(
            [torch.full((1,), start), sigmas[(sigmas > 0) & (sigmas < start)], torch.zeros(1)]
        )
        x = x / float(problem.schedules()[schedule](calls)[0]) * start
    mask = torch.ones_like(x[:1, :1])
    if masked:
        mask[..., : x.shape[-1] // 2] = 0
    return sample_isdo(
        Single(problem.model, problem.x.dtype, mask),
        x,
        sigmas,
        problem.extra_args,
        None,
        True,
        settings=replace(Settings(), **changed),
        mask=mask if masked else None,
    )


def stored():
    """Return {name: pictures} as they were."""
    return load_file(FILE)


if __name__ == "__main__":
    save_file({name: solve(name).contiguous() for name in RUNS}, FILE)
