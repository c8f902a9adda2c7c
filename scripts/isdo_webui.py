"""ISDO for AUTOMATIC1111, Forge and their family: the one file that a WebUI runs."""

from pathlib import Path

import isdo

ROOT = Path(__file__).absolute().parents[1]
LOADED = Path(isdo.__file__).absolute().parents[1]
if not LOADED.samefile(ROOT):
    raise ImportError(
        f"ISDO is here twice, in {LOADED} and in {ROOT}: delete one of the two folders and restart the WebUI"
    )

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
            return webui.SAMPLER.name

        def show(self, is_img2img):
            return scripts.AlwaysVisible

        def ui(self, is_img2img):
            return webui.panel(self, webui.SAMPLER)

        def process(self, p, *args):
            webui.before_picture(p, args)

    class RefineAccordion(scripts.Script):
        """The accordion that refines finished pictures. First of the two of that title: the API
        takes the first it finds."""

        def title(self):
            return webui.REFINE.name

        def show(self, is_img2img):
            return scripts.AlwaysVisible

        def ui(self, is_img2img):
            return webui.panel(self, webui.REFINE)

        def process(self, p, *args):
            webui.refinement.before_picture(p, self, args)

        def process_batch(self, p, *args, batch_number, **kwargs):
            webui.refinement.before_batch(p, batch_number)

        def process_before_every_sampling(self, p, *args, **kwargs):
            webui.refinement.before_sampling(p)

        def before_hr(self, p, *args):
            webui.refinement.before_hires(p)

        def post_sample(self, p, ps, *args):
            webui.refinement.after_sampling(p, ps)

        def postprocess(self, p, processed, *args):
            webui.refinement.after_picture(p, processed)

    class RefineScript(scripts.Script):
        """The entry in img2img's list of scripts."""

        def title(self):
            return webui.REFINE.name

        def show(self, is_img2img):
            return is_img2img

        def ui(self, is_img2img):
            return webui.script_controls(self, webui.REFINE)

        def run(self, p, *args):
            return webui.refinement.run_script(p, args)

    class InvertScript(scripts.Script):
        """The entry in img2img's list of scripts that draws from the picture's own noise."""

        def title(self):
            return webui.INVERT.name

        def show(self, is_img2img):
            return is_img2img

        def ui(self, is_img2img):
            return webui.script_controls(self, webui.INVERT)

        def run(self, p, *args):
            return webui.inversion.run_script(p, args)

    webui.install()
