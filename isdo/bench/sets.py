"""Sets of pictures at equal model calls: every sampler draws from the same noise, and a judge
compares with real pictures."""

import hashlib
import itertools
import json
import math
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .. import gallery
from ..denoiser import CallCounter
from ..device import wide
from ..files import make_folder, replacing
from ..models import Given, of_zoo, usual_schedule
from ..reference import seeded
from ..sampling import sample_isdo
from ..schedules import schedule
from ..settings import PRESETS, Settings
from . import classifier
from .baselines import BASELINES, FURTHER, STOCHASTIC, Baseline
from .judge import check, judged
from .kept import by_key, key_of
from .likeness import Likeness
from .problems import name_of
from .work_precision import SAMPLERS

COUNT, BATCH, GPU_BATCH = 2000, 50, 250
PROBE = 1  # pictures, drawn before the work begins, by which a stored batch or row is recognised as still true
CONVERGED = (
    64  # calls of Heun that stand for the exact solution: what is left is the model's own distance
)
SET = ("model", "guidance", "grid", "images", "seed", "judge")  # one table each
KEY = (*SET, "sampler", "calls")
TRUE = (
    "probe",
    "base",
)  # the first pictures of the sampler, and of the one with which its pictures are compared
BESIDE = "beside "  # begins the names under which a batch keeps what is told besides
OWN = "isdo"  # with whose pictures the others' are compared
OCTAVES = (
    1 / 16,
    1 / 8,
    1 / 4,
)  # cycles per pixel between the bands that are told apart; the last is fine detail
NO_BIT = 2**24  # points in 0..1 that labels are taken at

EVERYDAY = (
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "dpmpp_3m_sde",
    "euler_a",
    "deis",
    "restart",
    "euler",
    "unipc_3",
)


def presets():
    """Return ISDO with each preset as a Baseline; one with a tolerance takes as many calls as it needs,
    and has no place here."""
    found = {}
    for name, changed in PRESETS.items():
        settings, key, label = Settings(**changed), f"isdo_{name.lower()}", f"ISDO {name}"
        if not changed:
            key, label = OWN, "ISDO"
        if not settings.tolerance:
            found[key] = Baseline(
                label, partial(sample_isdo, settings=settings), f"this package, preset {name}"
            )
    return found


def everyday():
    """Return the samplers that people take when they make pictures, and ISDO with each preset."""
    return presets() | {name: (BASELINES | STOCHASTIC)[name] for name in EVERYDAY}


def every():
    """Return all samplers that can draw a set, by name."""
    return (
        presets() | SAMPLERS | FURTHER | STOCHASTIC | presets()
    )  # the presets first, and with their own way to run


@dataclass(frozen=True)
class Lineup:
    """A suite: the page's title, who draws (a function that returns name -> Baseline), in how many
    calls."""

    title: str
    samplers: Callable[[], dict]
    calls: tuple


LINEUPS = {
    "frechet": Lineup("Quality of sets of pictures", lambda: SAMPLERS, (6, 8, 10, 15)),
    "sets": Lineup("Sets of pictures, everyday samplers", everyday, (16, 20, 24, 30, 50)),
}


class Autocast(CallCounter):
    """A model that runs in a shorter ``dtype``; what comes out is widened to that of x."""

    def __init__(self, model, dtype):
        super().__init__(model)
        self.dtype = dtype

    def __call__(self, x, sigma, **extra):
        with torch.autocast(x.device.type, self.dtype):
            return super().__call__(x, sigma, **extra).to(x.dtype)


def shortened(given, name):
    """Return a models.Given whose model runs under autocast to the dtype of that name, "bfloat16"
    or "float16"."""
    return replace(
        given, name=f"{given.name} ({name})", model=Autocast(given.model, getattr(torch, name))
    )


