"""ISDO, a diffusion sampler for few model calls: it calls the model where the picture changes
fastest, corrects each step at no extra call, and is exact on whatever is Gaussian."""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from . import schedules
from .inversion import invert
from .refinement import Refined, refine
from .sampling import sample_isdo
from .settings import RefineSettings, Settings

if TYPE_CHECKING:
    from . import action, probe, process, protocols, reference, zoo

__version__ = "0.1.0"
__all__ = [
    "RefineSettings",
    "Refined",
    "Settings",
    "action",
    "invert",
    "probe",
    "process",
    "protocols",
    "reference",
    "refine",
    "sample_isdo",
    "schedules",
    "zoo",
]
# Rooms whose names are called with the room's before them. They are loaded on first use: who
# samples needs no zoo.
_ROOMS = ("action", "probe", "process", "protocols", "reference", "zoo")

if not TYPE_CHECKING:  # a checker would take any name for one that is here

    def __getattr__(name: str) -> ModuleType:
        if name not in _ROOMS:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return import_module(f".{name}", __name__)


def __dir__() -> list[str]:
    return sorted({*globals(), *_ROOMS})
