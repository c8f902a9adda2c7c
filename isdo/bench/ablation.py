"""What each tuned number of the core is worth: the error when it is left out, relative to the
defaults', on problems on which nothing was chosen."""

import hashlib
import itertools
import math
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial

import torch

from ..answers import NotFinite
from ..sampling import sample_isdo
from ..solver import SOLVERS
from . import sweep
from .kept import by_key, key_of
from .problems import rms
from .report import markdown
from .work_precision import LARGEST, SMALLEST, geometric_mean, limited

CALLS, LIMIT = (6, 10, 20), 4
GUIDANCE = ("guidance 1", "guidance 3", "guidance 7")
SEED = 11  # none on which a number was chosen
SCHEDULE = "karras"
SOLVER = "multistep"
MARK = "<!-- ablation -->"  # the table stands between two of these
SUITES = ("analytic", "zoo")  # the columns that there always are, then those of models of one's own
NEGLIGIBLE = 1.01  # a number whose absence costs no more than this anywhere earns nothing
KEY = ("suite", "problem", "path", "grid", "calls", "seed", "images", "fingerprint", "tuned")


@dataclass(frozen=True)
class Variant:
    """The core's numbers with one of them left out.

    Args:
        name: of the number; "": none is left out, these are the defaults.
        value: what it is set to instead.
        tuned: all of them, as the solver takes them.
    """

    name: str
    value: object
    tuned: object

    @property
    def digest(self):
        """A word that stands for all of the numbers: rows of others are not taken for these."""
        return hashlib.sha256(repr(self.tuned).encode()).hexdigest()[:12]


def defaults():
    """Return the core's table of tuned numbers: a frozen dataclass whose fields' metadata say
    ``without``, ``says`` and ``chosen``."""
    from ..multistep.tuned import TUNED

    return TUNED


def alternatives(field):
    """Return the values that leave a number out: what stands in ``without``, or each of the tuple
    that does, where the number itself is none or is a tuple and these are, too."""
    without = field.metadata["without"]
    several = isinstance(without, tuple) and (
        not isinstance(field.default, tuple) or all(isinstance(each, tuple) for each in without)
    )
    return without if several else (without,)


def variants(tuned):
    """Return the Variants: the defaults first, then every number left out in each of its ways."""
    return [Variant("", None, tuned)] + [
        Variant(field.name, value, replace(tuned, **{field.name: value}))
        for field in fields(tuned)
        for value in alternatives(field)
    ]


@contextmanager
def solving_with(tuned):
    """Have ISDO's solver take these numbers as long as the block runs."""
    row = SOLVERS[SOLVER]
    SOLVERS[SOLVER] = replace(row, make=partial(row.make, tuned=tuned))
    try:
        yield
    finally:
        SOLVERS[SOLVER] = row


def errors(problem, variant, calls):
    """Return the RMS error of each picture (B floats) after so many model calls on SCHEDULE; a run
    that ends in no numbers has a large one."""
    with torch.no_grad(), solving_with(variant.tuned):
        sigmas = problem.schedules()[SCHEDULE](calls)
        try:
            x = sample_isdo(problem.model, problem.x, sigmas, problem.extra_args, disable=True)
        except NotFinite:
            return [LARGEST] * len(problem.x)
    found = rms(x - problem.reference())
    return found.nan_to_num(nan=LARGEST, posinf=LARGEST).clamp(max=LARGEST).tolist()


def run(
    progress=iter,
    calls=CALLS,
    *,
    seed=SEED,
    limit=None,
    only="",
    reuse=(),
    save=None,
    models=None,
    column=None,
    tuned=None,
):
    """Measure the defaults and every variant on the problems of the suite sweep, default settings.

    Args:
        progress: wraps the list of problems, such as tqdm.
        calls: model calls that each may make.

    Rarely needed:
        seed: of problems and noise.
        limit: pictures of each problem at most; LIMIT if left out.
        only: part of the name of the problems wanted.
        reuse: rows of an earlier run; what they hold of the same numbers and problems is not run
            again.
        save: called with the rows so far, again and again.
        models: as for `sweep.makers`: instead of the analytic problems and the zoo.
        column: what the table calls models of somebody's own; their names if left out.
        tuned: the table of numbers; the core's if left out.

    Returns:
        Rows: one for each variant, problem and number of calls, with the errors of its pictures.
    """
    known, rows, chosen = by_key(reuse, KEY), [], variants(tuned or defaults())
    for suite, make in progress(sweep.makers(seed, models, GUIDANCE)):
        case = limited(make(), limit or LIMIT)
        if only not in case.name:
            continue
        if models is not None and case.name in {getattr(model, "title", None) for model in models}:
            suite = column or case.name
        for variant, n in itertools.product(chosen, calls):
            values = (suite, case.name, case.path, SCHEDULE, n, seed, len(case.x), case.fingerprint)
            row = dict(zip(KEY, (*values, variant.digest), strict=True))
            if (found := known.get(key_of(row, KEY))) is None:
                about = {"name": variant.name, "value": repr(variant.value)}
                found = {"bench": "ablation", **row, **about, "errors": errors(case, variant, n)}
            rows.append(found)
            if save is not None:
                save(rows)
    return rows


