"""What the curvature penalty is for: samples between modes, against its weight and at equal model
calls; and what it costs."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import torch
from torch import nn

from .. import gallery
from ..denoiser import CallCounter
from ..files import replacing
from ..models import of_zoo, usual_schedule
from ..path import FLOW, VE
from ..process import per_image
from ..sampling import sample_isdo
from ..schedules import flow, karras, schedule
from ..settings import Settings
from ..zoo import data
from .judge import judged
from .kept import by_key, key_of
from .moments import frechet, moments
from .problems import hartley, make_mixture, radial_powers
from .report import PLAIN, markdown
from .sets import labels_for

log = logging.getLogger(__name__)

STEPS, WEIGHTS = (8, 12, 20), (0.1, 1.0, 10.0)
COUNT, PICTURES = (
    4096,
    256,
)  # points of a plane; pictures of a mixture, of the zoo and of a model of one's own
PICTURE_STEPS, BATCH = 8, 64
DECIDED = 0.99  # of the largest posterior of a component
FAR = 3.0  # standard deviations
KEY = ("bench", "task", "images", "seed", "steps", "weight", "fingerprint")


class Points:
    """D of a mixture of Gaussians in the plane, each with a variance of its own along both axes; x
    (B, 2, 1, 1).

    Args:
        path: a Path.
        means, variances: (K, 2).
        shares: (K,), how often each occurs.
    """

    def __init__(self, path, means, variances, shares):
        self.path, self.means, self.variances, self.shares = (
            path,
            means,
            variances,
            shares / shares.sum(),
        )
        self.sigma_min, self.sigma_max = (0.005, 10.0) if path is VE else (0.005, 1.0)

    def __call__(self, x, sigma):
        sigma, flat = sigma.double()[:, None, None], x.double().flatten(1)[:, None]
        signal = self.path.signal(sigma)
        total = signal**2 * self.variances + sigma**2
        miss = flat - signal * self.means
        odds = -(miss.square() / total + total.log()).sum(2) / 2 + self.shares.log()
        own = self.means + signal * self.variances / total * miss
        return torch.einsum("bk,bkc->bc", odds.softmax(1), own).view(x.shape).to(x.dtype)

    def sample(self, count, generator):
        """Draw (count, 2, 1, 1)."""
        chosen = torch.multinomial(self.shares, count, replacement=True, generator=generator)
        noise = torch.randn(count, 2, dtype=torch.float64, generator=generator, device="cpu")
        return (self.means[chosen] + self.variances[chosen].sqrt() * noise)[:, :, None, None]

    def told(self, x):
        """Return (log odds of the components (B, K), distance from each in its standard deviations
        (B, K), numbers)."""
        miss = (x.double().flatten(1)[:, None] - self.means).square() / self.variances
        odds = -(miss + self.variances.log()).sum(2) / 2 + self.shares.log()
        return odds, miss.sum(2).sqrt(), 2


class Pictures:
    """A `problems.Mixture` of pictures with what is asked of Points."""

    def __init__(self, path, generator):
        self.mixture = make_mixture(path, generator, radial_powers)
        self.path, (self.sigma_min, self.sigma_max) = (
            path,
            (0.02, 14.61) if path is VE else (0.02, 1.0),
        )
        self.shares = torch.full(
            (len(self.mixture.means),),
            1 / len(self.mixture.means),
            dtype=torch.float64,
            device="cpu",
        )

    def __call__(self, x, sigma):
        return self.mixture(x.double(), sigma.double()).to(x.dtype)

    def sample(self, count, generator):
        """Draw (count, 3, 16, 16)."""
        means, powers = self.mixture.means, self.mixture.powers
        chosen = torch.multinomial(self.shares, count, replacement=True, generator=generator)
        noise = torch.randn(
            count, *means.shape[1:], dtype=torch.float64, generator=generator, device="cpu"
        )
        return hartley(means[chosen] + powers[chosen].sqrt() * noise)

    def told(self, x):
        """As Points say it."""
        miss = (hartley(x.double())[:, None] - self.mixture.means).square() / self.mixture.powers
        odds = -(miss + self.mixture.powers.log()).flatten(2).sum(2) / 2
        return odds, miss.flatten(2).sum(2).sqrt(), self.mixture.means[0].numel()


class Learned(nn.Module):
    """A small network that has learned D of Points by denoising: it smooths, and so draws samples
    between modes.

    EDM preconditioning; the same seed makes the same network.

    Args:
        points: Points on the path ve.
        steps, width, batch, rate: of its training, seconds on one core.
    """

    waves, level_waves, data = 3, (1.0, 2.0, 4.0), 0.7

    def __init__(self, points, steps=3000, width=64, batch=512, rate=2e-3, seed=0):
        super().__init__()
        self.path, self.sigma_min, self.sigma_max = points.path, points.sigma_min, points.sigma_max
        generator = torch.Generator("cpu").manual_seed(seed)
        sizes = [2 + 4 * self.waves + 2 * len(self.level_waves) + 1, width, width, width, 2]
        layers = [nn.Linear(a, b, device="cpu") for a, b in zip(sizes, sizes[1:], strict=False)]
        with torch.no_grad():
            for layer in layers:
                bound = layer.in_features**-0.5
                for part in (layer.weight, layer.bias):
                    part.copy_(
                        (2 * torch.rand(part.shape, generator=generator, device="cpu") - 1) * bound
                    )
        self.net = nn.Sequential(*[part for layer in layers for part in (layer, nn.SiLU())][:-1])
        with torch.enable_grad():
            self._train(points, steps, batch, rate, generator)
        self.requires_grad_(False)

    def _train(self, points, steps, batch, rate, generator):
        optimizer = torch.optim.Adam(self.net.parameters(), lr=rate)
        falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            clean = points.sample(batch, generator).flatten(1).float()
            drawn = torch.randn(batch, 3, generator=generator, device="cpu")
            sigma = (1.3 * drawn[:, :1] - 1.8).exp().clamp(points.sigma_min, points.sigma_max)
            weight = (sigma**2 + self.data**2) / (sigma * self.data) ** 2
            loss = (
                weight * (self.denoised(clean + sigma * drawn[:, 1:], sigma) - clean).square()
            ).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            falling.step()

    def denoised(self, x, sigma):
        """Return D of x (B, 2) at sigma (B, 1)."""
        total, level = sigma**2 + self.data**2, sigma.log() / 2
        y = x * total**-0.5
        waves = [
            f(math.pi / 2 * 2**k * y) for k in range(self.waves) for f in (torch.sin, torch.cos)
        ]
        levels = [f(k * level) for k in self.level_waves for f in (torch.sin, torch.cos)]
        output = self.net(torch.cat([y, *waves, level, *levels], 1))
        return self.data**2 / total * x + sigma * self.data * total**-0.5 * output

    def forward(self, x, sigma):
        return self.denoised(x.flatten(1).float(), sigma.float()[:, None]).view(x.shape).to(x.dtype)


@dataclass(frozen=True)
class OnFlow:
    """A model of the path ve on the path flow, where x = a (x/a): D is the same, its smallest r the
    same, too."""

    model: Callable
    path = FLOW

    @property
    def sigma_min(self):
        return FLOW.from_noise_to_signal(self.model.sigma_min)

    @property
    def sigma_max(self):
        return FLOW.from_noise_to_signal(self.model.sigma_max)

    def __call__(self, x, sigma):
        signal = self.path.signal(sigma)
        return self.model(x / per_image(signal, x), sigma / signal)


def grid(path=VE):
    """Return the Points of a 5 by 5 grid (Aithal et al. 2024, Understanding Hallucinations in
    Diffusion Models through Mode Interpolation), ten standard deviations apart."""
    axis = torch.linspace(-1, 1, 5, dtype=torch.float64, device="cpu")
    means = torch.cartesian_prod(axis, axis)
    return Points(path, means, torch.full_like(means, 0.05**2), torch.ones_like(means[:, 0]))


def scattered(path=VE, components=12, seed=3):
    """Return Points of uneven shares, sizes and places."""
    generator = torch.Generator("cpu").manual_seed(seed)
    drawn = torch.rand(components, 5, dtype=torch.float64, generator=generator, device="cpu")
    return Points(path, 2 * drawn[:, :2] - 1, (0.02 + 0.06 * drawn[:, 2:4]) ** 2, 0.2 + drawn[:, 4])


@cache
def learned():
    """Return the network that has learned the grid."""
    return Learned(grid())


@dataclass(frozen=True)
class Task:
    """What is drawn: ``make() -> (model, truth)``, the truth saying what lies between its modes;
    how many, in which steps."""

    make: Callable
    shape: tuple
    count: int
    steps: tuple


def _exact(make, path):
    model = make(path)
    return model, model


def _pictures(path):
    return _exact(partial(Pictures, generator=torch.Generator("cpu").manual_seed(0)), path)


PLANE = (2, 1, 1)
TASKS = {
    "mixture": Task(lambda: _exact(scattered, VE), PLANE, COUNT, STEPS),
    "mixture (flow)": Task(lambda: _exact(scattered, FLOW), PLANE, COUNT, STEPS),
    "grid": Task(lambda: _exact(grid, VE), PLANE, COUNT, STEPS),
    "grid, learned": Task(lambda: (learned(), grid()), PLANE, COUNT, STEPS),
    "grid, learned (flow)": Task(lambda: (OnFlow(learned()), grid()), PLANE, COUNT, STEPS),
    "mixture of pictures": Task(lambda: _pictures(VE), (3, 16, 16), PICTURES, (PICTURE_STEPS,)),
    "mixture of pictures (flow)": Task(
        lambda: _pictures(FLOW), (3, 16, 16), PICTURES, (PICTURE_STEPS,)
    ),
}


def plan(steps):
    """Return the pairs (steps, weight): every weight, none, and none with as many model calls as
    the penalty takes."""
    return [(n, w) for n in steps for w in (0.0, *WEIGHTS)] + [(3 * n, 0.0) for n in steps]


def between(truth, x):
    """Return what the truth says of samples: shares in percent, and how wide and how evenly its
    components are filled.

    far: further than FAR standard deviations from every component; of d numbers, where sqrt(d) of
    them is usual, further than sqrt(d) + FAR/sqrt(2). undecided: the largest posterior is below
    DECIDED. width: RMS distance of what is neither from its component, in standard deviations, 1:
    right. uneven: total variation of how often components occur, in percent.
    """
    odds, distance, numbers = truth.told(x)
    largest, chosen = odds.softmax(1).max(1)
    reach = FAR if numbers == 2 else math.sqrt(numbers) + FAR / math.sqrt(2)
    far, undecided = ~(distance.amin(1) <= reach), ~(largest >= DECIDED)
    inside = ~(far | undecided)
    own = distance[inside].gather(1, chosen[inside][:, None])
    found = torch.bincount(chosen[inside], minlength=len(truth.shares)).double() / max(
        int(inside.sum()), 1
    )
    return {
        "far": 100 * far.double().mean().item(),
        "undecided": 100 * undecided.double().mean().item(),
        "between": 100 * (far | undecided).double().mean().item(),
        "width": (own.square().mean() / numbers).sqrt().item(),
        "uneven": 50 * (found - truth.shares).abs().sum().item(),
    }


def levels(model, steps):
    """Return the noise levels of the schedule that a person would take."""
    if usual_schedule(model) == "flow":
        return flow(steps)
    return karras(steps, model.sigma_min, model.sigma_max)


def drawn(model, x, sigmas, weight, extra_args=None):
    """Return (samples, model calls)."""
    counted = CallCounter(model)
    settings = Settings(curvature_penalty=weight)
    return sample_isdo(
        counted, x, sigmas, extra_args, disable=True, settings=settings
    ), counted.calls


@torch.no_grad()
def on_task(name, seed=0, limit=None, known=None, progress=iter):
    """Yield the rows of a task, and first what the truth says of its own samples, the row of 0
    steps."""
    task = TASKS[name]
    model, truth = task.make()
    count = min(task.count, limit or task.count)
    generator = torch.Generator("cpu").manual_seed(seed)
    own = truth.sample(count, generator)
    noise = torch.randn(count, *task.shape, generator=generator, device="cpu")
    base = {
        "bench": "penalty",
        "task": name,
        "images": count,
        "seed": seed,
        "fingerprint": _fingerprint(model, noise),
    }
    yield base | {"steps": 0, "weight": 0.0, "calls": 0} | between(truth, own)
    for steps, weight in progress(plan(task.steps)):
        row = base | {"steps": steps, "weight": weight}
        if (found := (known or {}).get(key_of(row, KEY))) is None:
            sigmas = levels(model, steps)
            x, calls = drawn(model, float(sigmas[0]) * noise, sigmas, weight)
            found = row | {"calls": calls} | between(truth, x)
        yield found


def _fingerprint(model, noise):
    """Return a number that tells one model from another and survives rounding."""
    level = math.sqrt(model.sigma_min * model.sigma_max)
    x = (level * noise[:4]).to(noise.dtype)
    return f"{model(x, x.new_full((len(x),), level)).double().square().mean().item():.3e}"


def nearest(pictures, others):
    """Return the RMS distance (B,) of each picture from the nearest of the others, per number."""
    return (
        torch.cdist(pictures.flatten(1).double(), others.flatten(1).double()).amin(1)
        / pictures[0].numel() ** 0.5
    )


@torch.no_grad()
def on_set(
    given, labels, count, seed=0, known=None, progress=iter, judge=None, real=None, name=None
):
    """Yield the rows of a model of pictures, of the zoo or one's own.

    Args:
        given: a models.Given.
        labels: (count,) or None.
        judge: a judge.Judge, or None: Fréchet distance, kernel distance if it says one, and
            accuracy.
        real: training pictures (N, C, H, W), or None: the distance of each drawn picture from the
            nearest.
    """
    model = given.model
    x = gallery.noise(range(seed, seed + count), given.shape)
    base = {"bench": "penalty", "task": name or given.title, "images": count, "seed": seed}
    base |= {"fingerprint": _set_fingerprint(given, x, labels)}
    first = None
    for steps, weight in progress(plan((PICTURE_STEPS,))):
        row = base | {"steps": steps, "weight": weight}
        if (found := (known or {}).get(key_of(row, KEY))) is not None:
            yield found
            continue
        sigmas, made, calls = schedule(usual_schedule(model), steps, model), [], 0
        for start in range(0, count, BATCH):
            part = slice(start, start + BATCH)
            extra = given.extra_args(None if labels is None else labels[part])
            pictures, calls = drawn(
                model, (sigmas[0] * x[part]).to(given.device), sigmas, weight, extra
            )
            made.append(pictures.cpu())
        made = torch.cat(made)
        first = made if first is None else first
        moved = None
        if steps == PICTURE_STEPS and first is not made:
            moved = float(
                (made - first).flatten(1).norm(dim=1).median()
                / first.flatten(1).norm(dim=1).median()
            )
        found = {"calls": calls, "moved": moved, "contrast": made.flatten(1).std(1).mean().item()}
        if judge is not None:
            features, accuracy = judged(judge, made.to(given.device), labels)
            distance = getattr(getattr(judge, "judge", None), "kid", None)
            found |= {"accuracy": accuracy, "frechet": frechet(judge.real, moments(features))}
            found |= {} if distance is None else {"kernel": float(distance(made.to(given.device)))}
        if real is not None:
            found["nearest"] = nearest(made, real).median().item()
        yield row | found


def _set_fingerprint(given, x, labels):
    level = x.new_full((4,), math.sqrt(given.model.sigma_min * given.model.sigma_max))
    extra = given.extra_args(None if labels is None else labels[:4])
    said = given.model(
        (level[:, None, None, None] * x[:4]).to(given.device), level.to(given.device), **extra
    )
    return f"{said.double().square().mean().item():.3e}"


def run(
    progress=iter,
    *,
    model=None,
    judge=None,
    seed=0,
    limit=None,
    only="",
    reuse=(),
    save=None,
    device="cpu",
    emoji=None,
):
    """Measure the penalty on mixtures, the grid and the zoo; or on ``model`` alone, if there is
    one.

    Args:
        progress: wraps the lists of runs, such as tqdm.
        model: a models.Given of one's own, measured by ``judge``, a judge.Judge.
        seed: of noise and samples.
        limit: samples of each task at most.
        only: part of the name of the tasks wanted.
        reuse: rows of an earlier run, which are not measured again.
        save: called with all rows so far after each.
        device: of the zoo's network.
        emoji: () -> zoo.data.Emoji; `zoo.data.load_emoji` if left out. Without the files the zoo is
            left out.
    """
    known, rows = by_key(reuse, KEY), []
    if model is not None:
        count = min(PICTURES, limit or PICTURES)
        jobs = [on_set(model, None if judge is None else labels_for(model, judge, count, seed), count, seed, known, progress,
                       judge)]  # fmt: skip
    else:
        jobs = [on_task(name, seed, limit, known, progress) for name in TASKS if only in name]
        if only in "zoo":
            jobs += of_emoji(seed, limit, known, progress, device, emoji or data.load_emoji)
    for job in jobs:
        for row in job:
            rows.append(row)
            if save is not None:
                save(rows)
    return rows


def of_emoji(seed, limit, known, progress, device, emoji):
    """Return the job of the zoo's model eps: nothing without the emoji that it was trained on."""
    from . import classifier

    try:
        train, held_out = emoji().split()
    except (FileNotFoundError, ImportError) as error:
        log.warning("The zoo's part of the page is left out: %s", error)
        return []
    real, count = data.to_unit(train.pictures[:, 0]), min(PICTURES, limit or PICTURES)
    others = nearest(data.to_unit(held_out.pictures[:, 0]), real).median().item()
    judge, given = classifier.load().to(device), of_zoo("eps", device)
    made = on_set(
        given,
        labels_for(given, judge, count, seed),
        count,
        seed,
        known,
        progress,
        judge,
        real,
        "zoo, eps",
    )
    return [(row | {"held_out": others} for row in made)]