@dataclass(frozen=True)
class Task:
    """What every sampler has to draw: ``count`` pictures of ``labels`` (count,) or None, picture i
    from the noise of seed ``seed + i``.

    ``beside(pictures, labels, seeds) -> name -> (B, ...)``: what else is told of pictures, which
    their rows then have in the mean; None: nothing."""

    given: Given
    labels: torch.Tensor | None
    count: int
    schedule: str
    seed: int
    beside: Callable | None = None

    def asked(self, part):
        """Return the labels of the pictures ``part`` (a slice), or None."""
        return None if self.labels is None else self.labels[part]

    def seeds(self, part):
        """Return the seeds of the pictures ``part`` (a slice)."""
        return range(self.seed, self.seed + self.count)[part]

    def draw(self, sampler, calls, part):
        """Return (pictures, model calls made) of the pictures ``part`` (a slice), on the task's
        device."""
        given, seeds = self.given, self.seeds(part)
        model, sigmas = (
            CallCounter(given.model),
            schedule(self.schedule, sampler.steps(calls), given.model),
        )
        x = (sigmas[0] * gallery.noise(seeds, given.shape)).to(given.device)
        extra = given.extra_args(self.asked(part))
        with torch.no_grad():
            drawn = seeded(sampler.run, seeds)(
                model, x, sigmas.to(given.device), extra_args=extra, disable=True
            )
        if model.calls > calls:
            raise RuntimeError(
                f"{sampler.label} made {model.calls} model calls where {calls} were allowed"
            )
        return drawn, model.calls


def make_labels(odds, count, seed=0):
    """Return labels (count,) whose shares are ``odds`` (K,) as nearly as can be, in random
    order."""
    points = (torch.arange(count, device="cpu") + 0.5) / count
    order = torch.randperm(count, generator=torch.Generator("cpu").manual_seed(seed), device="cpu")
    return _classes_at(odds, points)[order]


def growing_labels(odds, count, seed=0):
    """Return labels (count,) whose first n have the shares ``odds`` (K,), nearly, and are the same,
    whatever n and count.

    So a set can be stopped, judged as it is and go on. The points are van der Corput's, their bits
    flipped by the seed.
    """
    index = torch.arange(count, device="cpu")
    reversed_bits = sum(
        ((index >> bit) & 1) * (NO_BIT >> (bit + 1)) for bit in range(NO_BIT.bit_length() - 1)
    )
    flip = torch.randint(
        NO_BIT, (), generator=torch.Generator("cpu").manual_seed(seed), device="cpu"
    )
    return _classes_at(odds, ((reversed_bits ^ flip) + 0.5) / NO_BIT)


def _classes_at(odds, points):
    """Return the class (N,) at each of the points in 0..1 if the classes lie there side by side, as
    wide as their odds."""
    edges = odds.double().cumsum(0) / odds.double().sum()
    return torch.searchsorted(edges, points.double()).clamp(max=len(odds) - 1)


def labels_for(given, judge, count, seed=0, make=make_labels):
    """Return labels (count,) of what is to be drawn, or None: those given, in turn; else as often
    as the judge says.

    The embedded judge's classes are the zoo's: a model of somebody's own is not asked for them.

    Raises:
        ValueError: a model that `isdo train` made, and a judge that knows other classes.
    """
    _check_classes(given, judge)
    if given.labels:
        return given.classes(range(count))
    theirs = isinstance(judge, classifier.Judge)
    if (
        judge.odds is None
        or getattr(given.model, "classes", None) == ()
        or given.own
        and (theirs or not given.model.takes("labels") or "labels" in given.extra)
    ):
        return None
    return make(judge.odds, count, seed)


def _check_classes(given, judge):
    known, asked = getattr(judge, "classes", None), getattr(given.model, "classes", None)
    if given.own or known is None or asked is None or tuple(known) == tuple(asked):
        return
    says = [", ".join(names) or "none" for names in (asked, known)]
    raise ValueError(
        f"{given.name} knows the classes {says[0]}, and the judge {says[1]}: name the one that was trained on the same "
        "folder by --judge (python -m isdo train --model classifier --data FOLDER)"
    )


def band_energy(pictures):
    """Return the energy of each picture (B, C, H, W) in the bands that OCTAVES part: (B, 4),
    float64 on the CPU."""
    power = torch.fft.fft2(wide(pictures), norm="ortho").abs().square().sum(1)
    ky, kx = (torch.fft.fftfreq(n, device="cpu") for n in pictures.shape[-2:])
    band = torch.bucketize(torch.hypot(ky[:, None], kx), torch.tensor(OCTAVES, device="cpu"))
    return torch.stack([(power * (band == i)).sum((1, 2)) for i in range(len(OCTAVES) + 1)], 1)


