"""Architecture, rules 1 to 3: what importing loads, who may import what, no cycles."""

import ast
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "isdo"
EDGES = (
    "isdo/ui.py", "isdo/hosts/", "isdo/zoo/", "isdo/bench/", "isdo/commands/", "isdo/gallery.py", "isdo/picture.py",
    "isdo/latents.py", "isdo/models.py", "isdo/__main__.py", "isdo/__init__.py",
)  # fmt: skip
HOST = ("isdo/hosts/", "scripts/", "tests/live_probe/")
MAY_IMPORT = {  # top-level package: where
    "modules": HOST,
    "modules_forge": HOST,
    "backend": HOST,
    "fastapi": HOST,
    "gradio": ("isdo/ui.py", *HOST),
    "k_diffusion": ("isdo/bench/baselines.py", "isdo/hosts/", "tests/"),
}


class Import(NamedTuple):
    level: int  # leading dots
    module: str  # "" in `from . import name`
    names: tuple  # () in `import module`


def imports(source):
    """Return every import of a file, those inside functions too."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [Import(0, alias.name, ()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append(
                Import(node.level, node.module or "", tuple(alias.name for alias in node.names))
            )
    return found


def files(*folders):
    return {
        p.relative_to(ROOT).as_posix(): p for f in folders for p in sorted((ROOT / f).rglob("*.py"))
    }


OURS = files("isdo")
ALL = files("isdo", "scripts", "tests")


def inside(name, places):
    return any(name == place or place.endswith("/") and name.startswith(place) for place in places)


def dotted(name):
    """Return the module name of a file of the package."""
    return name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def targets(name, found):
    """Return the modules of the package that a relative import brings in."""
    package = dotted(name) if name.endswith("__init__.py") else dotted(name).rpartition(".")[0]
    parts = package.split(".")
    base = ".".join(
        parts[: len(parts) - found.level + 1] + ([found.module] if found.module else [])
    )
    known = {dotted(other) for other in OURS}
    return {f"{base}.{n}" if f"{base}.{n}" in known else base for n in found.names}


def test_the_reader_of_imports_sees_all_kinds():
    source = "import a.b, c\ndef f():\n    from .. import d as e\n    from .g import h, i\nfrom j import *"
    assert sorted(imports(source)) == [
        (0, "a.b", ()), (0, "c", ()), (0, "j", ("*",)), (1, "g", ("h", "i")), (2, "", ("d",)),
    ]  # fmt: skip
    assert targets("isdo/zoo/train.py", Import(1, "", ("data",))) == {"isdo.zoo.data"}
    assert targets("isdo/zoo/train.py", Import(1, "", ("load_trunk",))) == {"isdo.zoo"}
    assert targets("isdo/zoo/__init__.py", Import(2, "denoiser", ("Denoiser",))) == {
        "isdo.denoiser"
    }


def after(code):
    """Return what a fresh interpreter prints that has run the code."""
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return out.stdout.split()


def test_importing_isdo_loads_torch_and_no_host_and_nothing_heavy():
    heavy = {*MAY_IMPORT, "scipy", "matplotlib", "PIL", "fontTools", "uharfbuzz", "safetensors"}
    code = f"import sys, isdo; print(*[m for m in {sorted(heavy)} if m in sys.modules], 'torch' in sys.modules)"
    assert after(code) == ["True"]


NAMES = {"RefineSettings", "Refined", "Settings", "invert", "refine", "sample_isdo"}
ROOMS = {"action", "probe", "process", "protocols", "reference", "schedules", "zoo"}


def test_importing_isdo_gives_the_public_names():
    import isdo

    assert set(isdo.__all__) == NAMES | ROOMS <= set(dir(isdo))
    assert all(isinstance(getattr(isdo, name), ModuleType) for name in ROOMS)
    assert all(callable(getattr(isdo, name)) for name in NAMES)
    with pytest.raises(AttributeError, match="'isdo' has no attribute 'sampel_isdo'"):
        _ = isdo.sampel_isdo


def test_a_fresh_dir_lists_every_public_name():
    assert NAMES | ROOMS <= set(after("import isdo; print(*dir(isdo))"))


def test_the_sampler_is_there_at_once_and_the_zoo_when_it_is_asked_for():
    loaded = "[m for m in ('isdo.sampling', 'isdo.zoo', 'isdo.bench') if m in sys.modules]"
    assert after(f"import sys, isdo; print(*{loaded})") == ["isdo.sampling"]
    code = f"import sys, isdo; isdo.zoo.NAMES; print(*{loaded})"
    assert after(code) == ["isdo.sampling", "isdo.zoo"]
    assert after("from isdo import *; print(zoo.NAMES[0], sample_isdo.__name__)") == [
        "eps",
        "sample_isdo",
    ]


@pytest.mark.parametrize("name", ALL)
def test_who_may_import_what(name):
    for found in imports(ALL[name].read_text(encoding="utf-8")):
        top = found.module.partition(".")[0]
        assert "*" not in found.names, f"{name}: star import of {found.module}"
        if not found.level:
            assert inside(name, MAY_IMPORT.get(top, (name,))), f"{name} may not import {top}"
            assert top != "isdo" or not name.startswith("isdo/"), f"{name}: write a relative import"


@pytest.mark.parametrize("name", [name for name in OURS if not inside(name, EDGES)])
def test_numerics_import_torch_and_each_other(name):
    found = imports(OURS[name].read_text(encoding="utf-8"))
    outside = {f.module.partition(".")[0] for f in found if not f.level} - sys.stdlib_module_names
    # the entry points show progress, as every k-diffusion sampler does; the settings are read where
    # there is no torch
    entries = (
        "isdo/sampling.py",
        "isdo/run.py",
        "isdo/refinement.py",
        "isdo/inversion.py",
        "isdo/sweeps.py",
    )
    shows = dict.fromkeys(entries, {"torch", "numpy", "tqdm"})
    # numpy is a dependency, too: tables of a schedule are computed with it, on the CPU
    allowed = {"isdo/settings.py": set(), **shows}.get(name, {"torch", "numpy"})
    assert outside <= allowed
    for module in set().union(*(targets(name, f) for f in found if f.level)):
        path = module.replace(".", "/")
        assert not inside(f"{path}.py", EDGES) and not inside(f"{path}/", EDGES), (
            f"{name} imports the edge {module}"
        )


def test_there_is_no_import_cycle():
    graph = {
        dotted(name): set().union(
            *(targets(name, f) for f in imports(path.read_text(encoding="utf-8")) if f.level)
        )
        for name, path in OURS.items()
    }
    done, open_ = set(), []

    def visit(module):
        assert module not in open_, (
            f"import cycle: {' -> '.join([*open_[open_.index(module) :], module])}"
        )
        if module not in done:
            open_.append(module)
            for other in sorted(graph.get(module, ())):
                visit(other)
            done.add(open_.pop())

    for module in sorted(graph):
        visit(module)