def by_task(rows):
    """Return {task: its rows}."""
    found = {}
    for row in rows:
        found.setdefault(row["task"], []).append(row)
    return found


def _line(row, columns):
    penalty = "none" if row["weight"] == 0 else f"{row['weight']:g}"
    head = (
        ["of the truth", "", ""]
        if row["steps"] == 0
        else [str(row["calls"]), str(row["steps"]), penalty]
    )
    return head + [
        "-" if row.get(key) is None else format(row[key], form) for key, form in columns.values()
    ]


POINTS = {
    "between, %": ("between", ".2f"), "far, %": ("far", ".2f"), "undecided, %": ("undecided", ".2f"),
    "width": ("width", ".3f"), "uneven, %": ("uneven", ".1f"),
}  # fmt: skip
SETS = {
    "nearest": ("nearest", ".4f"), "class, share": ("accuracy", ".3f"), "Fréchet": ("frechet", ".3f"),
    "KID x 1000": ("kernel", ".2f"), "contrast": ("contrast", ".3f"), "moved": ("moved", ".3f"),
}  # fmt: skip


def table(rows):
    """Return the markdown table of a task's rows."""
    of_points = "between" in rows[0]
    columns = (
        POINTS
        if of_points
        else {k: v for k, v in SETS.items() if any(row.get(v[0]) is not None for row in rows)}
    )
    rows = sorted(rows, key=lambda row: (row["steps"] and row["calls"], row["weight"]))
    return markdown(
        ["model calls", "steps", "penalty", *columns], [_line(row, columns) for row in rows]
    )


