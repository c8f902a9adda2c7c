"""Round trips: a picture to noise and back, against DDIM inversion and FireFlow, at equal calls
each way."""

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from .. import gallery, models
from ..denoiser import CallCounter
from ..files import replacing
from ..inversion import calls_of, invert
from ..path import smallest_sigma
from ..sampling import sample_isdo
from ..schedules import schedule
from ..settings import Settings
from ..solver import SOLVERS
from .kept import by_key, key_of
from .problems import rms
from .report import PLAIN, markdown

COUNT, BATCH, SEED = 8, 4, 100
CALLS, MOST = (8, 12, 20, 50), 20  # calls each way; above MOST only without guidance
GUIDANCE = (1.0, 3.0, 7.0)
DRAWN = 30  # calls in which the pictures are drawn that go to and fro
AIM = 1e-3  # of the picture's RMS, at 50 and 50 calls without guidance
KEY = ("model", "guidance", "method", "calls", "seed", "images")


def level(sigma, x):
    return torch.full((len(x),), sigma, dtype=x.dtype, device=x.device)


def velocity(model, x, sigma, low, extra):
    """Return dx/dsigma; below the model's smallest level it is asked there."""
    sigma = max(sigma, low)
    return (x - model(x, level(sigma, x), **extra)) / sigma


def ddim(model, x, sigmas, extra):
    """Euler through the levels as they come, falling or rising: DDIM, and its inversion (Song et
    al. 2021, section 4.3)."""
    low = smallest_sigma(model)
    for start, end in zip(sigmas, sigmas[1:], strict=False):
        x = x + (end - start) * velocity(model, x, start, low, extra)
    return x


def fireflow(model, x, sigmas, extra):
    """The midpoint method with one call a step: half a step by the last midpoint's velocity (Deng
    et al. 2024, algorithm 1)."""
    low = smallest_sigma(model)
    found = velocity(model, x, sigmas[0], low, extra)
    for start, end in zip(sigmas, sigmas[1:], strict=False):
        half = (end - start) / 2
        found = velocity(model, x + half * found, start + half, low, extra)
        x = x + (end - start) * found
    return x


def to_and_fro(method, extra_calls, model, x, levels_of, calls, extra):
    """Return (noise, picture) of a baseline that walks the levels as they come."""
    sigmas = levels_of(calls - extra_calls).tolist()
    noise = method(model, x, sigmas[::-1], extra)
    return noise, method(model, noise, sigmas, extra)


def by_isdo(settings, model, x, levels_of, calls, extra):
    """Return (noise, picture) of ISDO, in as many steps as leave neither way more than
    ``calls``."""
    sigmas = levels_of(steps_within(settings, model, levels_of, calls))
    noise = invert(model, x, sigmas, extra, disable=True, settings=settings)
    return noise, sample_isdo(model, noise, sigmas, extra, disable=True, settings=settings)


def steps_within(settings, model, levels_of, calls):
    """Return the most steps with which neither way takes more calls; at least 2."""

    def cost(steps):
        up = calls_of(settings, levels_of(steps).tolist(), model.path, smallest_sigma(model))
        return max(up, SOLVERS[settings.solver].calls(steps))

    return max(steps for steps in range(2, calls + 1) if steps == 2 or cost(steps) <= calls)


@dataclass(frozen=True)
class Method:
    """``run(model, x, levels_of, calls, extra) -> (noise, picture)``."""

    label: str
    run: Callable
    style: dict


METHODS = {
    "isdo": Method(
        "ISDO", partial(by_isdo, Settings()), {"color": "#D55E00", "linewidth": 3.0, "marker": "o"}
    ),
    "fireflow": Method(
        "FireFlow", partial(to_and_fro, fireflow, 1), {"color": "#0072B2", "marker": "s"}
    ),
    "ddim": Method("DDIM", partial(to_and_fro, ddim, 0), {"color": "#777777", "marker": "+"}),
}


