"""isdo docs: what it writes, leaves out, goes on with and says, with a bench that writes a line."""

import json
from pathlib import Path

import pytest
from commandline import run

from isdo.__main__ import make_parser
from isdo.bench import sources
from isdo.commands import bench, docs, suites


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """The commands that were run, each of which takes a minute; what a command returns is ``calls.status``."""

    class Calls(list):
        status, clock = 0, 0.0

    made = Calls()

    def call(words):
        made.append(words)
        made.clock += 60
        if made.status == 0:
            target = Path(words[words.index("--doc") + 1])
            target.parent.mkdir(exist_ok=True)
            target.write_text(f"written {len(made)}\n")
        if made.status == "stop":
            raise KeyboardInterrupt
        return made.status

    monkeypatch.setattr(docs, "call", call)
    monkeypatch.setattr(docs.time, "monotonic", lambda: made.clock)
    monkeypatch.setattr(docs.sources, "version", lambda: made.version)
    made.version = "1"
    monkeypatch.chdir(tmp_path)
    return made


def pages(calls):
    return [Path(words[words.index("--doc") + 1]).stem for words in calls]


@pytest.mark.parametrize("name", docs.PAGES)
def test_every_page_s_command_is_one_of_the_bench(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("out/docs", "docs"):
        Path(folder).mkdir(parents=True)
    asked = [
        "docs",
        "--photos",
        "a:b",
        "a:c",
        "--judge",
        "a:d",
        "--shape",
        "3,32,32",
        "--limit",
        "4",
    ]
    found = docs.commands(name, make_parser().parse_args(asked))
    assert len(found) == {"ablation": 3, "penalty": 3}.get(name, 2 if docs.PAGES[name].needs else 1)
    takes = docs.JUDGE in suites.SUITES[docs.PAGES[name].suite].flags
    for words in found:
        assert ("--judge" in words) == (takes and "--model" in words)
        args = make_parser().parse_args(bench.with_suite(words))
        bench.check(args)
        assert args.suite in suites.SUITES
        assert args.json == f"out/docs/{name}.json" and args.doc == f"docs/{name}.md"
        assert getattr(args, "plot", None) == (
            f"docs/{name}.png" if docs.PAGES[name].plot else None
        )
        assert getattr(args, "limit", 4) == 4


def test_what_is_done_is_not_done_again_until_sources_or_the_page_change(capsys, calls):
    assert run(capsys, "docs", "--only", "zoo", "sweep")[0] == 0
    assert pages(calls) == ["zoo", "sweep"]
    status, printed, _ = run(capsys, "docs", "--only", "zoo", "sweep")
    assert status == 0 and len(calls) == 2
    assert "zoo: as the sources are, it took 60 s" in printed and "0 to write" in printed
    Path("docs/zoo.md").write_text("by hand")
    run(capsys, "docs", "--only", "zoo", "sweep")
    assert pages(calls[2:]) == ["zoo"]
    calls.version = "2"
    status, printed, _ = run(capsys, "docs", "--only", "zoo", "sweep")
    assert pages(calls[3:]) == ["zoo", "sweep"] and "2 to write, about 2 min" in printed


def test_rows_of_other_sources_go_unless_the_suite_looks_at_them_itself(capsys, calls):
    run(capsys, "docs", "--only", "zoo", "sweep")
    rows = {name: Path(f"out/docs/{name}.json") for name in ("zoo", "sweep")}
    for file in rows.values():
        file.write_text("[]")
    calls.version = "2"
    run(capsys, "docs", "--only", "zoo", "sweep")
    assert rows["zoo"].exists() and not rows["sweep"].exists()


def test_a_run_that_is_stopped_goes_on_with_its_rows_and_time(capsys, calls):
    run(capsys, "docs", "--only", "sweep")
    calls.version, calls.status = "2", "stop"
    assert run(capsys, "docs", "--only", "sweep", "grids")[0] == 130
    rows = Path("out/docs/sweep.json")
    rows.write_text("[]")
    status, printed, _ = run(capsys, "docs", "--only", "sweep", "--list")
    assert status == 0 and "sweep: stopped after 60 s" in printed and len(calls) == 2
    assert "python -m isdo bench sweep" in printed
    calls.status = 0
    status, printed, _ = run(capsys, "docs", "--only", "sweep")
    assert rows.exists() and "written after 2 min" in printed  # both parts


def test_one_that_fails_does_not_keep_the_others_from_being_written(capsys, calls):
    calls.status = 1
    status, printed, error = run(capsys, "docs", "--only", "sweep", "grids")
    assert status == 1 and "2 pages were not written: sweep, grids" in error
    assert "sweep: failed after 60 s; 1 left" in printed and len(calls) == 2
    calls.status = 0
    run(capsys, "docs", "--only", "sweep", "grids")
    assert len(calls) == 4


def test_photographs_are_left_out_in_words_and_measured_by_every_model_that_is_given(capsys, calls):
    status, printed, _ = run(capsys, "docs", "--only", "photographs", "sets")
    assert status == 0 and not calls
    assert "photographs: left out, it needs --photos" in printed
    assert "sets: left out, it needs --photos and --judge" in printed
    assert (
        run(capsys, "docs", "--only", "photographs", "--photos", "m:load", "m:load(path='flow')")[0]
        == 0
    )
    assert [words[words.index("--model") + 1] for words in calls] == [
        "m:load",
        "m:load(path='flow')",
    ]
    assert not any("--label" in words for words in calls)
    first, second = (words[words.index("--guidance") :] for words in calls)
    assert first[:4] == ["--guidance", "1", "3", "7"] and second[:3] == [
        "--guidance",
        "1",
        "--model",
    ]


def test_classes_are_asked_for_where_no_judge_says_them(calls, capsys):
    named = ("--photos", "m:load", "--judge", "m:Judge", "--shape", "3,8,8", "--label", "3", "5")
    assert run(capsys, "docs", "--only", "photographs", "sets", *named)[0] == 0
    first, second = calls
    assert first[first.index("--label") + 1 :][:2] == ["3", "5"] and "--judge" not in first
    assert second[second.index("--judge") + 1] == "m:Judge" and "--label" not in second


def test_no_page_is_begun_after_the_time_is_up(capsys, calls):
    status, printed, _ = run(
        capsys, "docs", "--only", "sweep", "grids", "ceiling", "--minutes", "1.5"
    )
    assert status == 0 and len(calls) == 2 and "1 left: run again to go on" in printed


def test_a_page_that_there_is_not_is_told(capsys, calls):
    status, _, error = run(capsys, "docs", "--only", "nothing")
    assert status == 2 and "--only nothing: there is no such page: choose of" in error and not calls


def test_the_version_is_that_of_the_sources(tmp_path):
    (tmp_path / "bench").mkdir()
    for name in ("run.py", "bench/sets.py", "bench/notes.txt"):
        (tmp_path / name).write_text("a = 1\n")
    sources.version.cache_clear()
    first = sources.version(tmp_path)
    changes = {"bench/notes.txt": True, "bench/sets.py": False, "run.py": False}
    for name, same in changes.items():
        (tmp_path / name).write_text("a = 2\n")
        sources.version.cache_clear()
        assert (sources.version(tmp_path) == first) is same
        (tmp_path / name).write_text("a = 1\n")
    sources.version.cache_clear()
    assert sources.version(tmp_path) == first == sources.version(str(tmp_path))


@pytest.mark.parametrize(
    "seconds, said",
    [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "120 min"), (9000, "2.5 h")],
)
def test_a_time_is_said_in_the_unit_that_fits(seconds, said):
    assert docs.spell(seconds) == said


def test_what_is_kept_can_be_read_by_people(capsys, calls):
    run(capsys, "docs", "--only", "grids")
    kept = json.loads(Path("out/docs/state.json").read_text())
    assert (
        kept["grids"]["version"] == "1" and kept["grids"]["seconds"] == 60 and kept["grids"]["done"]
    )