@dataclass(frozen=True)
class Store:
    """What was drawn, batch by batch: on disk in ``folder``, where a later run finds it, or without
    one in memory."""

    folder: Path | None = None
    memory: dict = field(default_factory=dict)

    def get(self, name, start, size):
        """Return the tensors of a batch by name, or None: it is not there, or its file is
        damaged."""
        if self.folder is None:
            return self.memory.get((name, start, size))
        try:
            return load_file(self._file(name, start, size))
        except (OSError, SafetensorError):
            return None

    def put(self, name, start, size, tensors):
        """Keep a batch."""
        if self.folder is None:
            self.memory[name, start, size] = tensors
            return
        make_folder(self.folder / name)
        with replacing(self._file(name, start, size)) as part:
            save_file({key: value.contiguous() for key, value in tensors.items()}, part)

    def _file(self, name, start, size):
        return self.folder / name / f"{start:06d}-{size}.safetensors"


@dataclass(frozen=True)
class Job:
    """One sampler at one number of calls: ``labels`` is the head of its row, ``name`` that of its
    folder."""

    sampler: str
    baseline: Baseline
    calls: int
    labels: dict

    @property
    def name(self):
        """The folder's name: what was drawn, with all on which it depends but the number of
        pictures."""
        told = json.dumps([self.labels[key] for key in (*SET, "probe") if key != "images"])
        return f"{self.sampler}-{self.calls}-{hashlib.sha256(told.encode()).hexdigest()[:12]}"

    def holds(self, row):
        """Say whether a row of an earlier run is what this job would measure."""
        return "kid" in row and all(row.get(key) == self.labels[key] for key in TRUE)


def draw_batch(task, judge, job, part):
    """Return what is kept of a batch of pictures, as tensors by name.

    Args:
        task, judge, job: of whom.
        part: slice of the pictures.
    """
    drawn, made = task.draw(job.baseline, job.calls, part)
    pictures = drawn.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    features, share = judged(judge, pictures, task.asked(part))
    told = task.beside(pictures, task.asked(part), task.seeds(part)) if task.beside else {}
    pictures = pictures.cpu()
    kept = {
        "features": features.float(),
        "made": torch.tensor(made, device="cpu"),
        "energy": band_energy(pictures),
        "broken": torch.tensor(int((~drawn.isfinite()).flatten(1).any(1).sum()), device="cpu"),
        "pictures": pictures.half(),
    } | {BESIDE + name: values.cpu() for name, values in told.items()}
    if share is not None:
        kept["right"] = torch.tensor(share * len(pictures), dtype=torch.float64, device="cpu")
    return kept


def draw_sets(task, judge, jobs, store, batch=BATCH, progress=None):
    """Draw the sets of all jobs that are not in the store, all samplers' first pictures before
    anyone's next ones.

    So that a run that was stopped leaves sets of one size, which a run of fewer pictures judges.

    Args:
        progress: ``progress(total=...)`` returns a bar with ``update(n)`` and ``close()``, such as
            tqdm: n is pictures times calls.
    """
    parts = _parts(task.count, batch)
    todo = [(part, job) for part in parts for job in jobs if store.get(job.name, *part) is None]
    with _bar(progress, sum(size * job.calls for (_, size), job in todo)) as moved:
        for (start, size), job in todo:
            drawn = draw_batch(task, judge, job, slice(start, start + size))
            store.put(job.name, start, size, drawn)
            moved(size * job.calls)


@contextmanager
def _bar(progress, total):
    """Give the function that moves a bar by n, or does nothing where there is none."""
    if progress is None or not total:
        yield lambda n: None
        return
    bar = progress(total=total)
    try:
        yield bar.update
    finally:
        bar.close()


def _parts(count, batch):
    """Return (start, size) of each batch."""
    return [(start, min(batch, count - start)) for start in range(0, count, batch)]


def gathered(store, job, count, batch, base=None):
    """Return what is kept of a job's pictures as tensors of all of them (numbers of a batch: added,
    calls: the most).

    Args:
        store, job, count, batch: of whom.
        base: the job with whose pictures these are compared, or None.
    """
    parts = [store.get(job.name, *part) for part in _parts(count, batch)]
    if base is not None:
        theirs = [store.get(base.name, *part)["pictures"] for part in _parts(count, batch)]
        parts = [
            part | {"moved": band_energy(part["pictures"].double() - other.double())}
            for part, other in zip(parts, theirs, strict=True)
        ]
    joined = {key: [part[key] for part in parts] for key in parts[0] if key != "pictures"}
    joined = {
        key: torch.cat(found) if found[0].ndim else torch.stack(found)
        for key, found in joined.items()
    }
    return (
        joined
        | {"made": joined["made"].max()}
        | {key: joined[key].sum() for key in ("right", "broken") if key in joined}
    )


