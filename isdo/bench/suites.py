"""The suites of the bench, as rows: how each is run from the command line, and which flags it has a
use for."""

import logging
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path

from tqdm import tqdm

from .. import files, models
from . import report


@dataclass(frozen=True)
class Suite:
    """A row of SUITES.

    Args:
        run: ``run(args) -> (rows, the page's text)``, of the parsed command line.
        takes: flags of FLAGS that it has a use for.
        plot: the module of the bench whose ``plot(rows, file)`` draws its rows; None: nothing to
            draw.
    """

    run: Callable
    takes: tuple = ()
    plot: str | None = None


# What a suite is told that has no use for a flag.
FLAGS = {
    "calls": "has its own samplers and calls",
    "all": "has its own samplers and calls",
    "bend": "has its own levels",
    "judge": "judges no sets of pictures",
    **dict.fromkeys(("samplers", "cache", "batch", "autocast"), "draws no sets of pictures"),
}


def named(args):
    """Return the models that the command line names, as the suites take them; None: all of the
    zoo."""
    if args.model is None:
        return None
    return (models.asked(args),) if models.is_own(args.model) else (args.model,)


def flags(args):
    """Return the flags that name the model and the judge, to run the same again; None: there are
    none."""
    words = [
        word
        for key in ("model", "judge")
        if (value := getattr(args, key))
        for word in (f"--{key}", value)
    ]
    words += [word for key, value in args.extra for word in ("--extra", f"{key}={value}")]
    words += ["--shape", ",".join(map(str, args.shape))] if args.shape else []
    words += ["--label", *args.label] if args.label else []
    words += ["--guidance", f"{args.guidance:g}"] if args.guidance is not None else []
    return shlex.join(words) or None


def asked_judge(args):
    """Return the judge that the command line names, or None."""
    from . import judge

    return None if args.judge is None else judge.load(args.judge)


def kept(args):
    """Return the rows that an earlier run of the suite left in the file --json names, to go on
    from."""
    rows = report.read_json(args.json) if args.json and Path(args.json).exists() else []
    return [row for row in rows if row.get("bench") == args.suite]


def resumed(args, module, run, **bar):
    """Return the rows of a suite that goes on from what is kept and writes down what it has as it
    goes.

    Args:
        module: of the bench, whose ``merged(old, new)`` puts rows together.
        run: ``run(progress, reuse=, save=) -> rows``.
        bar: of the progress bar.
    """
    old = kept(args)

    def save(rows):
        if args.json:
            report.write_json(module.merged(old, rows), args.json)

    return module.merged(old, run(partial(tqdm, leave=False, **bar), reuse=old, save=save))


# ----------------------------------------------------------------------------------------------------------- the suites


def accuracy(args):
    from . import work_precision

    rows = work_precision.run(
        args.suite, calls=args.calls or work_precision.CALLS, seed=args.seed or 0, limit=args.limit, only=args.only,
        device=args.device, bend=args.bend, further=args.all, models=named(args),
    )  # fmt: skip
    return rows, f"{report.page(rows, flags(args))}\n\n{report.table(rows)}"


def speed(args):
    from . import speed

    bar = partial(tqdm, desc="measuring", leave=False)
    rows = (
        speed.run(devices=(args.device,), progress=bar)
        if args.model is None
        else speed.run_with(models.asked(args))
    )
    return rows, speed.page(rows, flags(args))


def sweep(args):
    from . import sweep

    limit, bar = args.limit or sweep.LIMIT, partial(tqdm, unit="problem", leave=False)
    seed = sweep.SEED if args.seed is None else args.seed
    rows = sweep.run(
        bar, seed=seed, limit=limit, only=args.only, reuse=kept(args), models=named(args)
    )
    return rows, sweep.page(rows, flags(args))


def grids(args):
    from . import grids

    return grids.run(
        args.seed or 0, args.limit, args.only or "", device=args.device, models=named(args)
    )


def ceiling(args):
    from . import ceiling

    bar = partial(tqdm, desc="fitting", unit="problem", leave=False)
    return ceiling.run(
        args.seed or 0, args.limit, args.only, args.device, progress=bar, models=named(args)
    )


def refine(args):
    from . import improvement

    bar, judge = partial(tqdm, desc="refining", leave=False), asked_judge(args)
    model = models.asked(args) if models.is_own(args.model or "eps") else args.model or "eps"
    rows = improvement.run(
        model, args.limit or improvement.COUNT, args.seed or 0, bar, judge=judge, device=args.device
    )
    return rows, improvement.page(rows, flags(args), judge)


def adaptive(args):
    from . import adaptive

    run = partial(
        adaptive.run, seed=args.seed or 0, limit=args.limit, only=args.only, device=args.device
    )
    rows = resumed(args, adaptive, run, desc="measuring", unit="problem")
    return rows, adaptive.page(rows)


def trajectory(args):
    from . import trajectory

    run = partial(
        trajectory.run, seed=args.seed or 0, limit=args.limit, only=args.only, device=args.device
    )
    rows = resumed(args, trajectory, run, desc="measuring", unit="problem")
    return rows, trajectory.page(rows)


