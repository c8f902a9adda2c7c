"""ISDO for AUTOMATIC1111, Forge and their family: the one file that a WebUI runs."""

from pathlib import Path

import isdo

ROOT = Path(__file__).absolute().parents[1]
LOADED = Path(isdo.__file__).absolute().parents[1]
if not LOADED.samefile(ROOT):
    raise ImportError(f"ISDO is here twice, in {LOADED} and in {ROOT}: delete one of the two folders and restart the WebUI")

from isdo.hosts import UnsupportedHost, check_host  # noqa: E402  only once it is clear whose they are

try:
    check_host()
except UnsupportedHost as problem:
    print(f"ISDO: {problem}")
else:
    # All of it now: AUTOMATIC1111 takes this folder off the path once the script is loaded.
    from modules import scripts

    from isdo.hosts import webui

    class IsdoScript(scripts.Script):
        """The accordion, and the arguments that a picture is made with."""

        def title(self):
            return webui.NAME

        def show(self, is_img2img):
            return scripts.AlwaysVisible

        def ui(self, is_img2img):
            return webui.panel(self)

        def process(self, p, *args):
            webui.before_picture(p, args)

    webui.install()
