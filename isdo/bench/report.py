"""What was measured, for machines (JSON), for readers (tables) and for the eye (a work-precision
plot)."""

import json
import math
from collections import defaultdict
from pathlib import Path

from ..files import replacing
from .work_precision import BENT, HEADLINE, cells, geometric_mean, summary

AIMS = {"analytic": 0.25, "zoo": 0.75}
ABOUT = {
    "analytic": "mixtures, guided mixtures and a data set, on both paths",
    "zoo": "three trained models, four guidance settings",
    "img2img": "the trained models from where the ODE's exact solution is at s/a = 0.8 and 2.5 (strengths of about 0.3 and "
    "0.6), in the pace of the whole schedule",
}

# Okabe and Ito's colours, safe for the colour-blind; relatives share a colour and differ by dash
STYLES = {
    "isdo": {"color": "#D55E00", "linewidth": 3.0, "marker": "o", "markersize": 5, "zorder": 5},
    "isdo_scheduled": {"color": "#D55E00", "linestyle": "--", "marker": "o"},
    "dpmpp_2m": {"color": "#0072B2", "marker": "s"},
    "res_2m": {"color": "#0072B2", "linestyle": "--", "marker": "s"},
    "ipndm_3": {"color": "#009E73", "marker": "^"},
    "ipndm_4": {"color": "#009E73", "linestyle": "--", "marker": "^"},
    "deis": {"color": "#56B4E9", "marker": "v"},
    "unipc_2": {"color": "#CC79A7", "marker": "D"},
    "unipc_3": {"color": "#CC79A7", "linestyle": "--", "marker": "D"},
    "heun": {"color": "#777777", "marker": "x"},
    "euler": {"color": "#777777", "linestyle": ":", "marker": "+"},
}
PLAIN = {"linewidth": 1.2, "markersize": 3}
SHOWN = 16  # cells above 1 that a page lists


def write_json(rows, path):
    """Write rows as JSON; the file appears only when it is whole."""
    write_text(json.dumps(rows, indent=1), path)


def write_text(text, path):
    """Write a text file; it appears only when it is whole."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_page(text, path):
    """Write a page; it ends with one line end."""
    write_text(f"{text.rstrip()}\n", path)


def name_of(target, usual):
    """Return the name of a page from its file (or None: the usual name), as it is told in the page."""
    return Path(target).stem if target else usual


def check_marks(path, mark):
    """Return ``path`` if it is a page with two lines ``mark``, between which `write_between` can
    write.

    Raises:
        ValueError: it has not.
    """
    lines = Path(path).read_text(encoding="utf-8").splitlines() if Path(path).exists() else []
    if (count := lines.count(mark)) != 2:
        raise ValueError(
            f"{path} has {count} lines {mark}: write two, and the table is put between them"
        )
    return path


def write_between(text, path, mark):
    """Put a text between the two lines ``mark`` of a page; the rest of it stays."""
    lines = Path(check_marks(path, mark)).read_text(encoding="utf-8").splitlines()
    first = lines.index(mark)
    last = lines.index(mark, first + 1)
    lines[first + 1 : last] = ["", *text.splitlines(), ""]
    write_text("\n".join(lines) + "\n", path)


def read_json(path):
    """Return the rows that `write_json` wrote."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def plot(rows, path, schedule=None):
    """Draw median error against model calls with the quartiles as a band, one panel for each
    problem.

    Args:
        rows: of `work_precision.run`.
        path: the picture's file, its ending says the format.
        schedule: the schedule shown; None: the one that a model of the path is usually drawn with,
            of those that are there.

    Raises:
        ValueError: no row on that schedule.
    """
    from matplotlib.figure import Figure

    shown = _shown(rows) if schedule is None else dict.fromkeys(_problems(rows), schedule)
    panels = _group((row for row in rows if row["grid"] == shown[_problem(row)]), _problem)
    if not panels:
        raise ValueError(
            f"no rows on the schedule {schedule!r}: there are {sorted({row['grid'] for row in rows})}"
        )
    columns = min(4, len(panels))
    lines = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(max(7.2, 3.6 * columns), 3.1 * lines + 0.6), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).flatten()
    for axis, (title, panel) in zip(axes, panels.items(), strict=False):
        _panel(axis, f"{title[0]} ({title[1]}), {shown[title]}", panel)
    for axis in axes[len(panels) :]:
        axis.axis("off")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=min(len(labels), 5), frameon=False
    )
    figure.suptitle(
        "RMS error to the converged solution: median and quartiles",
        fontsize=11,
    )
    with replacing(path) as part:
        figure.savefig(part, dpi=120, format=Path(path).suffix[1:].lower() or "png")


