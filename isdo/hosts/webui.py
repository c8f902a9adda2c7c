"""ISDO in a WebUI: everything the script sets up, at each load."""

from modules import script_callbacks

from . import refinement
from .api import add_api
from .page import add_axes, add_options, panel, script_controls
from .picture import before_picture
from .request import REFINE, SAMPLER
from .sampler import register

__all__ = ["REFINE", "SAMPLER", "before_picture", "install", "panel", "refinement", "script_controls"]


def install():
    """Put ISDO into the host's lists and ask to be called for the Settings, the X/Y/Z plot and the API."""
    register()
    script_callbacks.on_ui_settings(add_options)
    script_callbacks.on_before_ui(add_axes)
    script_callbacks.on_app_started(add_api)