def inversion(args):
    from . import inversion

    seed = inversion.SEED if args.seed is None else args.seed

    def run(bar, **kept):
        return inversion.run(
            named(args), seed, args.limit, args.only, args.device, progress=bar, **kept
        )

    rows = resumed(args, inversion, run, desc="inverting", unit="case")
    return rows, inversion.page(rows, flags(args))


def penalty(args):
    from . import penalty

    model = None if args.model is None else models.asked(args)
    run = partial(
        penalty.run, model=model, judge=asked_judge(args), seed=args.seed or 0, limit=args.limit, only=args.only,
        device=args.device,
    )  # fmt: skip
    rows = resumed(args, penalty, run, desc="drawing")
    return rows, penalty.page(rows, flags(args))


def sets(args):
    from . import sets, sets_page

    judge, cache = asked_judge(args), args.cache
    if cache is None and args.json:
        cache = Path(args.json).with_suffix(".batches")
    model = models.asked(args) if models.is_own(args.model or "eps") else args.model or "eps"

    def run(bar, **kept):
        return sets.run(
            model, suite=args.suite, calls=args.calls, count=args.limit or sets.COUNT, samplers=asked_samplers(args),
            guidance=1.0 if args.guidance is None else args.guidance, seed=args.seed or 0, judge=judge, device=args.device,
            converged=sets.CONVERGED if not args.samplers or "converged" in args.samplers else 0, autocast=args.autocast,
            progress=bar, batch=args.batch, cache=cache and files.make_folder(cache), **kept,
        )  # fmt: skip

    try:
        rows = resumed(args, sets, run, unit="call", unit_scale=True)
    except KeyboardInterrupt:
        if cache:
            logging.warning(
                "what is drawn is kept in %s: run again to go on, or with a smaller --limit to judge that",
                cache,
            )
        raise
    return rows, sets_page.page(rows, judge, drawn_with(args), args.suite)


def asked_samplers(args):
    """Return the samplers that the command line asks the suites of sets for, None: theirs.

    Raises:
        ValueError: a name that none has.
    """
    from . import sets

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


_ACCURACY = Suite(accuracy, ("calls", "all", "bend"), plot="report")
_SETS = Suite(
    sets,
    ("calls", "all", "judge", "samplers", "cache", "batch", "autocast", "guidance"),
    plot="sets_page",
)
SUITES = {
    "analytic": _ACCURACY, "zoo": _ACCURACY, "img2img": _ACCURACY,
    "sets": _SETS, "frechet": _SETS,
    "grids": Suite(grids),
    "speed": Suite(speed),
    "sweep": Suite(sweep),
    "ceiling": Suite(ceiling),
    "refine": Suite(refine, ("judge",)),
    "adaptive": Suite(adaptive, plot="adaptive"),
    "trajectory": Suite(trajectory, plot="trajectory"),
    "inversion": Suite(inversion, plot="inversion"),
    "penalty": Suite(penalty, ("judge",), plot="penalty"),
}  # fmt: skip


def those_with(flag):
    """Return in words which suites have a use for a flag."""
    names = [name for name, suite in SUITES.items() if flag in suite.takes]
    return (
        f"suite {names[0]}"
        if len(names) == 1
        else f"suites {', '.join(names[:-1])} and {names[-1]}"
    )


def check(args):
    """Refuse what is said to a suite that has no use for it, before the work begins.

    Raises:
        ValueError: it was said.
    """
    suite, own = SUITES[args.suite], args.model is not None and models.is_own(args.model)
    for flag, why in FLAGS.items():
        if getattr(args, flag) and flag not in suite.takes:
            raise ValueError(f"--{flag} is for the {those_with(flag)}: {args.suite} {why}")
    if args.plot is not None and suite.plot is None:
        raise ValueError(
            f"--plot draws error or distance against calls: the suite {args.suite} has none"
        )
    if args.model is not None and args.suite == "analytic":
        raise ValueError(
            "the suite analytic has denoisers in closed form: leave out --model, or take the suite zoo"
        )
    if not own:
        for flag in ("extra", "shape", "label"):
            if getattr(args, flag):
                raise ValueError(
                    f"--{flag} is for a model of your own: name it by --model module:callable"
                )
        if args.suite == "penalty" and args.model is not None:
            raise ValueError(
                "the suite penalty has its own models: leave out --model, or name one of your own"
            )
        if args.guidance is not None and "guidance" not in suite.takes:
            whose = f"the {those_with('guidance')}, or a model of your own"
            raise ValueError(f"--guidance is for {whose}: {args.suite} has its own")
    for file in (args.json, args.plot, args.doc):
        if file is not None:
            files.check_target(file)
    if args.plot is not None:
        report.check_plot(args.plot)


def bench(args):
    """Measure, print the tables, and write the rows and the plot where asked."""
    check(args)
    suite = SUITES[args.suite]
    rows, text = suite.run(args)
    print(text)
    if args.json is not None:
        report.write_json(rows, args.json)
    if args.doc is not None:
        report.write_page(text, args.doc)
    if args.plot is not None:
        import_module(f".{suite.plot}", __package__).plot(rows, args.plot)
