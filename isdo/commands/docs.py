"""python -m isdo docs: the measured pages of the documentation, each written by the bench; what is
done for the sources as they are is not done again."""

import hashlib
import json
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from .. import files
from ..bench import sources
from . import suites
from .arguments import LABEL, fraction

SUMMARY = "write the measured pages of the documentation"
ROWS, PAGES_FOLDER, STATE = "out/docs", "docs", "state.json"
PHOTOS, JUDGE = "photos", "judge"  # what a page needs beside the package


@dataclass(frozen=True)
class Page:
    """A page and what writes it.

    Args:
        flags: of the bench, the suite first.
        plot: it has a picture, of the page's name.
        needs: PHOTOS and JUDGE, of which its models and its judge are.
        extra: flags of all but the first of the models of photographs; None: ``flags``.
        also: flags of models of photographs, of a page that does not need them and has them, too,
            where they are given.
    """

    flags: str
    plot: bool = False
    needs: tuple = ()
    extra: str | None = None
    also: str | None = None

    @property
    def suite(self):
        """The suite of the bench."""
        return self.flags.split()[0]

    @property
    def probed(self):
        """Whether the suite itself sees which of its rows are still true of other sources."""
        return self.suite in PROBED


PROBED = ("analytic", "zoo", "choice", "img2img", "sets", "frechet", "refine")
_EVERYDAY = "--calls 6 10 20 --samplers dpmpp_2m dpmpp_2m_sde euler_a euler"
PAGES = {
    "choice": Page("choice", plot=True),
    "choice-photographs": Page("choice --guidance 1", plot=True, needs=(PHOTOS,)),
    "photographs": Page(
        "zoo --calls 6 8 10 12 15 --guidance 1 3 7", plot=True, needs=(PHOTOS,),
        extra="zoo --calls 6 8 10 12 15 --guidance 1",
    ),
    "sets": Page(f"sets {_EVERYDAY} --limit 2000", plot=True, needs=(PHOTOS, JUDGE)),
    "refine-photographs": Page("refine --limit 2000", needs=(PHOTOS, JUDGE)),
    "analytic": Page("analytic --calls 5 6 8 10 15 20"),
    "zoo": Page("zoo --calls 6 8 10 15 20"),
    "analytic-bent": Page("analytic --calls 5 6 8 10 15 20 --bend"),
    "zoo-bent": Page("zoo --calls 6 10 20 --bend"),
    "img2img": Page("img2img --calls 6 8 10 15 20"),
    "sweep": Page("sweep"),
    "speed": Page("speed"),
    "ablation": Page(
        "ablation --into docs/experiments.md", also="ablation --into docs/experiments.md --column photographs"
    ),
    "grids": Page("grids"),
    "ceiling": Page("ceiling"),
    "adaptive": Page("adaptive", plot=True),
    "penalty": Page("penalty", plot=True, also="penalty"),
    "trajectory": Page("trajectory", plot=True),
    "invert": Page("inversion", plot=True),
    "frechet": Page("frechet"),
    "refine": Page("refine --all --limit 192"),
}  # fmt: skip


def add_arguments(parser):
    """Give the command's parser its arguments."""
    add = parser.add_argument
    add(
        "--only",
        nargs="+",
        default=[],
        metavar="PAGE",
        help=f"which pages: {', '.join(PAGES)} (all)",
    )
    add(
        "--list",
        action="store_true",
        help="say which are done and how long each took, and write nothing",
    )
    photos = "models of photographs, module:callable; without one their pages are left out"
    add("--photos", nargs="+", default=[], metavar="MODEL", help=photos)
    add("--judge", metavar="JUDGE", help="judge of photographs, module:callable")
    add("--shape", metavar="C,H,W", help="of these photographs, if their model does not say it")
    add(
        "--label",
        **LABEL,
        help="their classes in turn, where no judge says how often each occurs; without, no class is asked for",
    )
    add(
        "--limit",
        type=int,
        metavar="N",
        help="pictures of each problem or set at most (each page's own)",
    )
    add("--minutes", type=fraction(0), help="begin no page after so many minutes (no end)")
    add("--rows", default=ROWS, metavar="DIR", help=f"where rows and times are kept ({ROWS})")
    add("--to", default=PAGES_FOLDER, metavar="DIR", help=f"where the pages go ({PAGES_FOLDER})")


def commands(name, args):
    """Return the command lines, as words after ``python -m isdo``, that write a page: more than one
    where several models share it, which the page then has all."""
    page, rows, pages = PAGES[name], Path(args.rows), Path(args.to)
    target = ["--json", str(rows / f"{name}.json"), "--doc", str(pages / f"{name}.md")]
    target += ["--plot", str(pages / f"{name}.png")] if page.plot else []
    target += ["--limit", str(args.limit)] if args.limit and _takes(page, "limit") else []
    found = [] if page.needs else [["bench", *shlex.split(page.flags), *target]]
    for i, model in enumerate(args.photos if page.needs or page.also else []):
        flags = shlex.split(page.also or (i and page.extra) or page.flags)
        named = ["--model", model, *(["--shape", args.shape] if args.shape else [])]
        if args.judge and _takes(page, JUDGE):  # which says how often each class occurs
            named += ["--judge", args.judge]
        elif args.label:
            named += ["--label", *args.label]
        found.append(["bench", *flags, *named, *target])
    return found


def _takes(page, flag):
    return flag in suites.SUITES[page.suite].flags


def missing(name, args):
    """Return what a page needs and was not given, as flags."""
    return [f"--{need}" for need in PAGES[name].needs if not getattr(args, need)]


