"""Runs over more pictures than a network takes at once, and the bar that shows them."""

from contextlib import contextmanager
from dataclasses import replace

import torch

from .. import gallery
from ..reference import seeded

BATCH = 32


@contextmanager
def progress(total, label):
    """Show a bar on standard error; gives the callback that moves it by one step."""
    from tqdm import tqdm

    with tqdm(total=total, desc=label, leave=False) as bar:
        yield lambda *_: bar.update()


def parts(count):
    """Return the slices of BATCH pictures that make up so many."""
    return [slice(start, start + BATCH) for start in range(0, count, BATCH)]


def extra_args(given, count, part):
    """Return what a model is handed beside x for some of so many pictures."""
    return given.extra_args(given.classes(range(count)[part]))


def draw(run, given, sigmas, seeds, callback=None, begun=None):
    """Return pictures (len(seeds), C, H, W), in batches; image i has its own seed and label,
    whatever its batch.

    ``begun`` (len(seeds), C, H, W) is where they are drawn from, noise of the seeds if None.
    """
    done = []
    for part in parts(len(seeds)):
        x = sigmas[0] * gallery.noise(seeds[part], given.shape) if begun is None else begun[part]
        sampler = seeded(run, seeds[part])
        done.append(
            sampler(
                given.model,
                x.to(given.device),
                sigmas.to(given.device),
                extra_args=extra_args(given, len(seeds), part),
                callback=callback,
                disable=True,
            ).cpu()
        )
    return torch.cat(done)


def walk(run, label, moves, given, x, sigmas, settings):
    """Return what ``run`` (`invert` or `sample_isdo`) makes of x (B, C, H, W), in batches, and its
    model calls a picture.

    ``moves``: how often it calls back.
    """
    found, report, each = [], {}, parts(len(x))
    with progress(moves * len(each), label) as moved:
        for part in each:
            extra, begun = extra_args(given, len(x), part), x[part].to(given.device)
            found.append(
                run(
                    given.model, begun, sigmas, extra, moved, True, settings=settings, report=report
                ).cpu()
            )
    return torch.cat(found), report["calls"][0]


def unlabelled(given):
    """Return one of the zoo's models with the class that stands for none where no class was asked
    for; one that knows no classes as it is."""
    if given.own or given.labels or not given.model.classes:
        return given
    return replace(given, labels=(given.model.null_label,))