def gains(rows):
    """Return {(task, steps, weight): shares between with the penalty, without it at equal steps, at
    equal model calls}."""
    found = {}
    for name, lines in by_task(rows).items():
        cells = {(row["steps"], row["weight"]): row["between"] for row in lines if "between" in row}
        for (steps, weight), share in cells.items():
            if weight and {(steps, 0.0), (3 * steps, 0.0)} <= set(cells):
                found[name, steps, weight] = share, cells[steps, 0.0], cells[3 * steps, 0.0]
    return found


def summary(rows):
    """Return the table that says in how many cells, a task and its steps, the penalty pays."""
    body, found = [], gains(rows)
    for weight in WEIGHTS:
        cells = [shares for (_, _, used), shares in found.items() if used == weight]
        line = [f"{sum(shares[0] < shares[i] for shares in cells)} of {len(cells)}" for i in (1, 2)]
        body += [[f"{weight:g}", *line]] if cells else []
    return (
        markdown(
            ["penalty", "fewer between than at equal steps", "than at equal model calls"], body
        )
        if body
        else ""
    )


def page(rows, flags=None):
    """Return the page of the docs."""
    held_out = next((row["held_out"] for row in rows if "held_out" in row), None)
    near = "" if held_out is None else (
        f"\nnearest: RMS distance from the nearest emoji of the training, median ({held_out:.4f} for emoji held out from it)."
    )  # fmt: skip
    parts = [
        f"## {name}, {lines[0]['images']} samples\n\n{table(lines)}"
        for name, lines in by_task(rows).items()
    ]
    seeds = " or ".join(map(str, sorted({row["seed"] for row in rows})))
    return f"""# The curvature penalty: what it buys and what it costs

This page is written by the bench; run it again with

    python -m isdo bench --suite penalty{f" {flags}" if flags else ""} --doc docs/penalty.md --plot docs/penalty.png

ISDO by its defaults with `curvature_penalty` ([theory](theory.md), section 13), which takes three model calls a step, against
ISDO without it in as many steps and in three times as many. Seed {seeds}. "mixture" and "grid" (5 x 5 small Gaussians, Aithal
et al. 2024) lie in the plane and have their denoiser in closed form; "grid, learned" is a small network that has learned it by
denoising, as in that paper: it smooths, and draws samples between modes however many steps it gets. far: further than
{FAR:g} standard deviations from every component (in d numbers: than sqrt(d) + {FAR:g}/sqrt(2)); undecided: the largest
posterior of a component is below {DECIDED:g}; between: either. width: RMS distance of the others from their component in its
standard deviations, 1 is right; uneven: total variation between how often components occur and how often they should. "of the
truth": as many samples of the mixture itself. class: the share of pictures that are taken for the class asked for; moved:
distance from the picture without the penalty over its size, median.{near}

{summary(rows)}

{chr(10).join(part + chr(10) for part in parts)}
![share of samples between modes against model calls](penalty.png)"""


