"""python -m isdo bench: measure ISDO against other samplers; a parser for each suite."""

from importlib import import_module

from .. import files, models
from . import suites
from .arguments import LABEL, device, fraction, whole

SUMMARY = "measure ISDO against other samplers"
DEFAULT = "analytic"

EVERY = ("json", "doc", "device")  # flags of every suite
FLAGS = {
    "json": {"metavar": "FILE", "help": "write the rows there; most suites go on from what it holds"},
    "doc": {
        "metavar": "FILE",
        "help": "write what is printed there, as markdown",
    },
    "plot": {
        "metavar": "FILE",
        "help": "draw error, or the distance of sets, against model calls there (png, svg or pdf)",
    },
    "calls": {
        "type": whole(1), "nargs": "+", "metavar": "N",
        "help": "model calls of a run (analytic, zoo, img2img: 5 to 30; choice, frechet: 6 to 15; sets: 16 to 50; refine: 24)",
    },
    "bend": {"action": "store_true", "help": "give all samplers the levels that ISDO makes of each schedule"},
    "all": {"action": "store_true", "help": "also the samplers that the pages have not measured yet"},
    "samplers": {"nargs": "+", "metavar": "NAME", "help": "which (those of the suite's page)"},
    "cache": {"metavar": "DIR", "help": "where drawn batches are kept, to go on from (beside --json)"},
    "batch": {"type": whole(1), "help": "pictures in a network call (CPU: 50, else 250)"},
    "autocast": {
        "choices": ["bfloat16", "float16"], "metavar": "DTYPE", "help": "run the model in bfloat16 or float16",
    },
    "seed": {"type": whole(0), "help": "of problems and noise (that of the suite's page)"},
    "limit": {"type": whole(1), "help": "pictures of each problem at most"},
    "only": {"default": "", "help": "part of the name of the problems wanted"},
    "column": {"metavar": "NAME", "help": "what the table calls a model of your own (its name)"},
    "into": {"metavar": "FILE", "help": "put the table into this page, between its two lines <!-- ablation -->"},
    "judge": {"metavar": "JUDGE", "help": "a file that train --model classifier wrote, or module:callable"},
}  # fmt: skip


def add_arguments(parser):
    """Give the command's parser a parser for each suite."""
    parser.description += (
        f"\n\n--suite SUITE says the same as SUITE; {DEFAULT} if both are left out."
    )
    each = parser.add_subparsers(dest="suite", required=True, metavar="SUITE")
    for name, suite in suites.SUITES.items():
        sub = each.add_parser(name, help=suite.summary, description=f"Measure: {suite.summary}.")
        plot = ("plot",) if suite.plot else ()
        for flag in EVERY + plot + suite.flags:
            sub.add_argument(f"--{flag}", **(device() if flag == "device" else FLAGS[flag]))
        if suite.model:
            add_model(sub.add_argument, suite)


def add_model(add, suite):
    """Give a suite's parser the flags that name a model and say how it is asked."""
    models.add_flags(add, None, suite.model)
    classes = "of a model of your own: numbers of classes, or its names, of the pictures in turn"
    add("--label", **LABEL, help=classes)
    guided = "1: none (the default)" if suite.guided else "of a model of your own"
    many = {"nargs": "+", "metavar": "G"} if suite.several else {}
    add("--guidance", type=fraction(0), help=guided + (", several: each" if many else ""), **many)


def with_suite(words):
    """Return the words of a command line with the suite of the bench, however it was named, where
    its parser is looked for: as the first argument."""
    if words[:1] != ["bench"]:
        return words
    command, *rest = words
    for i, word in enumerate(rest):
        if word == "--suite" and rest[i + 1 :]:
            return [command, rest[i + 1], *rest[:i], *rest[i + 2 :]]
        if word.startswith("--suite="):
            return [command, word.partition("=")[2], *rest[:i], *rest[i + 1 :]]
    if not rest or (rest[0].startswith("-") and rest[0] not in ("-h", "--help")):
        return [command, DEFAULT, *rest]
    return words


def check(args):
    """Refuse what makes no sense together, before the work begins.

    Raises:
        ValueError: what, and what to do.
    """
    suite = suites.SUITES[args.suite]
    if suite.model and not models.is_own(args.model or ""):
        for flag in ("extra", "shape", "label"):
            if getattr(args, flag):
                raise ValueError(
                    f"--{flag} is for a model of your own: name it by --model module:callable"
                )
        if suite.model == suites.OWN and args.model is not None:
            raise ValueError(
                f"the suite {args.suite} has its own models: leave out --model, or name one of your own"
            )
        if args.guidance is not None and not suite.guided:
            raise ValueError(
                f"--guidance is for a model of your own: the suite {args.suite} has its own"
            )
    plot = getattr(args, "plot", None)
    for file in (args.json, plot, args.doc):
        if file is not None:
            files.check_target(file)
    if plot is not None:
        from ..bench import report

        report.check_plot(plot)


def run(args):
    """Measure, print the tables, and write the rows and the plot where asked."""
    from ..bench import report

    check(args)
    suite = suites.SUITES[args.suite]
    rows, text = suite.run(args)
    print(text)
    if args.json is not None:
        report.write_json(rows, args.json)
    if args.doc is not None:
        report.write_page(text, args.doc)
    if getattr(args, "plot", None) is not None:
        import_module(f"..bench.{suite.plot}", __package__).plot(rows, args.plot)
