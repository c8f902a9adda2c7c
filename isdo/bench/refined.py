"""Sets of refined pictures: every method goes on from the same pictures, with as many model calls, and a
judge looks."""

import math
from dataclasses import dataclass, field
from functools import cache, partial

import torch

from .. import gallery
from ..models import Given, of_zoo
from . import classifier, sets
from .baselines import Baseline
from .judge import check
from .methods import BASE, BATCH, EXTRA, METHODS, Job
from .report import markdown
from .sets_page import BANDS, detail, deviation, difference
from .work_precision import ISDO

COUNT = 256
CALLS = (BASE + EXTRA,)
OWN = "nothing"  # with whose pictures the others' are compared
LEVELS = (1.0, 2.0, 4.0)  # noise-to-signal ratios, how much may be repainted
LOSS_AT = (0.1, 0.25, 0.6)
# What a page has if nobody asks for all: the default, each thing that it holds let go, and the
# other ways to spend the calls.
USUAL = (
    "nothing", "steps", "refine@1", "refine@2", "refine@4", "unlocked@1", "unlocked@2", "unlocked@4",
    "loose@1", "free@2", "img2img@2", "restart@2",
)  # fmt: skip


@dataclass
class Drawn:
    """The pictures that all methods go on from: drawn by ISDO once for each batch, then remembered
    for the methods that come next."""

    key: tuple = ()
    pictures: torch.Tensor | None = field(default=None, repr=False)

    def __call__(self, model, x, sigmas, extra_args):
        """Return the pictures drawn from x on the schedule; the calls that they took count for each
        method, which could not have begun without them."""
        asked = (x, sigmas, *(v for v in (extra_args or {}).values() if torch.is_tensor(v)))
        if not self._holds(asked):
            self.pictures = ISDO.run(model, x, sigmas, extra_args, disable=True)
            self.key = tuple(part.clone() for part in asked)
        else:
            model.calls += len(sigmas) - 1
        return self.pictures.clone()

    def _holds(self, asked):
        return len(asked) == len(self.key) and all(map(torch.equal, asked, self.key))


def lineup(levels=LEVELS):
    """Return name -> Baseline of all methods at all noise levels: half of the calls draw, the other
    half is the method's."""
    drawn, found = Drawn(), {}
    for name, method in METHODS.items():
        for level in levels if method.levels else (None,):
            key = name if level is None else f"{name}@{level:g}"
            found[key] = Baseline(
                method.label, partial(_go_on, method, level, drawn), "", _steps_of(method)
            )
    return found


