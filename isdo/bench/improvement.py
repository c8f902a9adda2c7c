"""What makes finished pictures better at equal model calls: refinement with and without group
action, more steps, Restart, plain img2img."""

import itertools
import math

import torch

from .. import zoo
from ..path import VE
from ..schedules import karras
from ..zoo import data
from ..zoo.net import CLASSES
from . import classifier, refined
from .methods import EXTRA, METHODS, Job, spend
from .moments import sampling_bias
from .problems import Mixture, hartley, rms
from .refined import COUNT, LOSS_AT, given_of, real
from .report import markdown
from .report import name_of as page_name
from .sets import SET, group_of, labels_for, name_of
from .sets_page import bands, title
from .work_precision import SCHEDULED

# noise-to-signal ratios, how much may be repainted: more than half makes damaged pictures into
# others
LEVELS = {"sets": refined.LEVELS, "mixture": (1.0, 2.0), "recovery": (0.25, 0.5, 1.0)}
MIXTURE_BASE, MIXTURE_COUNT, RECOVERED = 5, 300, 64
DAMAGED = ("faces", "people")  # they show hands


def _jobs(redrawn, levels):
    for name, method in METHODS.items():
        if redrawn or not method.redraws:
            yield from ((name, method, level) for level in (levels if method.levels else (None,)))


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
    given, embedded = given_of(model, device), judge is None or isinstance(judge, classifier.Judge)
    if not given.own:
        original, labels = unseen_emoji(model, count, seed)
    elif embedded or judge.pictures is None:
        return []
    else:
        original, labels = real(given, judge, count, seed)
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
        return karras(calls, 0.0292, 14.61).double()

    generator = torch.Generator("cpu").manual_seed(seed)
    x = sigmas(MIXTURE_BASE)[0] * torch.randn(
        count, 1, 8, 8, generator=generator, dtype=torch.float64, device="cpu"
    )
    pictures = SCHEDULED.run(mixture, x, sigmas(MIXTURE_BASE), disable=True)
    job = Job(mixture, pictures, range(seed, seed + count), x=x, sigmas=sigmas, base=MIXTURE_BASE)
    rows = []
    for name, method, level in progress(list(_jobs(True, levels))):
        share = between(mixture, spend(method, job, level, batch=count)).double().mean()
        rows.append({
            "part": "mixture", "images": count, "seed": seed, "method": name, "level": level, "between": float(share),
        })  # fmt: skip
    return rows


def run(model="eps", count=COUNT, seed=0, progress=None, *, levels=None, device="cpu", **chosen):
    """Measure the methods at equal model calls: sets of pictures, and for the zoo's models, or a judge
    that has pictures, what there is beside them.

    Args:
        model: a name or file of the zoo, or any as `models.Given`, which brings its own guidance
            and device.
        count: pictures of a set; at most RECOVERED of them damaged ones.
        seed: of everything.
        progress: as for `sets.run`.
        levels: noise-to-signal ratios of every part; None: LEVELS.
        device: where the networks run.
        chosen: for `refined.run`: judge, methods, guidance, calls, cache, reuse, save, ...

    Returns:
        One dict for each part (sets, mixture, recovery), method and level; the mixture, whose
            denoiser is exact, only beside the zoo's models; recovery only where there are pictures
            that the model was not trained on.

    Raises:
        ValueError: no such model, no such method, or fewer than two pictures.
        FileNotFoundError: the emoji are not on this machine.
    """
    if count < 2:
        raise ValueError(f"count is {count}: a set of pictures has at least 2")
    levels, judge = LEVELS if levels is None else dict.fromkeys(LEVELS, levels), chosen.get("judge")
    rows = refined.run(model, count, seed, progress, levels=levels["sets"], device=device, **chosen)
    if not given_of(model, device).own:
        rows += measure_mixture(min(count, MIXTURE_COUNT), seed, levels=levels["mixture"])
    recovery = min(count, RECOVERED), seed
    rows += measure_recovery(
        model, *recovery, levels=levels["recovery"], judge=judge, device=device
    )
    return [row | {"bench": "refine"} for row in rows]