def plot(rows, path):
    """Draw the share of samples between modes against model calls, a panel for each task that has
    one."""
    from matplotlib.figure import Figure

    panels = {name: lines for name, lines in by_task(rows).items() if "between" in lines[0]}
    columns = min(4, len(panels))
    lines = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(3.4 * columns, 2.8 * lines + 0.6), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).flatten()
    colours = dict(zip((0.0, *WEIGHTS), ("#777777", "#56B4E9", "#0072B2", "#D55E00"), strict=True))
    for axis, (name, found) in zip(axes, panels.items(), strict=False):
        for weight, colour in colours.items():
            points = sorted(
                (row["calls"], row["between"])
                for row in found
                if row["weight"] == weight and row["steps"]
            )
            label = f"penalty {weight:g}" if weight else "no penalty"
            axis.plot(*zip(*points, strict=True), label=label, color=colour, marker="o", **PLAIN)
        truth = next(row["between"] for row in found if row["steps"] == 0)
        axis.axhline(truth, color="black", linestyle=":", linewidth=1, label="samples of the truth")
        axis.set(title=name, xlabel="model calls", ylabel="between modes, %")
        axis.set_ylim(bottom=0)
        axis.title.set_fontsize(9)
        axis.grid(alpha=0.25)
    for axis in axes[len(panels) :]:
        axis.axis("off")
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False
    )
    with replacing(path) as part:
        figure.savefig(part, dpi=100, format=Path(path).suffix[1:].lower() or "png")