def run(args):
    """Write the measured pages of the documentation: those whose sources or command have changed, or that
    were stopped."""
    if unknown := [name for name in args.only if name not in PAGES]:
        raise ValueError(
            f"--only {unknown[0]}: there is no such page: choose of {', '.join(PAGES)}"
        )
    wanted = [name for name in PAGES if not args.only or name in args.only]
    left_out = [name for name in wanted if missing(name, args)]
    wanted = [name for name in wanted if name not in left_out]
    log = Log(Path(args.rows))
    for name in left_out:
        print(f"{name}: left out, it needs {' and '.join(missing(name, args))}")
    todo = [name for name in wanted if not log.done(name, commands(name, args), args)]
    if args.list:
        for name in wanted:
            print(f"{name}: {log.said(name, name not in todo)}\n{_lines(commands(name, args))}")
        return
    for name in (name for name in wanted if name not in todo):
        print(f"{name}: {log.said(name, True)}")
    print(f"{len(todo)} to write, {log.estimate(todo)}", flush=True)
    write(todo, args, log)


def _lines(found):
    return "\n".join(f"    python -m isdo {shlex.join(words)}" for words in found)


def write(todo, args, log):
    """Write pages in turn, saying what each took and what is left; the others are written though one
    fails.

    Raises:
        RuntimeError: some failed.
    """
    files.make_folder(args.rows)
    failed, begun = [], time.monotonic()
    for i, name in enumerate(todo):
        if args.minutes and time.monotonic() - begun > 60 * args.minutes:
            print(f"{len(todo) - i} left: run again to go on")
            break
        print(f"{name}: begun, {log.estimate([name])}", flush=True)
        status, seconds = log.timed(name, commands(name, args), args)
        if status == 130:
            raise KeyboardInterrupt
        failed += [name] if status else []
        rest = (
            f"; {len(todo) - i - 1} left, {log.estimate(todo[i + 1 :])}"
            if i + 1 < len(todo)
            else ""
        )
        print(
            f"{name}: {'failed' if status else 'written'} after {spell(seconds)}{rest}", flush=True
        )
    if failed:
        raise RuntimeError(f"{len(failed)} pages were not written: {', '.join(failed)}")


def call(words):
    """Run a command of the package in a process of its own; returns its exit status. What it would
    print stands in the page."""
    return subprocess.run(
        [sys.executable, "-m", "isdo", *words], stdout=subprocess.DEVNULL, check=False
    ).returncode


class Log:
    """What became of each page: of which sources and commands it is, how many seconds it took.

    Args:
        folder: where it is kept, beside the rows.
    """

    def __init__(self, folder):
        self.file = Path(folder) / STATE
        self.pages = json.loads(self.file.read_text(encoding="utf-8")) if self.file.exists() else {}

    def done(self, name, found, args):
        """Say whether a page is written by these commands, of the sources as they are, and nobody has
        changed it since."""
        known = self.pages.get(name, {})
        made = sources.version(), found, _digest(Path(args.to) / f"{name}.md")
        return known.get("done") and (known["version"], known["commands"], known["page"]) == made

    def timed(self, name, found, args):
        """Run the commands of a page and keep how long they took; returns (exit status, seconds).

        Rows of other sources or commands are gone before, unless the suite sees itself which of
        them hold.
        """
        known, version = self.pages.get(name, {}), sources.version()
        same = (known.get("version"), known.get("commands")) == (version, found)
        rows = Path(args.rows) / f"{name}.json"
        if not same and not PAGES[name].probed:
            rows.unlink(missing_ok=True)
        before = known.get("seconds", 0) if same and not known.get("done") else 0
        entry = {"version": version, "commands": found, "done": False, "page": None}
        entry["last"] = known["seconds"] if known.get("done") else known.get("last")
        start, status = time.monotonic(), 0
        try:
            for words in found:
                status = status or call(words)
        except KeyboardInterrupt:
            status = 130
        entry["seconds"] = before + time.monotonic() - start
        entry["done"], entry["page"] = not status, _digest(Path(args.to) / f"{name}.md")
        self.pages[name] = entry
        files.make_folder(self.file.parent)
        with files.replacing(self.file) as part:
            part.write_text(json.dumps(self.pages, indent=1), encoding="utf-8")
        return status, entry["seconds"]

    def said(self, name, done):
        """Return in words where a page stands."""
        known = self.pages.get(name)
        if known is None:
            return "never written here"
        if done:
            return f"as the sources are, it took {spell(known['seconds'])}"
        if not known["done"]:
            return f"stopped after {spell(known['seconds'])}"
        return f"older than the sources, its command or its text; it took {spell(known['seconds'])}"

    def estimate(self, names):
        """Return in words how long pages will take, from the last time."""
        left, unknown = 0.0, 0
        for name in names:
            known = self.pages.get(name, {})
            last = known.get("seconds") if known.get("done") else known.get("last")
            spent = 0 if known.get("done") else known.get("seconds", 0)
            left, unknown = left + (max(0, last - spent) if last else 0), unknown + (not last)
        if unknown == len(names):
            return (
                "nobody knows how long: it was not measured here yet"
                if names
                else "nothing to wait for"
            )
        return f"about {spell(left)}" + (
            f" and {unknown} that were not measured yet" if unknown else ""
        )


def _digest(path):
    """Return what tells one text of a page from another, None where there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12] if path.exists() else None


def spell(seconds):
    """Return a time in words: seconds below two minutes, minutes below two hours, else hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
