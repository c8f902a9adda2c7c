"""The suites of the bench, as rows: how each is run from the command line, and which flags it has."""

import argparse
import logging
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from tqdm import tqdm

from .. import files, models
from ..bench import report
from ..bench.kept import merged


@dataclass(frozen=True)
class Suite:
    """A row of SUITES.

    Args:
        summary: what it measures.
        run: ``run(args) -> (rows, the page's text)``, of the parsed command line.
        flags: names of `bench.FLAGS` that it has beside those that all have.
        model: what it does with ``--model``; None: it has no such flag.
        guided: ``--guidance`` is for its models of the zoo, too, not only for one of your own.
        several: ``--guidance`` may be several numbers, each measured.
        plot: the module of the bench whose ``plot(rows, file)`` draws its rows; None: nothing to
            draw.
    """

    summary: str
    run: Callable
    flags: tuple = ()
    model: str | None = None
    guided: bool = False
    several: bool = False
    plot: str | None = None


def named(args):
    """Return the models that the command line names, as the suites take them, one of your own with each
    guidance; None: all of the zoo."""
    if getattr(args, "model", None) is None:
        return None
    if not models.is_own(args.model):
        return (args.model,)
    if not isinstance(args.guidance, list):
        return (models.asked(args),)
    first, *others = args.guidance
    given = models.asked(argparse.Namespace(**vars(args) | {"guidance": first}))
    return (given, *(replace(given, guidance=guidance) for guidance in others))


def flags(args):
    """Return the flags that name the model and the judge, to run the same again; None: there are
    none."""
    words = [
        word
        for key in ("model", "judge")
        if (value := getattr(args, key, None))
        for word in (f"--{key}", value)
    ]
    if hasattr(args, "model"):
        words += [word for key, value in args.extra for word in ("--extra", f"{key}={value}")]
        words += ["--shape", ",".join(map(str, args.shape))] if args.shape else []
        words += ["--label", *args.label] if args.label else []
        guidance = args.guidance if isinstance(args.guidance, list) else [args.guidance]
        words += ["--guidance", *(f"{g:g}" for g in guidance)] if args.guidance is not None else []
    return shlex.join(words) or None


def asked_judge(args):
    """Return the judge that the command line names, or None."""
    from ..bench import judge

    return None if args.judge is None else judge.load(args.judge)


def kept(args):
    """Return the rows that an earlier run of the suite left in the file --json names, to go on
    from."""
    rows = report.read_json(args.json) if args.json and Path(args.json).exists() else []
    return [row for row in rows if row.get("bench", row.get("suite")) == args.suite]


def resumed(args, module, run, **bar):
    """Return the rows of a suite that goes on from what is kept and writes down what it has as it
    goes.

    Args:
        module: of the bench, whose KEY names what tells its rows apart.
        run: ``run(progress, reuse=, save=) -> rows``.
        bar: of the progress bar.
    """
    old = kept(args)

    def save(rows):
        if args.json:
            report.write_json(merged(old, rows, module.KEY), args.json)

    rows = run(partial(tqdm, leave=False, **bar), reuse=old, save=save)
    return merged(old, rows, module.KEY)


# ----------------------------------------------------------------------------------------------------------- the suites


def ablation(args):
    from ..bench import ablation

    seed = ablation.SEED if args.seed is None else args.seed
    run = partial(
        ablation.run, seed=seed, limit=args.limit, only=args.only, models=named(args), column=args.column,
    )  # fmt: skip
    if args.into is not None:
        report.check_marks(args.into, ablation.MARK)
    rows = resumed(args, ablation, run, desc="leaving out", unit="problem")
    if args.into is not None:
        report.write_between(ablation.table(rows), args.into, ablation.MARK)
    named_so = flags(args) and shlex.join(["--column", args.column] if args.column else [])
    return rows, ablation.page(rows, named_so and f"{flags(args)} {named_so}" or flags(args))


def accuracy(args):
    from ..bench import problems, work_precision

    own = args.suite == "zoo" and models.is_own(getattr(args, "model", None) or "")
    run = partial(
        work_precision.run, args.suite, calls=args.calls or work_precision.CALLS, seed=args.seed or 0, limit=args.limit,
        only=args.only, device=args.device, bend=args.bend, further=args.all, models=named(args),
        schedules=problems.Problem.offered if own and not args.bend else None,
    )  # fmt: skip
    rows = asked_so(args, resumed(args, work_precision, lambda bar, **kept: run(**kept)))
    return rows, f"{report.page(rows, flags(args), args.doc)}\n\n{report.table(rows)}"


