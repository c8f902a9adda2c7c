"""What makes finished pictures better at equal model calls: refinement with and without group
action, more steps, Restart, plain img2img."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from .. import gallery, zoo
from ..denoiser import CallCounter
from ..models import Given, of_zoo, usual_schedule
from ..path import VE
from ..refinement import refine
from ..schedules import karras, schedule
from ..settings import RefineSettings
from ..zoo import data
from ..zoo.net import CLASSES
from . import classifier
from .baselines import restarts
from .judge import check, judged
from .moments import frechet, moments, sampling_bias
from .problems import Mixture, hartley, rms
from .report import markdown
from .sets import labels_for
from .work_precision import SCHEDULED

COUNT, BATCH = 256, 32
BASE, EXTRA = 12, 12  # model calls that drew a picture, and that each method may add
# noise-to-signal ratios, how much may be repainted: more than half makes damaged pictures into
# others
LEVELS = {"sets": (1.0, 2.0, 4.0), "mixture": (1.0, 2.0), "recovery": (0.25, 0.5, 1.0)}
LOSS_AT = (0.1, 0.25, 0.6)
MIXTURE_BASE, MIXTURE_COUNT = 5, 300
RESTARTS = 3
DAMAGED = ("faces", "people")  # they show hands
FREE = {"lock": 0, "detail": 1.0}


@dataclass(frozen=True)
class Job:
    """Pictures to make better: ``x`` is the noise they were drawn from (None: they were not),
    ``sigmas`` their schedule."""

    model: object
    pictures: torch.Tensor
    seeds: range
    extra_args: dict = field(default_factory=dict)
    x: torch.Tensor | None = None
    sigmas: object = None
    mask: torch.Tensor | None = None

    def part(self, chosen):
        """Return the job of a slice of the pictures."""
        cut = {
            name: value[chosen]
            for name in ("pictures", "seeds", "x", "mask")
            if (value := getattr(self, name)) is not None
        }
        extra = {
            key: value[chosen] if torch.is_tensor(value) else value
            for key, value in self.extra_args.items()
        }
        return replace(self, extra_args=extra, **cut)


@dataclass(frozen=True)
class Method:
    """One way to spend the calls: ``run(job, level, calls) -> pictures``. ``redraws``: it starts
    from the first noise; ``levels``: it knows a noise level."""

    label: str
    run: Callable
    redraws: bool = False
    levels: bool = True


# Levels are the methods' own here: Restart turns at one of the schedule's.
_solve = partial(SCHEDULED.run, disable=True)


def _nothing(job, level, calls):
    return job.pictures


def _more_steps(job, level, calls):
    return _solve(job.model, job.x, job.sigmas(BASE + calls), job.extra_args)


def restart(job, level, calls):
    """Draw anew with Restart from ``level`` down again, RESTARTS times; ISDO solves every leg."""
    generators = [torch.Generator("cpu").manual_seed(10**6 + seed) for seed in job.seeds]

    def fresh(x):
        drawn = [
            torch.randn(x.shape[1:], generator=g, dtype=torch.float64, device="cpu")
            for g in generators
        ]
        return torch.stack(drawn).to(x)

    solve = partial(_solve, job.model, extra_args=job.extra_args)
    return restarts(
        solve,
        job.model.path,
        job.x,
        job.sigmas(BASE),
        calls // RESTARTS,
        fresh,
        RESTARTS,
        high=level,
    )


def by_refine(job, level, calls, once=False, **chosen):
    """Refine with settings that spend ``calls``: as many iterations as they pay for, or all calls
    ``once``."""
    settings = RefineSettings(**{**chosen, "noise": level})
    each = calls if once else min(settings.calls, calls)
    settings = replace(settings, calls=each, iterations=calls // each)
    return refine(
        job.model,
        job.pictures,
        job.extra_args,
        disable=True,
        settings=settings,
        mask=job.mask,
        seeds=list(job.seeds),
    ).x


METHODS = {
    "nothing": Method("nothing (no calls)", _nothing, levels=False),
    "steps": Method("more steps of ISDO", _more_steps, redraws=True, levels=False),
    "restart": Method("Restart", restart, redraws=True),
    "img2img": Method(
        "img2img, one pass", partial(by_refine, once=True, generators="none", **FREE)
    ),
    "free": Method(
        "refine, nothing held, no action", partial(by_refine, generators="none", **FREE)
    ),
    "refine": Method("refine, no action", partial(by_refine, generators="none")),
    "small": Method(
        "refine, rotation and shifts 0.25",
        partial(by_refine, generators="rotation and shifts", strength=0.25),
    ),
    "large": Method(
        "refine, rotation and shifts 1",
        partial(by_refine, generators="rotation and shifts", strength=1.0),
    ),
    "bare": Method(
        "refine, rotation and shifts 0.25, not undone",
        partial(by_refine, generators="rotation and shifts", strength=0.25, undo=False),
    ),
}


def spend(method, job, level, calls=EXTRA, batch=BATCH):
    """Return the pictures of a method, made in batches, where the job's are.

    Raises:
        RuntimeError: it made more model calls than it was given.
    """
    done, allowed = [], calls + (BASE if method.redraws else 0)
    for start in range(0, len(job.pictures), batch):
        model = CallCounter(job.model)
        with torch.no_grad():
            done.append(
                method.run(
                    replace(job.part(slice(start, start + batch)), model=model), level, calls
                )
            )
        if model.calls > allowed:
            raise RuntimeError(
                f"{method.label} made {model.calls} model calls where {allowed} were allowed"
            )
    return torch.cat(done)


def drawn(given, labels, count, seed=0):
    """Return the Job of ``count`` pictures of ``labels`` (count,) or None, drawn by ISDO in BASE
    calls."""
    seeds, sigmas = (
        range(seed, seed + count),
        partial(schedule, usual_schedule(given.model), model=given.model),
    )
    x = (sigmas(BASE)[0] * gallery.noise(seeds, given.shape)).to(given.device)
    job = Job(given.model, x, seeds, given.extra_args(labels), x, sigmas)
    again = Method("", lambda job, level, calls: _more_steps(job, level, 0), redraws=True)
    return replace(job, pictures=spend(again, job, 0.0, 0))


def losses(model, pictures, extra_args, batch=BATCH):
    """Return |D(x + sigma n) - x|^2 / sigma^2 per pixel at the noise-to-signal ratios LOSS_AT; the
    noise is always the same.

    In the mean over real pictures it is what training made small, a bound on -log p; of drawn ones
    it tells how much the model likes them, and what it likes best is smooth: as good as real
    pictures is best.
    """
    found, job = [], Job(model, pictures, range(len(pictures)), extra_args)
    for ratio in LOSS_AT:
        sigma, total = model.path.from_noise_to_signal(ratio), 0.0
        for start in range(0, len(pictures), batch):
            part = job.part(slice(start, start + batch))
            x = part.pictures
            noise = gallery.noise(range(10**6 + start, 10**6 + start + len(x)), x.shape[1:]).to(
                x.device
            )
            with torch.no_grad():
                d = model(model.path.signal(sigma) * x + sigma * noise, sigma, **part.extra_args)
            total += float((d - x).square().mean((1, 2, 3)).sum())
        found.append(total / len(pictures) / ratio**2)
    return found


def fine_energy(pictures):
    """Return the mean energy above a quarter cycle per pixel."""
    ky, kx = (torch.fft.fftfreq(n, device="cpu") for n in pictures.shape[-2:])
    power = torch.fft.fft2(pictures.cpu().double(), norm="ortho").abs().square()
    return float((power * (torch.hypot(ky[:, None], kx) > 0.25)).sum() / len(pictures))


def saturation(pictures):
    """Return the mean of the largest channel less the smallest."""
    pictures = pictures.clamp(-1, 1)
    return float((pictures.amax(1) - pictures.amin(1)).mean())


def _jobs(redrawn, levels):
    for name, method in METHODS.items():
        if redrawn or not method.redraws:
            yield from ((name, method, level) for level in (levels if method.levels else (None,)))


def _ratio(value, real):
    """Return a measure over that of real pictures; None where they have none of it."""
    return value / real if real else None


def measure_sets(
    model="eps", count=COUNT, seed=0, progress=iter, levels=LEVELS["sets"], judge=None, device="cpu"
):
    """Return one row for each method and level: the set of pictures against the real ones.

    What is told in parts of what real pictures have is None where the judge has no pictures.
    """
    given, judge = _given(model, device), judge or classifier.load()
    check(judge.to(given.device), given.shape, given.device)
    labels, (real, theirs) = labels_for(given, judge, count, seed), _real(given, judge, count, seed)
    told = labels is not None and theirs is not None

    def likeness(pictures, labels):
        asked = given.extra_args(labels if told else None)
        return *losses(given.model, pictures, asked), fine_energy(pictures), saturation(pictures)

    job, scale = drawn(given, labels, count, seed), None if real is None else likeness(real, theirs)
    rows = []
    for name, method, level in progress(list(_jobs(True, levels))):
        pictures = spend(method, job, level)
        features, accuracy = judged(judge, pictures, labels)
        parts = (
            [None] * (len(LOSS_AT) + 2)
            if scale is None
            else map(_ratio, likeness(pictures, labels), scale)
        )
        *loss, detail, vivid = parts
        rows.append({
            "part": "sets", "model": given.title, "images": count, "seed": seed, "method": name, "level": level,
            "frechet": frechet(judge.real, moments(features)),
            "accuracy": accuracy,
            "loss": loss,
            "detail": detail,
            "saturation": vivid,
            "change": float((rms(pictures - job.pictures) / rms(job.pictures)).mean()),
        })  # fmt: skip
    return rows


def _real(given, judge, count, seed):
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


def _given(model, device="cpu"):
    """Return a model as Given; one of the zoo's is drawn from without guidance."""
    return model if isinstance(model, Given) else of_zoo(model, device, guidance=1.0)


