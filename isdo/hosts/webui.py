"""ISDO in a WebUI: everything the script sets up, at each load."""

from modules import script_callbacks

from . import inversion, refinement
from .api import add_api
from .page import add_axes, add_options, panel, script_controls
from .picture import before_picture
from .request import INVERT, REFINE, SAMPLER
from .sampler import register

__all__ = [
    "INVERT", "REFINE", "SAMPLER", "before_picture", "install", "inversion", "panel", "refinement", "script_controls",
]  # fmt: skip


def install():
    """Put ISDO into the host's lists and ask to be called for the Settings, the X/Y/Z plot and the
    API."""
    register()
    script_callbacks.on_ui_settings(add_options)
    script_callbacks.on_before_ui(add_axes)
    script_callbacks.on_app_started(begin)


def begin(demo, app):
    """Do what has to wait for the server; the axes again, as without a page nobody asked for them
    before."""
    add_api(demo, app)
    add_axes()