def asked_so(args, rows):
    """Return the rows that are true of the sources as they are, those of this run with the flags that
    named their model: other models' may have come from earlier runs into the same file."""
    from ..bench.sources import version

    rows = [row for row in rows if row.get("version", version()) == version()]
    return [
        row if "asked" in row or not flags(args) else row | {"asked": flags(args)} for row in rows
    ]


def choice(args):
    from ..bench import choice

    run = partial(
        choice.run, args.calls, args.seed or 0, args.limit, only=args.only, device=args.device, models=named(args)
    )  # fmt: skip
    rows = asked_so(args, resumed(args, choice, lambda bar, **kept: run(**kept)))
    return rows, choice.page(rows, flags(args), args.doc)


def speed(args):
    from ..bench import speed

    bar = partial(tqdm, desc="measuring", leave=False)
    rows = (
        speed.run(devices=(args.device,), progress=bar)
        if args.model is None
        else speed.run_with(models.asked(args))
    )
    return rows, speed.page(rows, flags(args))


def sweep(args):
    from ..bench import sweep

    limit, bar = args.limit or sweep.LIMIT, partial(tqdm, unit="problem", leave=False)
    seed = sweep.SEED if args.seed is None else args.seed
    rows = sweep.run(
        bar, seed=seed, limit=limit, only=args.only, reuse=kept(args), models=named(args)
    )
    return rows, sweep.page(rows, flags(args))


def grids(args):
    from ..bench import grids

    return grids.run(
        args.seed or 0, args.limit, args.only or "", device=args.device, models=named(args)
    )


def ceiling(args):
    from ..bench import ceiling

    bar = partial(tqdm, desc="fitting", unit="problem", leave=False)
    return ceiling.run(
        args.seed or 0, args.limit, args.only, args.device, progress=bar, models=named(args)
    )


def refine(args):
    from ..bench import improvement, refined

    judge, model = asked_judge(args), asked_model(args)
    known = refined.lineup()
    if unknown := [name for name in args.samplers or () if name not in known]:
        raise ValueError(
            f"--samplers {unknown[0]}: there is no such method: choose of {', '.join(known)}"
        )
    run = partial(
        improvement.run, model, args.limit or refined.COUNT, args.seed or 0, calls=args.calls,
        methods=args.samplers or (list(known) if args.all else None), guidance=guidance_of(args), judge=judge,
        device=args.device, autocast=args.autocast, batch=args.batch, cache=cache_of(args),
    )  # fmt: skip
    rows = going_on(args, improvement, lambda bar, **kept: run(progress=bar, **kept))
    return rows, improvement.page(rows, drawn_with(args), judge, args.doc)


def adaptive(args):
    from ..bench import adaptive

    run = partial(
        adaptive.run, seed=args.seed or 0, limit=args.limit, only=args.only, device=args.device
    )
    rows = resumed(args, adaptive, run, desc="measuring", unit="problem")
    return rows, adaptive.page(rows)


def trajectory(args):
    from ..bench import trajectory

    run = partial(
        trajectory.run, seed=args.seed or 0, limit=args.limit, only=args.only, device=args.device
    )
    rows = resumed(args, trajectory, run, desc="measuring", unit="problem")
    return rows, trajectory.page(rows)


def inversion(args):
    from ..bench import inversion

    seed = inversion.SEED if args.seed is None else args.seed

    def run(bar, **kept):
        return inversion.run(
            named(args), seed, args.limit, args.only, args.device, progress=bar, **kept
        )

    rows = resumed(args, inversion, run, desc="inverting", unit="case")
    return rows, inversion.page(rows, flags(args))


def penalty(args):
    from ..bench import penalty

    model = None if args.model is None else models.asked(args)
    run = partial(
        penalty.run, model=model, judge=asked_judge(args), seed=args.seed or 0, limit=args.limit, only=args.only,
        device=args.device,
    )  # fmt: skip
    rows = resumed(args, penalty, run, desc="drawing")
    return rows, penalty.page(rows, flags(args))


def sets(args):
    from ..bench import sets, sets_page

    judge, model = asked_judge(args), asked_model(args)

    def run(bar, **kept):
        return sets.run(
            model, suite=args.suite, calls=args.calls, count=args.limit or sets.COUNT, samplers=asked_samplers(args),
            guidance=guidance_of(args), seed=args.seed or 0, judge=judge, device=args.device,
            converged=sets.CONVERGED if not args.samplers or "converged" in args.samplers else 0, autocast=args.autocast,
            progress=bar, batch=args.batch, cache=cache_of(args), **kept,
        )  # fmt: skip

    rows = going_on(args, sets, run)
    return rows, sets_page.page(rows, judge, drawn_with(args), args.suite, args.doc)