class Real:
    """What is known of the real pictures, to hold sets of the task's pictures against them."""

    def __init__(self, task, judge, seed):
        examples, pictures = getattr(judge, "examples", None), _pictures(judge, task.count, seed)
        if examples is None and pictures is not None:
            parts = pictures.to(task.given.device).split(GPU_BATCH)
            examples = torch.cat([judged(judge, part)[0] for part in parts])
        self.likeness = Likeness(judge.real, examples, task.given.device)
        self.energy = None if pictures is None else band_energy(pictures).mean(0).tolist()
        self.ideal = self.likeness.ideal(task.count)
        self.spread = (
            2 * judge.real.covariance.trace()
        )  # mean square between features that have nothing to do with each other

    def numbers(self, found, base=None):
        """Return the row of numbers of a set.

        Args:
            found: of `gathered`.
            base: the same of the pictures as they would have been, or None.

        Returns:
            ``moved``, by band, and ``moved_features``: how far from ``base``, root mean square, 1
                where the pictures have
            nothing to do with each other. ``energy``: by band; ``real_energy``: of real pictures,
                None where there are none.
        """
        count, moved, moved_features = len(found["features"]), None, None
        if base is not None:
            apart = (found["features"] - base["features"]).double().square().sum(1).mean()
            moved_features = float((apart / self.spread).sqrt())
            both = found["energy"].mean(0) + base["energy"].mean(
                0
            )  # the mean square between pictures that are unlike
            moved = (found["moved"].mean(0) / both).sqrt().nan_to_num(nan=0.0).tolist()
        return {
            "made": int(found["made"]),
            "broken": int(found["broken"]),
            "accuracy": float(found["right"]) / count if "right" in found else None,
            "energy": found["energy"].mean(0).tolist(),
            "real_energy": self.energy,
            "moved": moved,
            "moved_features": moved_features,
            **_beside(found),
            **self.likeness.measure(found["features"]),
            "ideal": self.ideal,
        }


def _beside(found):
    """Return the means of what is told besides, None for a number that there is not."""
    means = {
        key.removeprefix(BESIDE): found[key].mean(0) for key in found if key.startswith(BESIDE)
    }
    return {name: _numbers(mean.tolist()) for name, mean in means.items()}


def _numbers(value):
    if isinstance(value, list):
        return [_numbers(part) for part in value]
    return value if math.isfinite(value) else None


def _pictures(judge, count, seed):
    """Return real pictures that the judge has, or None."""
    if getattr(judge, "pictures", None) is None:
        return None
    try:
        return judge.pictures(count, seed)[0]
    except (
        FileNotFoundError
    ):  # the embedded judge's emoji may not be on this machine: it knows their moments, too
        return None


