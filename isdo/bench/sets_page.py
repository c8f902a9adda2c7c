"""What was measured of sets of pictures, for readers: tables, the page of the docs and its plot."""

import itertools
import math
from pathlib import Path

import torch

from ..files import replacing
from . import classifier
from .moments import sampling_bias
from .problems import name_of
from .report import PLAIN, STYLES, markdown
from .report import name_of as page_name
from .sets import LINEUPS, OCTAVES, OWN, every, group_of, presets

BANDS = ("coarse", "middle", "small", "fine")  # that sets.OCTAVES part
MEASURES = {"kid": "KID x 1000", "frechet": "Fréchet distance"}
FORMS = {"kid": ".2f", "frechet": ".3f"}
LOOKS = {
    "isdo": STYLES["isdo"] | {"linewidth": 2.0},
    "dpmpp_2m_sde": {"color": "#0072B2", "linestyle": "--", "marker": "s"},
    "dpmpp_3m_sde": {"color": "#0072B2", "linestyle": ":", "marker": "s"},
    "euler_a": {"color": "#777777", "linestyle": "--", "marker": "+"},
    "restart": {"color": "#009E73", "marker": "^"},
}
OURS = {
    "color": "#D55E00",
    "linewidth": 3.0,
    "linestyle": "--",
    "marker": "*",
    "markersize": 8,
    "zorder": 6,
}


def table(rows, judge=None):
    """Return markdown: for each task the measures by sampler and calls, then what they can be held
    against."""
    judge = judge or classifier.load()
    return "\n\n".join(_task(group, judge) for group in _tasks(rows))


def page(rows, judge=None, flags=None, suite="frechet", target=None):
    """Return the page of the docs: what this judge measured, the tables, how to do it again with
    the ``flags``."""
    judge = judge or classifier.load()
    rows = [row for row in rows if row["judge"] == name_of(judge.real.mean)]
    drawn = (
        suite == "sets" and len({row["calls"] for row in rows}) > 1
    )  # one number of calls makes no curve
    name = page_name(target, suite)
    plot = f" --plot docs/{name}.png" if drawn else ""
    shown = f"\n\n![distance to the real pictures against model calls]({name}.png)" if drawn else ""
    return f"""# {LINEUPS[suite].title}

This page is written by the bench; run it again with

    python -m isdo bench --suite {suite} {flags or "--model eps"} --json out/{name}.json --doc docs/{name}.md{plot}

which goes on from the rows in the file and the batches in the folder beside it: models and guidance can be added one by one, a
run can be stopped, and what there is be judged with a smaller --limit. Every sampler makes the model calls that the column
says, or one or two less where they do not come out even, and draws the same classes from the same noise; noise that it needs
besides comes from each picture's own seed. {_about(judge)}

- **Fréchet** distance to the real pictures, and **KID**, the kernel distance, in thousandths: smaller is better. Fréchet
  distances of sets of different sizes cannot be compared, since small sets have larger ones; KID has no such bias. After ±
  stand two standard deviations over resamples of the pictures.
- **Precision**: the share of pictures that look like real ones; **recall**: the share of real ones that look like drawn ones.
- **Accuracy**, in parentheses or a column: the share of pictures that the judge takes for the class asked for.
- **Detail**: energy above a quarter cycle per pixel over that of {_whose(rows)}.
- **Moved**: how far pictures are from those that ISDO (preset Fast) draws from the same noise in as many calls, in the features
  and in bands of frequency; 0 is the same picture, 1 one that has nothing to do with it. The bands, in cycles per pixel:
  {bands()}.

Many calls do not bring a distance to zero, since what is drawn then is the model's own distribution.{_restart(rows)}{shown}

{table(rows, judge)}"""


def _restart(rows):
    """Return what has to be said of Restart, where it draws."""
    if not any(row["sampler"] == "restart" for row in rows):
        return ""
    return """ Restart turns at a
noise-to-signal ratio of 0.1 and goes back to 2, twice, as the WebUIs' does, with DPM++ 2M on every leg; the WebUIs' own takes
two calls a step and begins to restart at 20 steps, so that at fewer than 39 calls it is plain Heun."""


def _about(judge):
    if not isinstance(judge, classifier.Judge):
        made = getattr(judge, "judge", None)
        told = f"The features ({len(judge.real.mean)} numbers) are those of the judge {judge.name}"
        return f"{told}{_knows(made)}." if isinstance(made, classifier.Trained) else f"{told}."
    return f"""The features are the last layer but one ({classifier.FEATURES} numbers)
of a small classifier that knows {judge.about["accuracy"]:.0%} of the emoji held out from its training."""