def asked_model(args):
    """Return the model that the command line of a suite of sets names: the zoo's by its name."""
    name = args.model or "eps"
    return models.asked(args) if models.is_own(name) else name


def guidance_of(args):
    """Return the guidance of a suite of sets, 1 unless it was asked for."""
    return 1.0 if args.guidance is None else args.guidance


def cache_of(args):
    """Return the folder of drawn batches, made if it is not there: beside the rows; None without
    these."""
    cache = args.cache
    if cache is None and args.json:
        cache = Path(args.json).with_suffix(".batches")
    return cache and files.make_folder(cache)


def going_on(args, module, run):
    """Return the rows of a suite of sets, as `resumed` does; one that is interrupted says what is
    kept."""
    try:
        return resumed(args, module, run, unit="call", unit_scale=True)
    except KeyboardInterrupt:
        if cache := cache_of(args):
            logging.warning(
                "what is drawn is kept in %s: run again to go on, or with a smaller --limit to judge that",
                cache,
            )
        raise


def asked_samplers(args):
    """Return the samplers that the command line asks the suites of sets for, None: theirs.

    Raises:
        ValueError: a name that none has.
    """
    from ..bench import sets

    known = sets.every()
    if not args.samplers:
        return known if args.all else None
    names = dict.fromkeys(
        [sets.OWN, *args.samplers]
    )  # with whose pictures the others' are compared
    if unknown := [name for name in names if name not in known and name != "converged"]:
        raise ValueError(
            f"--samplers {unknown[0]}: there is no such sampler: choose of {', '.join([*known, 'converged'])}"
        )
    return {name: known[name] for name in names if name != "converged"}


def drawn_with(args):
    """Return the flags that say what the suites of sets draw, to run the same again; None: there
    are none."""
    words = [
        word
        for key in ("calls", "samplers")
        if (value := getattr(args, key))
        for word in (f"--{key}", *map(str, value))
    ]
    words += [
        word
        for key in ("autocast", "limit")
        if (value := getattr(args, key))
        for word in (f"--{key}", str(value))
    ]
    said = flags(args) or (words and "--model eps")
    return " ".join([said, shlex.join(words)]).strip() if said else None


PROBLEMS = ("seed", "limit", "only")
SETS = ("seed", "limit", "calls", "all", "samplers", "cache", "batch", "autocast", "judge")
CALLS = ("calls", "all", "bend")
ZOO, EPS, OWN = "all of the zoo", "eps", "a model of your own"
_ANALYTIC = Suite(
    "problems whose denoisers are known exactly", accuracy, PROBLEMS + CALLS, plot="report"
)
_ZOO = Suite("trained models", accuracy, PROBLEMS + CALLS, ZOO, several=True, plot="report")
_SETS = Suite(
    "sets of pictures by everyday samplers", sets, SETS, EPS, guided=True, plot="sets_page"
)
SUITES = {
    "analytic": _ANALYTIC,
    "zoo": _ZOO,
    "choice": replace(
        _ZOO, summary="each sampler on its best schedule", run=choice, flags=(*PROBLEMS, "calls"), plot="choice"
    ),
    "img2img": replace(_ZOO, summary="trained models, from amid a run"),
    "sets": _SETS,
    "frechet": replace(_SETS, summary="sets of pictures by samplers of few calls"),
    "grids": Suite("5 to 8 calls on nine schedules", grids, PROBLEMS, ZOO),
    "speed": Suite("what a step costs by itself", speed, model="the model whose call is timed beside"),
    "sweep": Suite("every setting varied", sweep, PROBLEMS, ZOO),
    "ceiling": Suite("how far weights fitted to a model get", ceiling, PROBLEMS, ZOO),
    "refine": Suite("refinement at equal calls", refine, SETS, EPS, guided=True),
    "adaptive": Suite("solvers that find their own steps", adaptive, PROBLEMS, plot="adaptive"),
    "trajectory": Suite("the whole trajectory at once", trajectory, PROBLEMS, plot="trajectory"),
    "inversion": Suite("from a picture to its noise and back", inversion, PROBLEMS, ZOO, plot="inversion"),
    "ablation": Suite("what each tuned number is worth", ablation, (*PROBLEMS, "column", "into"), ZOO),
    "penalty": Suite("the curvature penalty", penalty, (*PROBLEMS, "judge"), OWN, plot="penalty"),
}  # fmt: skip
