"""What pyproject.toml says is so: version, command, files that travel, licences of the weights."""

import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest
from safetensors import safe_open

import isdo

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
TOLD = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = TOLD["project"]
WEIGHTS = sorted((ROOT / "isdo").rglob("*.safetensors"))


def test_the_version_stands_in_one_place():
    assert "version" not in PROJECT and PROJECT["dynamic"] == ["version"]
    assert TOLD["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "isdo.__version__"}
    sources = [*(ROOT / "isdo").rglob("*.py"), ROOT / "pyproject.toml"]
    here = [
        p.name
        for p in sources
        if isdo.__version__ in re.findall(r'"([\d.]+)"', p.read_text("utf-8"))
    ]
    assert here == ["__init__.py"]


def test_the_command_is_a_function_that_needs_no_arguments():
    module, _, name = PROJECT["scripts"]["isdo"].partition(":")
    signature = inspect.signature(getattr(import_module(module), name))
    signature.bind()  # as a console script calls it


def test_what_travels_with_the_package_is_there():
    package, patterns = ROOT / "isdo", TOLD["tool"]["setuptools"]["package-data"]["isdo"]
    travels = {path for pattern in patterns for path in package.glob(pattern)}
    assert all(any(package.glob(pattern)) for pattern in patterns)
    others = {p for p in package.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")}
    assert travels == others and package / "py.typed" in travels
    assert all(
        (path / "__init__.py").exists() for path in package.rglob("*") if any(path.glob("*.py"))
    )
    assert (package / "py.typed").read_bytes() == b""  # "partial" would let checkers look elsewhere


@pytest.mark.parametrize("file", WEIGHTS, ids=lambda path: path.name)
def test_the_notice_names_what_the_weights_were_trained_on(file):
    notice = " ".join((ROOT / "NOTICE").read_text(encoding="utf-8").split())
    with safe_open(file, "pt") as opened:
        data = opened.metadata()["data"]
    assert re.search(r"Noto Color Emoji, Copyright Google Inc\., SIL Open Font License 1\.1", data)
    pattern = file.relative_to(ROOT).as_posix()
    assert (
        pattern in notice or f"{file.parent.relative_to(ROOT).as_posix()}/*.safetensors" in notice
    )
    for words in ("Noto Color Emoji: Copyright Google Inc.", "emoji-test.txt: Copyright Unicode", "SIL OPEN FONT LICENSE",
                  "Permission is hereby granted, free of charge, to any person obtaining a copy of the Font Software",
                  'THE FONT SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND'):  # fmt: skip
        assert words in notice


def test_licences_travel():
    assert PROJECT["license"] == "MIT" and not any("License" in c for c in PROJECT["classifiers"])
    assert all((ROOT / name).is_file() for name in PROJECT["license-files"])
    assert {"LICENSE", "NOTICE"} == set(PROJECT["license-files"])


def test_every_python_that_is_named_may_install():
    named = [
        c.rpartition(" ")[2] for c in PROJECT["classifiers"] if re.search(r"Python :: 3\.\d+$", c)
    ]
    assert PROJECT["requires-python"] == f">={named[0]}"
    assert TOLD["tool"]["ruff"]["target-version"] == "py" + named[0].replace(".", "")
    assert TOLD["tool"]["mypy"]["python_version"] == named[0]


@pytest.mark.parametrize("name", ["constraints.txt"])
def test_what_changes_are_checked_with_is_pinned(name):
    pinned = re.findall(r"^([\w.-]+)==", (ROOT / name).read_text(encoding="utf-8"), re.M)
    pinned = {each.lower().replace("_", "-") for each in pinned}
    extras = PROJECT["optional-dependencies"]
    asked = [
        *PROJECT["dependencies"],
        *(each for key in ("bench", "train", "test", "dev") for each in extras[key]),
    ]
    names = {re.match(r"[\w-]+", each)[0].lower() for each in asked} - {"isdo"}
    assert names <= pinned and "k-diffusion" in pinned
