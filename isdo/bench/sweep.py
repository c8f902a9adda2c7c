"""The sweep behind the default settings: one setting changed at a time, each against the best
baseline."""

import itertools
from dataclasses import asdict, dataclass, replace
from functools import partial

from ..settings import FIELDS, Settings
from .baselines import BASELINES, Baseline
from .kept import by_key, key_of
from .problems import ZOO_MODELS, own_problem, problem, zoo_problem
from .report import markdown
from .work_precision import HEADLINE, limited, measure, run_isdo, summary

VALUES = {  # what a setting is tried at; one with choices that is not named here is tried at all of them
    "order": (1, 2, 3, 4),
    "corrector": (0, 1, 2),
    "response": (0.0, 0.4, 0.6, 0.8, 1.0),
    "modes": (0, 16, 64),  # of 256 on the analytic problems, of 1,024 in the zoo
    "placement": (0.0, 0.25, 0.5, 0.75, 1.0),
    "basis": ("cosine",),  # auto is fourier wherever there is a complex FFT
}
# What is solved and how it is asked for, not how well.
FIXED = (
    "solver",
    "path",
    "tolerance",
    "max_calls",
    "draw",
    "repaint",
    "curvature_penalty",
    "window",
)
NEVER_BEST = ("euler", "heun")  # left out of the baselines: they cost time and change no ratio
ANALYTIC = ("stationary", "stationary, guidance 7.5", "anisotropic, guidance 5", "data set")
GUIDANCE = ("no class", "guidance 3")
SCHEDULE, SEED, LIMIT = "karras", 1, 6  # another seed than the one the benches show
KEY = ("suite", "problem", "path", "grid", "calls", "seed", "sampler", "images", "fingerprint")


def variants():
    """Return name -> Settings: the defaults, then every one that differs from them in one
    setting."""
    found = {"defaults": Settings()}
    for field in FIELDS:
        values = () if field.key in FIXED else VALUES.get(field.key, field.choices)
        for value in values:
            if value != field.default:
                found[f"{field.key} {value}"] = replace(found["defaults"], **{field.key: value})
    return found


def makers(seed=SEED, models=None, guidance=GUIDANCE):
    """Return (suite, maker of a Problem) pairs: four analytic problems on both paths, the zoo with
    its weights and each ``guidance``.

    With ``models`` (names or files of the zoo, or `models.Given`) there are only theirs.
    """
    from .. import zoo

    trained = [model for model in ZOO_MODELS if (zoo.FOLDER / f"{model}.safetensors").exists()]
    analytic = [partial(problem, name, path, seed) for name in ANALYTIC for path in ("ve", "flow")]
    named = trained if models is None else [model for model in models if isinstance(model, str)]
    learned = [partial(zoo_problem, model, scale, seed) for model in named for scale in guidance]
    own = [
        partial(own_problem, model, seed) for model in models or () if not isinstance(model, str)
    ]
    return [("analytic", make) for make in analytic if models is None] + [
        ("zoo", make) for make in learned + own
    ]


def run(progress=iter, calls=HEADLINE, *, seed=SEED, limit=LIMIT, only="", reuse=(), models=None):
    """Measure all variants and all baselines, every one from the same noise on Karras's schedule.

    Args:
        progress: wraps the list of problems, such as tqdm.
        calls: model calls that each may make.

    Rarely needed:
        seed: of problems and noise.
        limit: pictures of each problem at most.
        only: part of the name of the problems wanted.
        reuse: rows of an earlier run; those of baselines on the same problems are not run again, those
            of variants are.
        models: as for `makers`.

    Returns:
        Rows of `work_precision.run`'s kind, the variants as samplers.
    """
    samplers = {name: baseline for name, baseline in BASELINES.items() if name not in NEVER_BEST}
    for name, settings in variants().items():
        samplers[name] = Baseline(name, partial(run_isdo, settings), "")
    known = by_key((row for row in reuse if row["sampler"] in BASELINES), KEY)
    rows = []
    for suite, make in progress(makers(seed) if models is None else makers(seed, models)):
        case = limited(make(), limit)
        if only not in case.name:
            continue
        schedule = case.schedules()[SCHEDULE]
        for name, n in itertools.product(samplers, calls):
            values = (
                suite,
                case.name,
                case.path,
                SCHEDULE,
                n,
                seed,
                name,
                len(case.x),
                case.fingerprint,
            )
            row = {"bench": "sweep", **dict(zip(KEY, values, strict=True))}
            rows.append(
                known.get(key_of(row, KEY)) or row | measure(case, samplers[name], schedule, n)
            )
    return rows


@dataclass(frozen=True)
class Standing:
    """Where a variant stands: geometric means of its error relative to the best baseline, and its worst
    cell."""

    analytic: float | None
    zoo: float | None
    by_calls: dict
    worst: dict


def standing(rows, variant):
    """Return the Standing of a variant; None for a suite that was not measured.

    The means by calls weigh the two suites alike, whatever the number of their problems.
    """
    calls = tuple({row["calls"] for row in rows})
    found = {}
    for suite in ("analytic", "zoo"):
        if part := [row for row in rows if row["suite"] == suite]:
            found[suite] = summary(part, variant, calls)
    by_calls = {}
    for n in sorted(calls):
        ratios = [part["by_calls"][n] for part in found.values()]
        by_calls[n] = (ratios[0] * ratios[-1]) ** 0.5
    worst = max((part["worst"] for part in found.values()), key=lambda cell: cell["ratio"])
    means = {
        suite: found[suite]["geometric_mean"] if suite in found else None
        for suite in ("analytic", "zoo")
    }
    return Standing(**means, by_calls=by_calls, worst=worst)


def table(rows):
    """Return the markdown table: a line for each variant, the defaults first."""
    calls = sorted({row["calls"] for row in rows})
    body = []
    for name in (name for name in variants() if any(row["sampler"] == name for row in rows)):
        found = standing(rows, name)
        means = [found.analytic, found.zoo, *(found.by_calls[n] for n in calls)]
        worst = (
            f"{found.worst['ratio']:.2f} ({found.worst['problem']}, {found.worst['calls']} calls)"
        )
        body.append([name, *("" if mean is None else f"{mean:.3f}" for mean in means), worst])
    return markdown(["", "analytic", "zoo", *(f"{n} calls" for n in calls), "worst cell"], body)


def page(rows, flags=None):
    """Return the page of the docs: what was done, the defaults, the table, how to do it again with
    the ``flags``."""
    problems = sorted({(row["suite"], f"{row['problem']} ({row['path']})") for row in rows})
    listed = "\n".join(
        f"- {suite}: {'; '.join(name for _, name in group)}"
        for suite, group in itertools.groupby(problems, key=lambda pair: pair[0])
    )
    defaults = ", ".join(
        f"{key} {value}" for key, value in asdict(Settings()).items() if key not in FIXED
    )
    seeds, images = (
        " or ".join(map(str, sorted({row[key] for row in rows}))) for key in ("seed", "images")
    )
    return f"""# Sweep of the settings

This page is written by the bench; run it again with

    python -m isdo bench --suite sweep {f"{flags} " if flags else ""}--json out/sweep.json --doc docs/sweep.md

Each line changes one setting of the defaults: {defaults}.

The numbers are geometric means of the median RMS error to the converged solution, divided by that of the best baseline in
the same cell (problem, number of calls): below 1 is better than every baseline. The columns by calls weigh the analytic
problems and the zoo alike. Seed {seeds}, Karras's schedule, {images} pictures a problem;
{len(BASELINES) - len(NEVER_BEST)} baselines (Euler and Heun, never the best, are left out).

{listed}

{table(rows)}"""