def _knows(made):
    """Return what a classifier of somebody's own pictures knows of them."""
    what = "" if made.classes else ", by how far they are turned"
    return f""",
a small classifier that knows {made.about["accuracy"]:.0%} of the pictures held out from its training{what}"""


def _whose(rows):
    return (
        "real pictures"
        if all(row["real_energy"] for row in rows)
        else "Heun's pictures in many calls"
    )


def bands():
    """Return the names of the bands and where they end, in words."""
    edges = [f"1/{round(1 / edge)}" for edge in OCTAVES]
    return ", ".join(
        [
            f"{BANDS[0]} up to {edges[0]}",
            *(f"{b} above {edge}" for b, edge in zip(BANDS[1:], edges, strict=True)),
        ]
    )


def _tasks(rows):
    return [list(group) for _, group in itertools.groupby(sorted(rows, key=group_of), key=group_of)]


def title(row):
    """Return what a set's rows have in common, in words."""
    told = row["guidance"] is None or "guidance=" in row["model"]
    guidance = "" if told else f", guidance {row['guidance']:g}"
    return f"{row['model']}{guidance}, {row['grid']} schedule, {row['images']} pictures"


def _task(rows, judge):
    grid = {(row["sampler"], row["calls"]): row for row in rows if row["sampler"] != "converged"}
    converged = next((row for row in rows if row["sampler"] == "converged"), None)
    samplers = _ordered({row["sampler"]: row["label"] for row in grid.values()})
    calls = sorted({n for _, n in grid})
    parts = [f"## {title(rows[0])}"]
    for key in _measured(rows):
        said = _frechet if key == "frechet" else _spread
        body = [
            [label, *(said(grid.get((name, n)), key) for n in calls)]
            for name, label in samplers.items()
        ]
        head = "Fréchet (accuracy)" if key == "frechet" else MEASURES[key]
        parts.append(f"### {head}\n\n" + markdown(["model calls", *map(str, calls)], body))
    first = _measured(rows)[0]
    parts.append(_against(grid, samplers, calls, first))
    parts += [_all(grid, samplers, n, converged) for n in calls]
    return "\n\n".join(part for part in (*parts, _notes(rows, converged, judge)) if part)


def _measured(rows):
    return [key for key in MEASURES if all(row[key] is not None for row in rows)]


def _ordered(samplers):
    """Known samplers in the order of the lists that they stand in, then the others."""
    order = [*every(), *samplers]
    return {name: samplers[name] for name in sorted(samplers, key=order.index)}


def _frechet(row, key="frechet"):
    if not row:
        return ""
    return f"{row[key]:.3f}" + ("" if row["accuracy"] is None else f" ({row['accuracy']:.2f})")


def _spread(row, key):
    return (
        f"{row[key]:{FORMS[key]}} ± {2 * deviation(row[f'{key}_draws']):{FORMS[key]}}"
        if row
        else ""
    )


def deviation(draws):
    """Return the standard deviation of numbers."""
    return float(torch.tensor(draws, dtype=torch.float64, device="cpu").std())


def difference(row, other, key):
    """Return (row's measure less the other's, its standard deviation): the same resamples of both,
    whose noise is the same."""
    draws = [a - b for a, b in zip(row[f"{key}_draws"], other[f"{key}_draws"], strict=True)]
    return row[key] - other[key], deviation(draws)


def best(rows, key):
    """Return the best row of a measure among everyday samplers: all but ISDO's presets; without one
    it is one of them, too."""
    ours = presets().keys() - {OWN}
    rows = [row for row in rows if row["sampler"] not in ours]
    return min(rows, key=lambda row: row[key]) if rows else None


def _against(grid, samplers, calls, key):
    """Return the table of what each sampler has over the best everyday one."""
    columns = {n: [row for (_, at), row in grid.items() if at == n] for n in calls}
    aims = {n: found for n, rows in columns.items() if len(rows) > 1 and (found := best(rows, key))}
    if not aims:
        return ""
    body = []
    for name, label in samplers.items():
        body.append([label, *(_beside(grid.get((name, n)), aims.get(n), key) for n in calls)])
    return f"""### {MEASURES[key]} over that of the best everyday sampler

The quotient, and in parentheses the difference, with two standard deviations over resamples of the same pictures of both.

{markdown(["model calls", *map(str, calls)], body)}"""


def _beside(row, aim, key):
    if not (row and aim):
        return ""
    if row is aim:
        return "best"
    gap, spread = difference(row, aim, key)
    quotient = (
        f"{row[key] / aim[key]:.2f}" if aim[key] > 2 * deviation(aim[f"{key}_draws"]) else "-"
    )
    return f"{quotient} ({gap:+{FORMS[key]}} ± {2 * spread:{FORMS[key]}})"