def drawn(given, guidance, count, seed, levels_of):
    """Return pictures (count, C, H, W) of the model, each of its own seed and label, and what it is
    told of them."""
    labels = (
        given.classes(range(count))
        if given.own
        else torch.arange(count, device="cpu") % (given.model.null_label + 1)
    )
    extra = given.extra_args(labels) | ({"guidance": guidance} if guidance is not None else {})
    x = levels_of(DRAWN)[0] * gallery.noise(range(seed, seed + count), given.shape).to(given.device)
    return sample_isdo(given.model, x, levels_of(DRAWN), extra, disable=True), extra


def run(
    named=None,
    seed=SEED,
    limit=None,
    only="",
    device="cpu",
    progress=iter,
    reuse=(),
    save=lambda rows: None,
):
    """Return one row for each model, guidance, method and number of calls.

    Args:
        named: (names of models of the zoo or Givens); None: all of the zoo. Of a Given its own
            guidance alone counts.
        only: part of the name of the models wanted.
        reuse: rows of an earlier run that are not measured again.
        save: called with all rows whenever there are more.
    """
    rows, kept, count = [], by_key(reuse, KEY), limit or COUNT
    cases = []
    for each in named or ("eps", "v", "flow"):
        given = each if isinstance(each, models.Given) else models.of_zoo(each, device)
        if only in given.name:
            cases += [
                (given, guidance)
                for guidance in ((given.guidance or 1.0,) if given.own else GUIDANCE)
            ]
    for given, guidance in progress(cases):
        levels_of = partial(_schedule, given.model)
        pictures, extra = None, None
        for calls in CALLS if guidance == 1 else [n for n in CALLS if n <= MOST]:
            for name, method in METHODS.items():
                about = {
                    "model": given.title,
                    "guidance": guidance,
                    "method": name,
                    "calls": calls,
                    "seed": seed,
                }
                about |= {"images": count}
                if (row := kept.get(key_of(about, KEY))) is None:
                    if pictures is None:
                        pictures, extra = drawn(
                            given, None if given.own else guidance, count, seed, levels_of
                        )
                    row = {"bench": "inversion", "path": given.model.path.name} | about
                    row |= measured(method, given.model, pictures, levels_of, calls, extra)
                rows.append(row)
                save(rows)
    return rows


def _schedule(model, steps):
    return schedule(models.usual_schedule(model), steps, model)