def _steps_of(method):
    """Return how many steps the schedule has that a method is handed, as a function of its calls."""
    return int if method is METHODS["steps"] else lambda calls: max(1, calls // 2)


def _go_on(
    method, level, drawn, model, x, sigmas, extra_args=None, callback=None, disable=None, *, seeds
):
    """Draw and let the method go on, in the call shape of a Baseline's run."""
    steps = len(sigmas) - 1
    base = steps // 2 if method is METHODS["steps"] else steps
    pictures = x if method.redraws else drawn(model, x, sigmas, extra_args)
    job = Job(model, pictures, seeds, extra_args or {}, x, lambda n: sigmas, base=base)
    return method.run(job, level, steps - base if method is METHODS["steps"] else base)


def losses(model, pictures, extra_args, seeds):
    """Return |D(x + sigma n) - x|^2 / sigma^2 per pixel (B, 3) at the noise-to-signal ratios LOSS_AT;
    the noise of a seed is always the same.

    In the mean over real pictures it is what training made small, a bound on -log p; of drawn ones
    it tells how much the model likes them, and what it likes best is smooth: as good as real
    pictures is best.
    """
    noise = gallery.noise([10**6 + seed for seed in seeds], pictures.shape[1:]).to(pictures.device)
    found = []
    for ratio in LOSS_AT:
        sigma = model.path.from_noise_to_signal(ratio)
        noisy = model.path.signal(sigma) * pictures + sigma * noise
        with torch.no_grad():
            d = model(noisy, sigma, **extra_args)
        found.append((d - pictures).double().square().mean((1, 2, 3)) / ratio**2)
    return torch.stack(found, 1)


def saturation(pictures):
    """Return of each picture (B,) the mean of the largest channel less the smallest."""
    pictures = pictures.clamp(-1, 1)
    return (pictures.amax(1) - pictures.amin(1)).double().mean((1, 2))


def real(given, judge, count, seed):
    """Return (real pictures that the judge has, their labels or None), where the model is; (None,
    None) where it has none.

    Raises:
        ValueError: pictures that are not like those of the model.
    """
    if judge.pictures is None:
        return None, None
    pictures, labels = judge.pictures(count, seed)
    if pictures.shape[1:] != given.shape:
        raise ValueError(
            f"the judge's pictures are {tuple(pictures.shape[1:])}, and those of {given.name} {given.shape}"
        )
    return pictures.to(given.device), labels


def given_of(model, device="cpu", guidance=1.0):
    """Return a model as Given; one of the zoo's by its name or file."""
    return model if isinstance(model, Given) else of_zoo(model, device, guidance=guidance)


class Beside:
    """What is told of pictures beside what the judge says, over the mean of the real pictures that
    it has: denoising losses and saturation."""

    def __init__(self, given, judge, count, seed, labelled):
        self.given, self.known = given, partial(real, given, judge, count, seed)
        self.labelled = labelled and self.known()[1] is not None
        self.scale = cache(self._scale)

    def __call__(self, pictures, labels, seeds):
        """Return name -> (B, ...) of the pictures with these labels and seeds."""
        loss, vivid = self._of(pictures, labels, seeds)
        scales = self.scale()
        return {"loss": _over(loss, scales[0]), "saturation": _over(vivid, scales[1])}

    def _of(self, pictures, labels, seeds):
        extra = self.given.extra_args(labels if self.labelled else None)
        return losses(self.given.model, pictures, extra, seeds), saturation(pictures)

    def _scale(self):
        pictures, labels = self.known()
        parts = []
        for start in range(0, len(pictures), BATCH):
            part = slice(start, start + BATCH)
            asked = labels[part] if self.labelled else None
            size = len(pictures[part])
            parts.append(self._of(pictures[part], asked, range(start, start + size)))
        return [torch.cat(found).mean(0) for found in zip(*parts, strict=True)]


def _over(values, scale):
    """Return values over those of real pictures; NaN where they have none of it."""
    return torch.where(scale == 0, math.nan, values / scale)


def run(
    model="eps", count=COUNT, seed=0, progress=None, *, calls=None, methods=None, levels=LEVELS,
    guidance=1.0, judge=None, device="cpu", autocast=None, reuse=(), save=None, cache=None, batch=None,
):  # fmt: skip
    """Measure the sets that the methods make; the Args are those of `sets.run`, and

    Args:
        calls: of drawing and the method together, None: CALLS.
        methods: names of `lineup`, None: all of USUAL that the levels allow.
        levels: noise-to-signal ratios.

    Returns:
        One dict for each method and number of calls, of `sets.run`, with ``method``, ``level``,
            and where the judge has pictures ``loss`` (3,) and ``saturation``, over theirs.
    """
    given = given_of(model, device, guidance)
    judge = (judge or classifier.load()).to(given.device)
    check(judge, given.shape, given.device)
    known, told = lineup(levels), None
    if real(given, judge, 2, seed)[0] is not None:
        labelled = sets.labels_for(given, judge, count, seed) is not None
        told = Beside(given, judge, count, seed, labelled)
    names = dict.fromkeys([OWN, *(methods or [name for name in USUAL if name in known])])
    rows = sets.run(
        given, calls or CALLS, count, {name: known[name] for name in names}, progress=progress,
        suite="refine", seed=seed, converged=0, reuse=reuse, save=save and (lambda rows: save(_rows(rows))),
        cache=cache, batch=batch, device=device, judge=judge, autocast=autocast, own=OWN, beside=told,
    )  # fmt: skip
    return _rows(rows)


def _rows(rows):
    """Return rows of sets with what tells refinement's apart."""
    found = []
    for row in rows:
        method, _, level = row["sampler"].partition("@")
        about = {"part": "sets", "method": method, "level": float(level) if level else None}
        found.append(row | about)
    return found


def table(rows):
    """Return the markdown table of one set's rows: each measure by method and noise level."""
    base = next(row for row in rows if row["method"] == OWN)
    head = ["method", "noise", "Fréchet", "less nothing's", "KID x 1000", "less nothing's"]
    head += ["accuracy", "detail", "saturation", *(f"loss {at:g}" for at in LOSS_AT)]
    head += ["moved", *BANDS]
    body = [_line(row, base) for row in rows]
    empty = [i for i in range(1, len(head)) if not any(line[i] for line in body)]
    return markdown(*_without(empty, head, body))


def _without(columns, head, body):
    head, *body = (
        [cell for i, cell in enumerate(line) if i not in columns] for line in (head, *body)
    )
    return head, body


def _line(row, base):
    parts = [row["accuracy"], detail(row, base), row.get("saturation")]
    parts += row.get("loss") or [None] * len(LOSS_AT)
    parts += [row["moved_features"], *(row["moved"] or [None] * len(BANDS))]
    cells = [_told(part) for part in parts]
    return [
        METHODS[row["method"]].label, "" if row["level"] is None else f"{row['level']:g}",
        *_measure(row, base, "frechet", ".3f"), *_measure(row, base, "kid", ".2f"), *cells,
    ]  # fmt: skip


def _told(value):
    return "" if value is None else f"{value:.2f}"


def _measure(row, base, key, form):
    """Return the cells of a measure: itself and its difference from the pictures as they were, with
    two standard deviations over the same resamples of both."""
    if row[key] is None:
        return "", ""
    spread = 2 * deviation(row[f"{key}_draws"])
    said = f"{row[key]:{form}} ± {spread:{form}}"
    if row is base:
        return said, ""
    gap, spread = difference(row, base, key)
    return said, f"{gap:+{form}} ± {spread * 2:{form}}"
