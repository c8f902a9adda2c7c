"""Judges of sets of pictures: the embedded classifier, one that `isdo train` made, or somebody's own
by ``module:callable``."""

import os

import torch

from .. import entry, models
from . import classifier
from .moments import Moments, frechet, moments


class Judge:
    """What the suites sets, frechet and refine ask; made of a judge of somebody's own.

    Args:
        name: for messages.
        judge: an object, which must have

            features(pictures): (B, C, H, W) in [-1, 1] -> (B, D), the space in which sets are
                compared;
            real: those features (N, D) of real pictures, or their `moments.Moments`.

            and may have

            accuracy(pictures, labels): the share of pictures that it takes for their class; left
                out, none is told;
            odds: how often each class occurs (K,): what a model that takes labels is asked for when
                no --label is given;
            labels: the class of each real picture (N,), from which the odds are counted where they
                are left out;
            floor: the Fréchet distance of one half of the real pictures from the other; of features
                it is computed;
            examples: features of some real pictures (M, D), where real are Moments;
            classes: their names: a model of other classes then is not judged;
            pictures(count, seed): (real pictures (count, C, H, W) in [-1, 1] that the model was not
                trained on, their labels or None): the suite refine then measures losses, detail,
                saturation and recovery, too;
            to(device): as networks have it.

    Raises:
        ValueError: something that must be there is not, or is something else.
    """

    def __init__(self, name, judge):
        self.name, self.judge = name, judge
        if not callable(getattr(judge, "features", None)):
            raise ValueError(
                f"{name} returned a {type(judge).__name__} without features(pictures): a judge has that, and real"
            )
        real, self.examples = getattr(judge, "real", None), None
        if isinstance(real, Moments):
            self.real, self.floor = real, getattr(judge, "floor", None)
            self.examples = getattr(judge, "examples", None)
        elif (
            torch.is_tensor(real) and real.ndim == 2 and len(real) > 3 and real.is_floating_point()
        ):
            self.examples = real = real.detach().cpu().double()
            self.real, self.floor = moments(real), frechet(moments(real[::2]), moments(real[1::2]))
        else:
            what = tuple(real.shape) if torch.is_tensor(real) else type(real).__name__
            raise ValueError(
                f"{name}: real is {what}: give features (N, D) of real pictures, or isdo.bench.moments.Moments"
            )
        self.odds = self._odds(getattr(judge, "odds", None), getattr(judge, "labels", None))
        self.accuracy, self.pictures, self.classes = (
            getattr(judge, part, None) for part in ("accuracy", "pictures", "classes")
        )

    def _odds(self, odds, labels):
        """Return how often each class occurs (K,), or None where nobody knows.

        Raises:
            ValueError: labels that are not one class for each real picture.
        """
        if odds is not None or labels is None:
            return odds if odds is None else torch.as_tensor(odds, device="cpu")
        labels = torch.as_tensor(labels, device="cpu")
        known = (
            labels.ndim == 1
            and not labels.is_floating_point()
            and len(labels)
            and int(labels.min()) >= 0
        )
        if not known or (self.examples is not None and len(labels) != len(self.examples)):
            raise ValueError(
                f"{self.name}: labels are {tuple(labels.shape)} of {labels.dtype}: give the class of each real picture as a "
                "whole number, or odds"
            )
        return labels.bincount().double() / len(labels)

    def features(self, pictures):
        """Return the features (B, D) of pictures.

        Raises:
            RuntimeError: the judge raised something, or returned something else.
        """
        size = len(self.real.mean)
        try:
            found = self.judge.features(pictures)
        except Exception as error:
            raise RuntimeError(
                f"{self.name} raised {entry.said(error)} for pictures {tuple(pictures.shape)}"
            ) from error
        if not torch.is_tensor(found) or found.shape != (len(pictures), size):
            what = tuple(found.shape) if torch.is_tensor(found) else type(found).__name__
            raise RuntimeError(
                f"{self.name}: features are {what}, and must be {(len(pictures), size)}, as the real ones"
            )
        return found

    def to(self, device):
        """Move the judge to ``device`` if it can be moved; returns self."""
        if callable(move := getattr(self.judge, "to", None)):
            move(device)
        return self


def load(name):
    """Return the judge that ``module:callable`` names, or the classifier in a file that `isdo train`
    wrote, as a Judge.

    Raises:
        ValueError: no such file, module or callable, or what it holds or returns is no judge.
    """
    if models.is_own(name):
        return Judge(name, entry.call(name))
    if not os.path.isfile(name):
        raise ValueError(
            f"{name} is no file here: give module:callable, or a file that python -m isdo train --model classifier wrote"
        )
    return Judge(name, classifier.load(name))


@torch.no_grad()
def judged(judge, pictures, labels=None):
    """Return (features (B, D) on the CPU, the share of the pictures taken for their class, None if
    nobody can tell)."""
    accuracy = getattr(judge, "accuracy", None)
    share = (
        None
        if labels is None or accuracy is None
        else float(accuracy(pictures, labels.to(pictures.device)))
    )
    return judge.features(pictures).detach().cpu(), share


def check(judge, shape, device):
    """Have a judge look at one grey picture of a model's ``shape``, before the work begins; returns
    the judge."""
    judged(judge, torch.zeros(1, *shape, device=device))
    return judge