def run(
    model="eps",
    calls=None,
    count=COUNT,
    samplers=None,
    guidance=1.0,
    progress=None,
    *,
    suite="frechet",
    seed=0,
    converged=CONVERGED,
    reuse=(),
    save=None,
    cache=None,
    batch=None,
    device="cpu",
    judge=None,
    autocast=None,
    own=OWN,
    beside=None,
):
    """Measure how far from the real pictures each sampler's pictures are, as sets.

    Args:
        model: a name or file of the zoo; a model of its call shape with sigma_min, sigma_max,
            sigmas and path; or any, as `models.Given`, which brings its own guidance and device.
        calls: model calls that each may make; None: those of the suite.
        count: pictures; their classes occur as often as in the data, and all samplers start from
            the same noise.
        samplers: name -> Baseline; None for those of the suite. Beside "isdo", how far the others'
            pictures are from its own is told.
        guidance: classifier-free guidance, 1: none. It doubles the work, and moves the set away
            from the data.
        progress: as for `draw_sets`.

    Rarely needed:
        suite: a name in LINEUPS.
        seed: of the first picture and of the order of the classes.
        converged: calls of Heun, in a row "converged"; 0 leaves it out.
        reuse: rows of an earlier run; those that hold are not run again. A row holds when it is of
            the same task and its sampler still draws the same first pictures, so that a change of
            sampler, net or schedule is noticed.
        save: called with all rows so far after each new one.
        cache: folder in which batches are kept between runs; a run that was stopped goes on at the
            batch where it was.
        batch: pictures in a network call; None: BATCH on the CPU, GPU_BATCH elsewhere.
        device: where the networks run.
        judge: another than the embedded classifier.Judge, with what `judge.Judge` says.
        autocast: name of the dtype in which the model runs, None: its own.
        own: the sampler with whose pictures the others' are compared.
        beside: as for Task.

    Returns:
        One dict for each sampler and number of calls: what `numbers` returns and what it was
            measured on.

    Raises:
        RuntimeError: a sampler that makes more calls than it was given.
        ValueError: no such model, no classifier, or fewer than two pictures.
    """
    if count < 2:
        raise ValueError(f"count is {count}: a set of pictures has at least 2")
    given = _given(model, float(guidance), device)
    given = shortened(given, autocast) if autocast else given
    judge = (judge or classifier.load()).to(given.device)
    check(judge, given.shape, given.device)
    task = Task(
        given,
        labels_for(given, judge, count, seed, growing_labels),
        count,
        usual_schedule(given.model),
        seed,
        beside,
    )
    samplers = LINEUPS[suite].samplers() if samplers is None else samplers
    values = (given.title, given.guidance, task.schedule, count, seed, name_of(judge.real.mean))
    labels = {"bench": suite} | dict(zip(SET, values, strict=True))
    jobs = _jobs(task, labels, samplers, calls or LINEUPS[suite].calls, converged, progress, own)
    known = by_key(reuse, KEY)
    held = {
        job.name: row
        for job in jobs
        if (row := known.get(key_of(job.labels, KEY))) and job.holds(row)
    }
    # what is drawn there is compared with ``own``'s
    wanted = {job.calls for job in jobs if job.name not in held}
    needed = [
        job for job in jobs if job.name not in held or (job.sampler == own and job.calls in wanted)
    ]
    batch = batch or (BATCH if torch.device(given.device).type == "cpu" else GPU_BATCH)
    store = Store(Path(cache) if cache else None)
    draw_sets(task, judge, needed, store, batch, progress)
    real, drawn = (
        Real(task, judge, seed) if needed else None,
        partial(gathered, store, count=count, batch=batch),
    )
    base, rows = {job.calls: job for job in needed if job.sampler == own}, []
    for job in jobs:
        rows.append(held.get(job.name))
        if rows[-1] is None:
            theirs = base[job.calls] if job.labels["base"] else None
            rows[-1] = job.labels | real.numbers(drawn(job, base=theirs), theirs and drawn(theirs))
            if save is not None:
                save(rows)
    return rows


def _given(model, guidance, device):
    if isinstance(model, str):
        return of_zoo(model, device, guidance=guidance)
    return (
        model
        if isinstance(model, Given)
        else Given(type(model).__name__, model, guidance=guidance, device=device)
    )


def _jobs(task, labels, samplers, calls, converged, progress, own):
    """Return the jobs, ``own`` first at each number of calls: the others are compared with it."""
    chosen, jobs, base = sorted(samplers, key=lambda name: name != own), [], {}
    wanted = [(sampler, samplers[sampler], n) for n, sampler in itertools.product(calls, chosen)]
    if converged:
        wanted.append(("converged", replace(BASELINES["heun"], label="converged"), converged))
    with _bar(progress, PROBE * sum(n for *_, n in wanted)) as moved:
        for sampler, baseline, n in wanted:
            probe = name_of(task.draw(baseline, n, slice(PROBE))[0])
            moved(PROBE * n)
            if sampler == own:
                base[n] = probe
            found = {"sampler": sampler, "calls": n, "label": baseline.label, "probe": probe}
            found["base"] = None if sampler == "converged" else base.get(n)
            jobs.append(Job(sampler, baseline, n, labels | found))
    return jobs


def group_of(row):
    """Return what tells one table's rows from another's, to sort by: None comes before numbers."""
    return tuple((row[name] is not None, row[name]) for name in SET)
