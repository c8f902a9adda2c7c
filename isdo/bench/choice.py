"""The user's choice: ISDO on the schedule that is best for it, against the best peer on the schedule
that is best for that one."""

import itertools
import math
from collections import defaultdict
from pathlib import Path

from ..files import replacing
from . import work_precision
from .baselines import BASELINES
from .problems import Problem
from .report import PLAIN, STYLES, markdown, name_of
from .work_precision import ISDO, SMALLEST, geometric_mean

CALLS = (6, 8, 10, 12, 15)
OWN, YARDSTICK = "isdo", "dpmpp_2m"
WIDER = (5, 6, 8, 10, 12, 15, 20, 25, 30)  # at which the yardstick is looked up
SET = ("problem", "path", "seed", "images", "fingerprint")  # one table each
KEY = work_precision.KEY


def run(
    calls=None, seed=0, limit=None, *, only="", device="cpu", models=None, progress=True, reuse=(), save=None
):  # fmt: skip
    """Measure ISDO with its defaults and its peers on every schedule that somebody could choose.

    Args:
        calls: model calls that each may make, None: CALLS; the yardstick makes those of WIDER, too.
        seed, limit, only, device, models, progress, reuse, save: as for `work_precision.run`;
            models None: all of the zoo.

    Returns:
        Rows of `work_precision.run`, of the suite "choice".
    """
    calls = tuple(calls or CALLS)
    samplers = {OWN: ISDO, **BASELINES}
    wanted = [*itertools.product(calls, samplers)]
    wanted += [(n, YARDSTICK) for n in WIDER if n not in calls]
    return work_precision.run(
        "choice", samplers, seed=seed, limit=limit, only=only, device=device, models=models,
        progress=progress, reuse=reuse, save=save, schedules=Problem.offered, wanted=wanted,
    )  # fmt: skip


def best(rows):
    """Return the row of the smallest error, None of none: a sampler's on the schedule that is best for
    it over all pictures, or the best of several samplers."""
    return min(rows, key=lambda row: row["median"], default=None)


def choices(rows):
    """Return one dict for each problem and number of calls at which ISDO and a peer were measured:
    ``own`` and ``peer``, each its best row, ``ratio`` of their errors, ``needs`` (`calls_needed` of
    the yardstick for ISDO's error)."""
    found = []
    for key, group in _sets(rows).items():
        curve = {n: row["median"] for n, row in _curve(group, YARDSTICK).items()}
        own = _curve(group, OWN)
        for n, row in own.items():
            peer = best([r for r in group if r["calls"] == n and r["sampler"] in BASELINES])
            if peer is None or not any(r["sampler"] != YARDSTICK for r in group if r["calls"] == n):
                continue
            floor = max(SMALLEST, row["uncertainty"])
            ratio = max(row["median"], floor) / max(peer["median"], floor)
            about = dict(zip(SET, key, strict=True)) | {"calls": n, "own": row, "peer": peer}
            needs = calls_needed(curve, row["median"])
            found.append(about | {"ratio": ratio, "needs": needs, "most": max(curve, default=None)})
    return found


def calls_needed(curve, error):
    """Return how many calls a sampler needs to come to an error, or None: it does not.

    Args:
        curve: calls -> error, of its best schedule at each.
        error: what it should come to.

    Returns:
        Between two numbers of calls log error is straight in log calls; where the error is reached
            at the fewest calls already, these.
    """
    before = None
    for n in sorted(curve):
        if curve[n] <= error:
            if before is None or curve[n] <= 0:
                return float(n)
            high, low = math.log(curve[before] / error), math.log(curve[before] / curve[n])
            return float(before * (n / before) ** (high / low))
        before = n
    return None


def _sets(rows):
    groups = defaultdict(list)
    for row in rows:
        groups[tuple(row[name] for name in SET)].append(row)
    return dict(groups)


def _curve(rows, sampler):
    """Return calls -> the sampler's row on its best schedule."""
    own = [row for row in rows if row["sampler"] == sampler]
    return {n: best(r for r in own if r["calls"] == n) for n in sorted({r["calls"] for r in own})}