def _all(grid, samplers, calls, converged):
    """Return the table of all measures at a number of calls."""
    head = [
        "sampler",
        "Fréchet",
        "KID x 1000",
        "precision",
        "recall",
        "accuracy",
        "detail",
        "moved",
        *BANDS,
    ]
    body = []
    for name, label in samplers.items():
        if row := grid.get((name, calls)):
            told = [row[key] for key in ("frechet", "kid", "precision", "recall", "accuracy")]
            told += [
                detail(row, converged),
                row["moved_features"],
                *(row["moved"] or [None] * len(BANDS)),
            ]
            forms = (".3f", *[".2f"] * (len(told) - 1))
            cells = [
                "" if value is None else format(value, form)
                for value, form in zip(told, forms, strict=True)
            ]
            body.append([label, *cells])
    empty = [i for i in range(1, len(head)) if not any(line[i] for line in body)]
    head, *body = (
        [cell for i, cell in enumerate(line) if i not in empty] for line in (head, *body)
    )
    return f"### All measures, {calls} calls\n\n{markdown(head, body)}"


def detail(row, converged=None):
    """Return a set's fine energy over that of real pictures, or else of the row "converged"; None
    where there is neither."""
    scale = row["real_energy"] or (converged and converged["energy"])
    return row["energy"][-1] / scale[-1] if scale and scale[-1] else None


def _notes(rows, converged, judge):
    first, notes = rows[0], []
    if converged:
        kid = f", KID {_spread(converged, 'kid')}" if converged["kid"] is not None else ""
        notes.append(f"- Heun, {converged['calls']} calls: Fréchet {_frechet(converged)}{kid}")
    count, bias = first["images"], sampling_bias(judge.real, first["images"])
    notes.append(
        f"- {count} draws from the Gaussian of the real features, the bias of a set of that size: {bias:.3f}"
    )
    if judge.floor is not None:
        notes.append(f"- one half of the real pictures against the other: {judge.floor:.3f}")
    if first["ideal"]["precision"] is not None:
        precision, recall = first["ideal"]["precision"], first["ideal"]["recall"]
        notes.append(
            f"- as many real pictures against others: precision {precision:.2f}, recall {recall:.2f}"
        )
    if (share := first["accuracy"]) is not None:
        spread = 2 * math.sqrt(share * (1 - share) / first["images"])
        notes.append(f"- two standard deviations of an accuracy of {share:.2f} are {spread:.3f}")
    for row in rows:
        who = f"{row['label']}, {row['calls']} calls"
        if row["made"] != row["calls"] and row is not converged:
            notes.append(f"- {who}: its steps make {row['made']} of them")
        if row["broken"]:
            notes.append(f"- {who}: {row['broken']} pictures are not finite, and count as grey")
    return "\n".join(notes)


def plot(rows, path):
    """Draw distance against model calls, two standard deviations as bars, a panel for each task.

    Args:
        rows: of `sets.run`.
        path: the picture's file, its ending says the format.
    """
    from matplotlib.figure import Figure

    tasks = _tasks([row for row in rows if row["sampler"] != "converged"])
    columns = min(2, len(tasks))
    lines = math.ceil(len(tasks) / columns)
    figure = Figure(figsize=(7.2 * columns, 4.4 * lines + 0.8), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).flatten()
    for axis, task in zip(axes, tasks, strict=False):
        _panel(axis, task)
    for axis in axes[len(tasks) :]:
        axis.axis("off")
    labels = {
        label: line
        for axis in axes
        for line, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        labels.values(), labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8
    )
    with replacing(path) as part:
        figure.savefig(part, dpi=110, format=Path(path).suffix[1:].lower() or "png")


def _panel(axis, rows):
    key = _measured(rows)[0]
    for name, label in _ordered({row["sampler"]: row["label"] for row in rows}).items():
        line = sorted((row for row in rows if row["sampler"] == name), key=lambda row: row["calls"])
        calls, found = [row["calls"] for row in line], [row[key] for row in line]
        bars = [2 * deviation(row[f"{key}_draws"]) for row in line]
        known = LOOKS.get(name) or STYLES.get(name) or (OURS if name in presets() else {})
        axis.errorbar(calls, found, bars, label=label, capsize=2, elinewidth=0.7, **(PLAIN | known))
    ticks = sorted({row["calls"] for row in rows})
    axis.set(xscale="log", xlabel="model calls", ylabel=MEASURES[key])
    axis.set_title(title(rows[0]), fontsize=9)
    axis.set_xticks([], minor=True)
    axis.set_xticks(ticks, ticks)
    axis.grid(alpha=0.25)