USUAL = ("flow shift 3", "karras")  # which schedule is shown, the first that there is


def _problem(row):
    return row["problem"], row["path"]


def _problems(rows):
    return list(dict.fromkeys(map(_problem, rows)))


def _shown(rows):
    """Return (problem, path) -> the schedule of its panel."""
    found = {}
    for problem, group in _group(rows, _problem).items():
        there = list(dict.fromkeys(row["grid"] for row in group))
        found[problem] = next((name for name in USUAL if name in there), there[0])
    return found


def check_plot(path):
    """Return ``path`` if `plot` can draw such a file, before anything is measured for it.

    Raises:
        ValueError: an ending that matplotlib does not know.
        ImportError: there is no matplotlib.
    """
    from matplotlib.figure import Figure

    known = Figure().canvas.get_supported_filetypes()
    if Path(path).suffix[1:].lower() not in known:
        raise ValueError(
            f"{path} must end in .png, .svg or .pdf: the ending says how the plot is written"
        )
    return path


def _panel(axis, title, rows):
    for sampler, line in _ordered(_group(rows, lambda row: row["sampler"])).items():
        line = sorted(line, key=lambda row: row["calls"])
        calls, median, lower, upper = (
            [row[key] for row in line] for key in ("calls", "median", "lower", "upper")
        )
        style = PLAIN | STYLES.get(sampler, {})
        axis.plot(calls, median, label=line[0]["label"], **style)
        axis.fill_between(
            calls, lower, upper, color=style.get("color"), alpha=0.2 if sampler == "isdo" else 0.06
        )
    axis.set(xscale="log", yscale="log", title=title, xlabel="model calls", ylabel="RMS error")
    medians = [row["median"] for row in rows if row["median"] > 0]
    if medians:  # a sampler that blew up leaves the panel instead of flattening it
        axis.set_ylim(min(medians) / 2, min(2 * max(medians), 2))
    ticks = sorted({row["calls"] for row in rows})
    axis.set_xticks(ticks, ticks, fontsize=8)
    axis.set_xticks([], minor=True)
    axis.title.set_fontsize(9)
    axis.grid(alpha=0.25)


def table(rows):
    """Return two markdown tables: each sampler's error at each number of calls, and where ISDO
    stands in each problem.

    Errors are geometric means, over problems, schedules and seeds, of medians over pictures.
    """
    parts = [_errors(rows)]
    if judged := cells(rows):
        parts.append(_standing(judged, _over(rows)))
        if any("asked" in row for row in rows):
            parts.append(_standing(judged, _over(rows), schedules=True))
    return "\n\n".join(parts)


def page(rows, model=None, target=None):
    """Return the page of the docs: where ISDO stands against each baseline and against the best of each
    cell.

    Args:
        rows: of `work_precision.run`.
        model: the flags of the command line that named another model than the suite's own.
        target: the page's file, if it has one.
    """
    over = _over(rows)
    outcome, first = summary(rows, calls=over), rows[0]
    name, worst, above = first["suite"], outcome["worst"], outcome["above"]
    made = sorted({row["calls"] for row in rows})
    calls, judged = " ".join(map(str, made)), ", ".join(str(n) for n in made if n in over)
    baselines = ", ".join(
        sorted({row["label"] for row in rows if row["sampler"] in outcome["by_baseline"]})
    )
    aim = f" (the aim was {AIMS[name]})" if name in AIMS and not model else ""
    asked = list(dict.fromkeys(row["asked"] for row in rows if "asked" in row)) or [model]
    about = "the models asked for" if model else ABOUT.get(name, name)
    title = Path(target).stem if model and target else "models asked for" if model else name
    title = title[:1].upper() + title[1:]
    bent = " --bend" if first["grid"].endswith(BENT) else ""
    doc = name_of(target, "PAGE" if model else name + "-bent" * bool(bent))
    commands = "\n".join(_command(first, flags, calls + bent, doc) for flags in asked)
    levels = (
        "Every sampler makes its calls at the levels that ISDO's defaults make of each schedule"
        if bent
        else "ISDO moves its calls as far to where the denoised image changes as that is expected to pay, baselines do not"
    )
    scheduled = ""
    if not bent and any(row["sampler"] == "isdo_scheduled" for row in rows):
        strict = summary(rows, "isdo_scheduled", over)
        scheduled = f""" With each call exactly where the schedule says (placement 0): \
{strict["geometric_mean"]:.3f}; above 1.0: {len(strict["above"][1.0])}, above 1.1: {len(strict["above"][1.1])}."""
    unsure = (
        f"In {len(outcome['unsure'])} cells the reference is"
        if outcome["unsure"]
        else "No reference is"
    )
    tables = [
        markdown(
            [head, "ratio"],
            [[str(key), format(ratio, ".2f")] for key, ratio in sorted(outcome[kind].items())],
        )
        for head, kind in (
            ("against", "by_baseline"),
            ("problem, against the best baseline", "by_problem"),
            ("schedule, against the best baseline", "by_schedule"),
            ("calls, against the best baseline", "by_calls"),
        )
    ]
    return "\n\n".join(
        [
            f"""# {title}: ISDO against other samplers

This page is written by the bench; run it again with

{commands}

{first["images"]} pictures a problem, seed {first["seed"]}: {about}. Geometric means of (median error of ISDO) /
(median error of the baseline) over {judged} calls and all schedules. Baselines: {baselines}. {levels}.

Against the best baseline of each cell: **{outcome["geometric_mean"]:.3f}**{aim}; cells above 1.0: {len(above[1.0])}, \
above 1.1: {len(above[1.1])}, of {len(outcome["cells"])}; the worst is {worst["ratio"]:.2f} \
({worst["problem"]} ({worst["path"]}), {worst["grid"]}, {worst["calls"]} calls).{scheduled} \
{unsure} unsure of a tenth of the smallest error in its cell.""",
            *tables,
            *_above(outcome["cells"]),
        ]
    )