@torch.no_grad()
def measured(method, model, pictures, levels_of, calls, extra):
    """Return the errors of a method's round trip, the spread of its noise and the calls of both
    ways together."""
    counted, errors, noises = CallCounter(model), [], []
    for start in range(0, len(pictures), BATCH):
        part = slice(start, start + BATCH)
        told = {
            key: value[part] if torch.is_tensor(value) and value.ndim else value
            for key, value in extra.items()
        }
        x = pictures[part]
        noise, back = method.run(counted, x, levels_of, calls, told)
        errors += (rms(back - x) / rms(x)).tolist()
        noises.append(noise / levels_of(2)[0])
    batches = math.ceil(len(pictures) / BATCH)
    errors = sorted(errors)
    return {
        "error": errors[len(errors) // 2] if len(errors) % 2 else sum(errors[len(errors) // 2 - 1 :][:2]) / 2,
        "worst": errors[-1], "spread": float(torch.cat(noises).std()), "both": counted.calls / batches,
    }  # fmt: skip


def by_case(rows):
    """Return {(model, path, guidance): {method: {calls: row}}}."""
    found = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        found[row["model"], row["path"], row["guidance"]][row["method"]][row["calls"]] = row
    return found


def page(rows, flags=None):
    """Return the page of the docs."""
    cases = by_case(rows)
    calls = sorted({row["calls"] for row in rows})
    body = []
    for (model, path, guidance), methods in sorted(
        cases.items(), key=lambda item: (item[0][2], item[0][:2])
    ):
        for name, method in METHODS.items():
            if name in methods:
                cells = [
                    f"{methods[name][n]['error']:.2g}" if n in methods[name] else "-" for n in calls
                ]
                spread = methods[name].get(20) or methods[name][max(methods[name])]
                body.append(
                    [
                        f"{model} ({path})",
                        f"{guidance:g}",
                        method.label,
                        *cells,
                        f"{spread['spread']:.2f}",
                    ]
                )
    table = markdown(
        ["model", "guidance", "method", *(f"{n} + {n}" for n in calls), "noise, 20 + 20"], body
    )
    last = max(calls)
    plain = [
        m["isdo"][last] for (_, _, g), m in cases.items() if g == 1 and last in m.get("isdo", {})
    ]
    aim = ""
    if plain:
        median, worst = (max(row[key] for row in plain) for key in ("error", "worst"))
        aim = f"Without guidance at {last} + {last} calls: median at most **{median:.1g}**, the worst picture {worst:.1g} "
        aim += f"(the aim was {AIM:g}). "
    against = [
        f"{METHODS[baseline].label} {ratio(cases, baseline, 8):.2f}, {ratio(cases, baseline, 20):.2f}"
        for baseline in ("ddim", "fireflow")
    ]
    images, seeds = (
        " or ".join(map(str, sorted({row[key] for row in rows}))) for key in ("images", "seed")
    )
    command = "python -m isdo bench --suite inversion" + (f" {flags}" if flags else "")
    return f"""# Inversion: a picture to noise and back

This page is written by the bench; run it again with

    {command} --doc docs/invert.md --plot docs/invert.png

A picture is taken to noise and drawn again with the same model, class, guidance, schedule and number of calls. The error is the
RMS of what comes back less the picture, over the picture's RMS: the median of {images} pictures, which each model drew itself
in {DRAWN} calls (seed {seeds}). No method makes more than the calls of its column either way: ISDO goes in as many steps as
that allows, FireFlow in one fewer than calls. Karras's schedule, on flow models even steps. The last column is the standard
deviation of the noise that was found at 20 + 20 calls, 1 where it is like the noise that a model knows.

{aim}ISDO's error over a baseline's, geometric mean over all cases, at 8 + 8 and at 20 + 20 calls:
{"; ".join(against)}.

{table}

![error of the round trip against calls each way](invert.png)"""


def ratio(cases, baseline, calls):
    """Return the geometric mean of ISDO's error over a baseline's; NaN where there is none."""
    pairs = [
        (m["isdo"][calls]["error"], m[baseline][calls]["error"])
        for m in cases.values()
        if calls in m["isdo"] and calls in m[baseline]
    ]
    return math.exp(sum(math.log(a / b) for a, b in pairs) / len(pairs)) if pairs else math.nan


def plot(rows, path):
    """Draw the error of the round trip against the calls each way, a panel for each model and
    guidance."""
    from matplotlib.figure import Figure

    cases = sorted(by_case(rows).items(), key=lambda item: (item[0][2], item[0][:2]))
    columns = min(4, len(cases))
    lines = math.ceil(len(cases) / columns)
    figure = Figure(figsize=(2.9 * columns, 2.6 * lines + 0.6), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).flatten()
    for axis, ((model, where, guidance), methods) in zip(axes, cases, strict=False):
        for name, method in METHODS.items():
            if name in methods:
                line = sorted((n, row["error"]) for n, row in methods[name].items())
                axis.plot(*zip(*line, strict=True), label=method.label, **(PLAIN | method.style))
        axis.set(xscale="log", yscale="log")
        axis.set_xticks([], minor=True)
        axis.set_xticks(CALLS, CALLS)
        axis.set_title(f"{model} ({where}), guidance {guidance:g}", fontsize=8)
        axis.grid(alpha=0.25)
    for axis in axes[len(cases) :]:
        axis.axis("off")
    figure.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=len(METHODS),
        frameon=False,
    )
    figure.suptitle(
        "Round trip, picture to noise and back: RMS error over the picture's RMS, against model calls each way"
    )
    with replacing(path) as part:
        figure.savefig(part, dpi=100, format=Path(path).suffix[1:].lower() or "png")