KEY = ("part", "sampler", "method", "level", "damage", *SET, "calls")


def page(rows, flags=None, judge=None, target=None):
    """Return the page of the docs: what was measured, the tables, how to do it again with the
    ``flags``."""
    judge = judge or classifier.load()
    sets, mixture, recovery = (
        [row for row in rows if row["part"] == part] for part in ("sets", "mixture", "recovery")
    )
    sets = [row for row in sets if row["judge"] == name_of(judge.real.mean)]
    parts = [_about(sets, flags, judge, page_name(target, "refine"))]
    for _, group in itertools.groupby(sorted(sets, key=_set_of), key=_set_of):
        group = list(group)
        parts.append(f"## {title(group[0])}, {group[0]['calls']} calls\n\n{refined.table(group)}")
        parts.append(_notes(group, judge))
    if mixture:
        parts.append(f"""## Between the modes

Share of {mixture[0]["images"]} samples of a Gaussian mixture (exact denoiser, drawn with {MIXTURE_BASE} calls, each where the
schedule says; each method adds {EXTRA}) that belong to no component.

{_by_level(mixture, "between", ".3f")}""")
    if recovery:
        shown = "faces and hands" if isinstance(judge, classifier.Judge) else "pictures"
        parts.append(f"""## Recovery

{recovery[0]["images"]} {shown} that the model {recovery[0]["model"]} was not trained on, damaged; root mean square
distance to the original after {EXTRA} calls, over the painted part and the rest alike. The half that was erased is painted
under a mask.

{_recovery(recovery)}""")
    return "\n\n".join(parts) + "\n"


def _set_of(row):
    return group_of(row), row["calls"]


def _about(rows, flags, judge, name):
    embedded = isinstance(judge, classifier.Judge)
    asked = flags or f"--model eps --limit {rows[0]['images']}"
    space = "of a small classifier of emoji" if embedded else f"of the judge {judge.name}"
    whose = "real pictures" if rows[0]["real_energy"] else "the pictures that all go on from"
    loss = ""
    if any("loss" in row for row in rows):
        loss = f"""
- **Loss** at noise {", ".join(map(str, LOSS_AT))}: the denoising loss over that of real pictures; **saturation**: likewise.
  1 is best, below 1 is smoother or paler than real."""
    return f"""# Refinement at equal model calls

This page is written by the bench; run it again with

    python -m isdo bench --suite refine {asked} --json out/{name}.json --doc docs/{name}.md

which goes on from the rows in the file and the batches in the folder beside it. ISDO draws with half of the calls, each method
goes on from these pictures with the other half; "more steps" and Restart draw anew with all of them. *Noise* is the
noise-to-signal ratio at which a method begins. Nothing is held where it says so; "refine" by itself holds the mean of each
channel (lock 1) and the energy of fine detail (detail 0.02).

- **Fréchet** distance to the real pictures, and **KID**, the kernel distance, in thousandths, in the features
  {space}: smaller is better. After ± stand two standard deviations over
  resamples of the pictures; those of a difference are of the same resamples of both.
- **Accuracy**: the share of pictures that the judge takes for the class asked for.
- **Detail**: energy above a quarter cycle per pixel over that of {whose}.{loss}
- **Moved**: how far the pictures are from those that they were, in the features and in bands of frequency; 0 is the same
  picture, 1 one that has nothing to do with it. The coarse band is the composition. The bands, in cycles per pixel:
  {bands()}."""


def _notes(rows, judge):
    count = rows[0]["images"]
    notes = [
        f"- {count} draws from the Gaussian of the real features, the bias of a set of that size: "
        f"{sampling_bias(judge.real, count):.3f}"
    ]
    if (share := rows[0]["accuracy"]) is not None:
        spread = 2 * math.sqrt(share * (1 - share) / count)
        notes.append(f"- two standard deviations of an accuracy of {share:.2f} are {spread:.3f}")
    notes += [
        f"- {METHODS[row['method']].label}: {row['broken']} pictures are not finite, and count as grey"
        for row in rows
        if row["broken"]
    ]
    return "\n".join(notes)


def _level(value):
    return "" if value is None else f"{value:g}"


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
