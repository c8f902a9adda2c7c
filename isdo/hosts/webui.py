"""ISDO in a WebUI: everything the script sets up, at each load."""

from modules import script_callbacks

from .api import add_api
from .page import add_axes, add_options, panel
from .picture import before_picture
from .request import NAME
from .sampler import register

__all__ = ["NAME", "before_picture", "install", "panel"]


def install():
    """Put ISDO into the host's lists and ask to be called for the Settings, the X/Y/Z plot and the API."""
    register()
    script_callbacks.on_ui_settings(add_options)
    script_callbacks.on_before_ui(add_axes)
    script_callbacks.on_app_started(add_api)