def page(rows, flags=None, target=None):
    """Return the page of the docs: the ratios, the calls that the yardstick needs, and which schedule
    was best for whom.

    Raises:
        ValueError: no number of calls at which ISDO and a peer were measured.
    """
    found = choices(rows)
    if not found:
        raise ValueError("nothing to compare: the rows need ISDO and a peer at one number of calls")
    first, calls = rows[0], sorted({choice["calls"] for choice in found})
    schedules = ", ".join(dict.fromkeys(row["grid"] for row in rows))
    peers = ", ".join(
        {row["sampler"]: row["label"] for row in rows if row["sampler"] in BASELINES}.values()
    )
    asked = f"{flags + ' ' if flags else ''}--calls {' '.join(map(str, calls))} --limit {first['images']}"
    name = name_of(target, "choice")
    return f"""# The user's choice

This page is written by the bench; run it again with

    python -m isdo bench --suite choice {asked} --json out/{name}.json --doc docs/{name}.md --plot docs/{name}.png

which goes on from the rows in the file. Somebody who takes the best schedule for each sampler gets these errors: ISDO with its
defaults on the schedule that is best for it, over the best peer on the schedule that is best for that one. "Best" is chosen for
each number of calls, over all pictures. Errors are medians of the RMS distance to the converged solution, over
{first["images"]} pictures, seed {first["seed"]}, from the same noise.

- Schedules: {schedules}, as far as the model has them ("normal" is even in its table).
- Peers: {peers}.
- "DPM++ 2M needs" so many calls, on its best schedule, for the error that ISDO has; between the numbers of calls measured, log
  error is taken as straight in log calls.

Geometric mean over all: **{geometric_mean(choice["ratio"] for choice in found):.2f}**. Below 1 ISDO is ahead.

{_ratios(found, calls)}

![error against model calls, each on its best schedule]({name}.png)

{_details(found)}"""


def table(rows):
    """Return the markdown tables alone."""
    found = choices(rows)
    return f"{_ratios(found, sorted({choice['calls'] for choice in found}))}\n\n{_details(found)}"


def _title(choice):
    return f"{choice['problem']} ({choice['path']})"


def _mean(ratios):
    ratios = list(ratios)
    return f"{geometric_mean(ratios):.2f}" if ratios else ""


def _ratios(found, calls):
    titles = dict.fromkeys(map(_title, found))
    body = []
    for title in titles:
        of = {choice["calls"]: choice["ratio"] for choice in found if _title(choice) == title}
        body.append(
            [title, *(f"{of[n]:.2f}" if n in of else "" for n in calls), _mean(of.values())]
        )
    if len(titles) > 1:
        columns = [_mean(c["ratio"] for c in found if c["calls"] == n) for n in calls]
        body.append(["geometric mean", *columns, _mean(c["ratio"] for c in found)])
    return markdown(["ISDO / best peer, model calls", *map(str, calls), "mean"], body)


def _details(found):
    head = ["calls", "ISDO", "on schedule", "best peer", "its error", "on schedule", "ratio"]
    parts = []
    for title in dict.fromkeys(map(_title, found)):
        body = [_detail(choice) for choice in found if _title(choice) == title]
        parts.append(f"## {title}\n\n{markdown([*head, 'DPM++ 2M needs'], body)}")
    return "\n\n".join(parts)


def _detail(choice):
    own, peer = choice["own"], choice["peer"]
    return [
        str(choice["calls"]), f"{own['median']:.4f}", own["grid"], peer["label"], f"{peer['median']:.4f}",
        peer["grid"], f"{choice['ratio']:.2f}", needed(choice),
    ]  # fmt: skip


def needed(choice):
    """Return the calls that the yardstick needs, in words."""
    if choice["most"] is None:
        return ""
    return f">{choice['most']}" if choice["needs"] is None else f"{choice['needs']:.1f}"


def plot(rows, path):
    """Draw error against model calls, each sampler on its best schedule, a panel for each problem.

    Args:
        rows: of `run`.
        path: the picture's file, its ending says the format.
    """
    from matplotlib.figure import Figure

    panels = list(_sets(rows).items())
    columns = min(4, len(panels))
    lines = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(max(7.2, 3.6 * columns), 3.3 * lines + 0.6), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).flatten()
    for axis, ((problem, family, *_), group) in zip(axes, panels, strict=False):
        _panel(axis, f"{problem} ({family})", group)
    for axis in axes[len(panels) :]:
        axis.axis("off")
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False, fontsize=8
    )  # fmt: skip
    figure.suptitle("RMS error to the converged solution, each on its best schedule", fontsize=11)
    with replacing(path) as part:
        figure.savefig(part, dpi=120, format=Path(path).suffix[1:].lower() or "png")


def _panel(axis, title, rows):
    shown = {row["calls"] for row in rows if row["sampler"] == OWN}
    known = [name for name in STYLES if any(row["sampler"] == name for row in rows)]
    errors = []
    for sampler in known:
        curve = {n: row for n, row in _curve(rows, sampler).items() if n in shown}
        errors += [row["median"] for row in curve.values() if row["median"] > 0]
        label = next(iter(curve.values()))["label"] if curve else sampler
        axis.plot(
            list(curve),
            [r["median"] for r in curve.values()],
            label=label,
            **(PLAIN | STYLES[sampler]),
        )
    axis.set(xscale="log", yscale="log", title=title, xlabel="model calls", ylabel="RMS error")
    if errors:  # a sampler that blew up leaves the panel instead of flattening it
        axis.set_ylim(min(errors) / 1.5, min(1.5 * max(errors), 2))
    ticks = sorted(shown)
    axis.set_xticks(ticks, ticks, fontsize=8)
    axis.set_xticks([], minor=True)
    axis.title.set_fontsize(9)
    axis.grid(alpha=0.25)
