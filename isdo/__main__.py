"""python -m isdo {sample,refine,invert,probe,demo,bench,docs,train,info}: the package from the command
line."""

import logging
import sys

from . import __version__
from .commands import bench, demo, docs, info, invert, probe, refine, sample, train
from .commands.arguments import Parser

COMMANDS = {
    module.__name__.rpartition(".")[2]: module
    for module in (sample, refine, invert, probe, demo, bench, docs, train, info)
}


def make_parser():
    """Return the parser of the whole command line."""
    parser = Parser(prog="python -m isdo", description="ISDO, a diffusion sampler.")
    parser.add_argument("--version", action="version", version=f"isdo {__version__}")
    names = f"{{{','.join(COMMANDS)}}}"
    each = parser.add_subparsers(dest="command", required=True, metavar=names)
    for name, command in COMMANDS.items():
        sub = each.add_parser(name, help=command.SUMMARY, description=command.run.__doc__)
        command.add_arguments(sub)
        sub.set_defaults(run=command.run)
    return parser


def one_line(error):
    """Return an error's words in one line, whatever stands in the names that it repeats."""
    return " ".join(str(error).splitlines())


def main(arguments=None):
    """Run the command line; returns the exit status: 0, 1 for a failed run, 2 for wrong input, 130
    when interrupted."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    parser = make_parser()
    words = sys.argv[1:] if arguments is None else list(arguments)
    args = parser.parse_args(bench.with_suite(words))
    try:
        args.run(args)
    except (ValueError, OSError, ImportError) as error:
        print(f"{parser.prog} {args.command}: {one_line(error)}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        print(f"{parser.prog} {args.command}: failed: {one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{parser.prog} {args.command}: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