@dataclass(frozen=True)
class Worth:
    """What leaving a number out costs: geometric means of the error relative to the defaults', by
    column, and the worst cell."""

    means: dict
    worst: dict

    @property
    def negligible(self):
        """Whether it costs next to nothing in every column."""
        return all(mean <= NEGLIGIBLE for mean in self.means.values())


def worth(rows, tuned, variant):
    """Return the Worth of a Variant; None: no row of it beside one of the defaults.

    Pictures are compared with themselves: a cell's ratio is the geometric mean over its pictures.
    """
    found = defaultdict(dict)
    for row in rows:
        found[_cell(row)][row["tuned"]] = row["errors"]
    ends, by_suite = (Variant("", None, tuned).digest, variant.digest), defaultdict(list)
    for cell, errors_of in found.items():
        if all(end in errors_of for end in ends):
            pairs = zip(*(errors_of[end] for end in ends), strict=True)
            ratio = geometric_mean(max(b, SMALLEST) / max(a, SMALLEST) for a, b in pairs)
            by_suite[cell[0]].append(dict(zip(KEY, cell, strict=False)) | {"ratio": ratio})
    if not by_suite:
        return None
    means = {name: geometric_mean(c["ratio"] for c in group) for name, group in by_suite.items()}
    worst = max(itertools.chain(*by_suite.values()), key=lambda cell: cell["ratio"])
    return Worth(means, worst)


def _cell(row):
    return tuple(row[name] for name in KEY[:-1])


def columns(rows):
    """Return the columns of the table: the suites, then models of one's own as they came."""
    return list(dict.fromkeys([*SUITES, *(row["suite"] for row in rows)]))


def table(rows, tuned=None):
    """Return the markdown table: a line for each number and way to leave it out."""
    tuned = tuned or defaults()
    names, by_name, body = columns(rows), {field.name: field for field in fields(tuned)}, []
    for variant in variants(tuned)[1:]:
        field, found = by_name[variant.name], worth(rows, tuned, variant)
        cells = [""] * (len(names) + 1)
        if found:
            worst = (
                f"{found.worst['ratio']:.2f} ({found.worst['problem']} ({found.worst['path']}), "
            )
            cells = [f"{found.means[name]:.3f}" if name in found.means else "" for name in names]
            cells.append(f"{worst}{found.worst['calls']} calls)")
        says, chosen = (field.metadata[key] for key in ("says", "chosen"))
        value, without = told(getattr(tuned, variant.name)), told(variant.value)
        body.append([f"`{variant.name}`", value, says, chosen, without, *cells])
    head = ["number", "value", "what it does", "chosen on", "left out by", *names, "worst cell"]
    return markdown(head, body)


def told(value):
    """Return a number, or several, as a table has them."""
    if isinstance(value, (tuple, list)):
        return ", ".join(told(each) for each in value)
    return f"{value:g}" if isinstance(value, float) and math.isfinite(value) else str(value)


def idle(rows, tuned=None):
    """Return the names of the numbers some way of leaving which out costs next to nothing in every
    column there is."""
    tuned = tuned or defaults()
    found = [(v.name, worth(rows, tuned, v)) for v in variants(tuned)[1:]]
    return list(dict.fromkeys(name for name, each in found if each and each.negligible))


def page(rows, flags=None, tuned=None):
    """Return the page of the docs: what was done, the table, how to do it again, the
    last time with the ``flags``."""
    tuned = tuned or defaults()
    known = {variant.digest for variant in variants(tuned)}
    rows = [row for row in rows if row["tuned"] in known]
    problems = {name: {} for name in columns(rows)}
    for row in rows:
        problems[row["suite"]][f"{row['problem']} ({row['path']})"] = True
    listed = "\n".join(f"- {name}: {'; '.join(each)}" for name, each in problems.items() if each)
    seeds, images, calls = (
        ", ".join(map(str, sorted({row[key] for row in rows})))
        for key in ("seed", "images", "calls")
    )
    command = (
        "python -m isdo bench --suite ablation --json out/ablation.json --doc docs/ablation.md"
    )
    spare = ", ".join(f"`{name}`" for name in idle(rows, tuned)) or "none"
    return f"""# What each tuned number is worth

This page is written by the bench; run it again with

    {command}{f"{chr(10)}    {command} {flags}" if flags else ""}

Each line leaves out one number of the core's table (`isdo/multistep/tuned.py`). Ratios are geometric means of (error without
it) / (error of the defaults), picture by picture: above 1 the number earns its keep. RMS errors to the converged solution
after {calls} calls on Karras's schedule, settings by default, {images} pictures a problem, seed {seeds}, on which no number
was chosen. With so few pictures 2 % mean little.

{listed}

{table(rows, tuned)}

Left out at a cost of less than {NEGLIGIBLE - 1:.0%} in every column that is measured: {spare}."""