def _over(rows):
    """Return the calls over which means are taken: those of the headline, of models of one's own all
    that were measured."""
    own = any("asked" in row for row in rows)
    return tuple(sorted({row["calls"] for row in rows})) if own else HEADLINE


def _above(judged):
    """Return the cells in which ISDO is behind, worst first, as parts of a page: none or one table."""
    behind = [cell for cell in judged if cell["ratio"] > 1]
    if not behind:
        return []
    body = [
        [
            f"{cell['problem']} ({cell['path']})", cell["grid"], str(cell["calls"]), f"{cell['error']:.2g}",
            f"{cell['best_error']:.2g}", cell["best"], f"{cell['ratio']:.2f}",
        ]
        for cell in behind[:SHOWN]
    ]  # fmt: skip
    said = f"The {SHOWN} worst of the" if len(behind) > SHOWN else "The"
    head = ["problem", "schedule", "calls", "ISDO", "best baseline", "which", "ratio"]
    return [f"{said} {len(behind)} cells above 1.0, with errors:\n\n{markdown(head, body)}"]


def _command(row, flags, calls, doc):
    """Return the command line that measures such rows again; without its own flags a model of the
    suite's."""
    asked = f"{flags} " if flags else ""
    return f"    python -m isdo bench --suite {row['suite']} {asked}--calls {calls} --limit {row['images']} --doc docs/{doc}.md"


def _errors(rows):
    samplers = _ordered(_group(rows, lambda row: row["sampler"]))
    calls = sorted({row["calls"] for row in rows})
    body = [
        [
            lines[0]["label"],
            *(_cell((r["median"] for r in lines if r["calls"] == n), ".4f") for n in calls),
        ]
        for lines in samplers.values()
    ]
    return markdown(["error at calls", *map(str, calls)], body)


def _standing(judged, over, schedules=False):
    """Return the table of where ISDO stands in each problem, or on each schedule of each."""
    calls = sorted({cell["calls"] for cell in judged})
    body = []
    for (problem, path, *grid), group in _group(
        judged, lambda cell: (*_problem(cell), *([cell["grid"]] if schedules else []))
    ).items():
        columns = [[cell["ratio"] for cell in group if cell["calls"] == n] for n in calls]
        headline = [cell for cell in group if cell["calls"] in over] or group
        worst = max(headline, key=lambda cell: cell["ratio"])
        body.append(
            [
                f"{problem} ({', '.join([path, *grid])})",
                *(_cell(column, ".2f") for column in columns),
            ]
            + [_cell((cell["ratio"] for cell in headline), ".2f")]
            + [f"{worst['ratio']:.2f} ({worst['grid']}, {worst['calls']} calls, {worst['best']})"]
        )
    body.sort(key=lambda line: line[0])
    mean = "mean at " + ", ".join(map(str, over))
    return markdown(["ISDO / best baseline", *map(str, calls), mean, "worst of these"], body)


def _cell(values, form):
    values = [max(value, 1e-12) for value in values]
    return format(geometric_mean(values), form) if values else ""


def markdown(head, body):
    """Return a markdown table of strings."""
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _group(items, key):
    groups = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return dict(groups)


def _ordered(by_sampler):
    """Known samplers in the order of STYLES, then the others."""
    order = [*STYLES, *by_sampler]
    return {name: by_sampler[name] for name in sorted(by_sampler, key=order.index)}