def damages(pictures, seed=0):
    """Return name -> (damaged pictures, mask or None): blurred, jittered line by line, right half
    erased."""
    t = torch.arange(-3, 4, dtype=pictures.dtype, device="cpu")
    kernel = torch.exp(-(t**2) / 2)
    kernel = torch.outer(kernel, kernel)[None, None] / kernel.sum() ** 2
    padded = torch.nn.functional.pad(pictures.flatten(0, 1)[:, None], [3] * 4, mode="replicate")
    blurred = torch.nn.functional.conv2d(padded, kernel).view_as(pictures)
    generator = torch.Generator("cpu").manual_seed(seed)
    shift = torch.randint(
        -1, 2, (len(pictures), pictures.shape[2]), generator=generator, device="cpu"
    )
    columns = (torch.arange(pictures.shape[3], device="cpu") + shift[..., None]).clamp(
        0, pictures.shape[3] - 1
    )
    jittered = pictures.gather(3, columns[:, None].expand_as(pictures))
    half = torch.zeros_like(pictures)
    half[..., pictures.shape[3] // 2 :] = 1
    erased = torch.where(half > 0, 1.0, pictures)
    return {"blurred": (blurred, None), "jittered": (jittered, None), "half erased": (erased, half)}


def unseen_emoji(model, count, seed=0):
    """Return (emoji that show faces and hands, their labels) on which a model of the zoo was not
    trained."""
    about = zoo.info(model)["config"]
    _, unseen = data.load_emoji().split(about["held_out"], about["seed"])
    wanted = torch.tensor([CLASSES.index(name) for name in DAMAGED], device="cpu")
    index = torch.isin(unseen.labels, wanted).nonzero().flatten()
    index = index[
        torch.randperm(
            len(index), generator=torch.Generator("cpu").manual_seed(seed), device="cpu"
        )[:count]
    ]
    return data.to_unit(unseen.pictures[index, 0]), unseen.labels[index]


def measure_recovery(
    model="eps",
    count=64,
    seed=0,
    progress=iter,
    levels=LEVELS["recovery"],
    judge=None,
    device="cpu",
):
    """Return rows of the RMS distance to the original of damaged pictures that the model was not
    trained on.

    Those are emoji for the zoo's models, the judge's pictures for others; none where it has none.
    """
    given, embedded = _given(model, device), judge is None or isinstance(judge, classifier.Judge)
    if not given.own:
        original, labels = unseen_emoji(model, count, seed)
    elif embedded or judge.pictures is None:
        return []
    else:
        original, labels = _real(given, judge, count, seed)
        labels = None if labels_for(given, judge, count, seed) is None else labels
    extra, rows = given.extra_args(labels), []
    for (damage, (broken, mask)), (name, method, level) in progress(
        list(itertools.product(damages(original, seed).items(), _jobs(False, levels)))
    ):
        broken, mask = (None if part is None else part.to(given.device) for part in (broken, mask))
        job = Job(given.model, broken, range(seed, seed + len(original)), extra, mask=mask)
        error = rms(spend(method, job, level).cpu() - original.cpu())
        rows.append({
            "part": "recovery", "model": given.title, "images": len(original), "seed": seed, "method": name, "level": level,
            "damage": damage, "error": float(error.mean()),
        })  # fmt: skip
    return rows


def make_small_mixture(seed=0, components=12, size=8):
    """Return a Mixture of tight, separate, smooth components of one channel, on the ve path."""
    generator = torch.Generator("cpu").manual_seed(seed)
    k = torch.fft.fftfreq(size, dtype=torch.float64, device="cpu") * size
    fall = 1 + torch.hypot(k[:, None], k)
    means = (
        0.7
        * torch.randn(
            components, 1, size, size, generator=generator, dtype=torch.float64, device="cpu"
        )
        / fall
    )
    powers = (0.02 / fall**2).expand(components, 1, size, size)
    return Mixture(VE, means, powers, torch.arange(components, device="cpu"))


def between(mixture, x):
    """Return which samples (B,) lie between the modes: no component has 99 % of the posterior, or
    none is within three standard deviations (of its chi-square distance)."""
    y = hartley(x)
    distance = ((y[:, None] - mixture.means).square() / mixture.powers).flatten(2).sum(2)
    free = y[0].numel()
    far = ((distance - free) / math.sqrt(2 * free) > 3).all(1)
    return far | (mixture.component_log_odds(y, 1.0, 0.0).softmax(1).amax(1) < 0.99)


def measure_mixture(count=MIXTURE_COUNT, seed=0, progress=iter, levels=LEVELS["mixture"]):
    """Return rows of the share of samples between the modes, drawn with MIXTURE_BASE calls and then
    refined."""
    mixture = make_small_mixture(seed)

    def sigmas(calls):
        return karras(calls - BASE + MIXTURE_BASE, 0.0292, 14.61).double()

    generator = torch.Generator("cpu").manual_seed(seed)
    x = sigmas(BASE)[0] * torch.randn(
        count, 1, 8, 8, generator=generator, dtype=torch.float64, device="cpu"
    )
    pictures = _solve(mixture, x, sigmas(BASE))
    job = Job(mixture, pictures, range(seed, seed + count), x=x, sigmas=sigmas)
    rows = []
    for name, method, level in progress(list(_jobs(True, levels))):
        share = between(mixture, spend(method, job, level, batch=count)).double().mean()
        rows.append({
            "part": "mixture", "images": count, "seed": seed, "method": name, "level": level, "between": float(share),
        })  # fmt: skip
    return rows


def run(model="eps", count=COUNT, seed=0, progress=iter, levels=None, judge=None, device="cpu"):
    """Measure all methods at equal model calls.

    Args:
        model: a name or file of the zoo, or any as `models.Given`, which brings its own guidance
            and device.
        count: pictures of a set; at most 64 of them damaged ones.
        seed: of everything.
        progress: wraps lists, such as tqdm.
        levels: noise-to-signal ratios of every part; None: LEVELS.
        judge: another than the embedded classifier.Judge, with what `judge.Judge` says.
        device: where the networks run.

    Returns:
        One dict for each part (sets, mixture, recovery), method and level; recovery only where
        there are pictures that the model was not trained on.

    Raises:
        ValueError: no such model, or fewer than two pictures.
        FileNotFoundError: the emoji are not on this machine.
    """
    if count < 2:
        raise ValueError(f"count is {count}: a set of pictures has at least 2")
    levels = LEVELS if levels is None else dict.fromkeys(LEVELS, levels)
    parts = [
        *measure_sets(model, count, seed, progress, levels["sets"], judge, device),
        *measure_mixture(min(count, MIXTURE_COUNT), seed, progress, levels["mixture"]),
        *measure_recovery(model, min(count, 64), seed, progress, levels["recovery"], judge, device),
    ]
    return [{"bench": "refine", **row} for row in parts]


def page(rows, flags=None, judge=None):
    """Return the page of the docs: what was measured, the tables, how to do it again with the
    ``flags``."""
    sets, mixture, recovery = (
        [row for row in rows if row["part"] == part] for part in ("sets", "mixture", "recovery")
    )
    judge, count = judge or classifier.load(), sets[0]["images"]
    asked = f"{flags or '--model ' + sets[0]['model']} --limit {count}"
    embedded = isinstance(judge, classifier.Judge)
    space = "emoji in the\nfeatures of a small classifier"
    space = space if embedded else f"pictures in the\nfeatures of the judge {judge.name}"
    unguided = "" if "guidance=" in sets[0]["model"] else ", without guidance"
    shown = "faces and hands" if embedded else "pictures"
    parts = f"""# Refinement at equal model calls

This page is written by the bench; run it again with

    python -m isdo bench --suite refine {asked} --json out/refine.json --doc docs/refine.md

Pictures drawn by ISDO in {BASE} calls, each where the schedule says (placement 0);
each method may add {EXTRA}. *Noise* is the noise-to-signal ratio at which it begins.

## Sets

{count} pictures of the model {sets[0]["model"]}{unguided}. Fréchet distance to the real {space}
(smaller is better; a perfect set of that size would have
{sampling_bias(judge.real, count):.2f}); the share that the classifier takes for the class asked for;
denoising loss at noise {", ".join(map(str, LOSS_AT))}, energy of fine detail and saturation, each over that of real pictures (1
is best, below 1 is smoother or paler than real); how far the pictures moved (root mean square over that of the picture).

{_sets(sets)}

## Between the modes

Share of {mixture[0]["images"]} samples of a Gaussian mixture (exact denoiser, drawn with {MIXTURE_BASE} calls) that belong to
no component.

{_by_level(mixture, "between", ".3f")}
"""
    if not recovery:
        return parts
    return f"""{parts}
## Recovery

{recovery[0]["images"]} {shown} that the model was not trained on, damaged; root mean square distance to the original,
over the painted part and the rest alike. The half that was erased is painted under a mask.

{_recovery(recovery)}
"""


def _level(value):
    return "" if value is None else f"{value:g}"


def _sets(rows):
    head = [
        "method",
        "noise",
        "Fréchet",
        "accuracy",
        *(f"loss {at:g}" for at in LOSS_AT),
        "detail",
        "saturation",
        "change",
    ]
    keys = ("frechet", "accuracy", "loss", "detail", "saturation", "change")
    body = []
    for row in rows:
        numbers = [
            n for key in keys for n in (row[key] if isinstance(row[key], list) else [row[key]])
        ]
        body.append(
            [
                METHODS[row["method"]].label,
                _level(row["level"]),
                *("" if n is None else f"{n:.3f}" for n in numbers),
            ]
        )
    return markdown(head, body)


def _by_level(rows, key, form):
    levels = [level for level in dict.fromkeys(row["level"] for row in rows) if level is not None]
    body = []
    for name in dict.fromkeys(row["method"] for row in rows):
        found = {row["level"]: format(row[key], form) for row in rows if row["method"] == name}
        body.append(
            [METHODS[name].label, *(found.get(level, found.get(None, "")) for level in levels)]
        )
    return markdown(["method, noise", *map(_level, levels)], body)


def _recovery(rows):
    groups = {
        damage: [row for row in rows if row["damage"] == damage]
        for damage in dict.fromkeys(r["damage"] for r in rows)
    }
    return "\n\n".join(
        f"### {damage}\n\n{_by_level(group, 'error', '.4f')}" for damage, group in groups.items()
    )
