"""ISDO: a diffusion sampler that measures the spectrum of the picture while it draws it."""

from importlib import import_module

from . import schedules, zoo

__version__ = "0.1.0"
__all__ = [
    "RefineSettings",
    "Refined",
    "Settings",
    "invert",
    "refine",
    "sample_isdo",
    "schedules",
    "zoo",
]
# refine lives in refinement.py: a submodule of its name would take its place here as soon as
# somebody imports it
_HOMES = {
    "RefineSettings": ".settings",
    "Refined": ".refinement",
    "Settings": ".settings",
    "invert": ".inversion",
    "refine": ".refinement",
    "sample_isdo": ".sampling",
}
_ROOMS = (
    "action",
    "probe",
    "process",
    "reference",
)  # whose names are called with the room's before them


def __getattr__(name):  # on first use: reading the zoo or a schedule does not load the sampler
    if name in _ROOMS:
        return import_module(f".{name}", __name__)
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(import_module(_HOMES[name], __name__), name)
    return value
