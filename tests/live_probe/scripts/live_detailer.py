"""A detailer for the live tests: draws each finished picture again, with the scripts and the
arguments of the first."""

from copy import copy

import gradio as gr
from modules import processing, scripts


class LiveDetailer(scripts.Script):
    def title(self):
        return "Live detailer"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        return [gr.Checkbox(False, label="Live detailer", elem_id=self.elem_id("enable"))]

    def postprocess_image(self, p, pp, enabled):
        if not enabled or getattr(p, "live_detail", False):
            return
        detail = processing.StableDiffusionProcessingImg2Img(
            sd_model=p.sd_model, prompt=p.prompt, negative_prompt=p.negative_prompt, seed=p.all_seeds[0], steps=6,
            sampler_name=p.sampler_name, cfg_scale=p.cfg_scale, width=p.width, height=p.height, init_images=[pp.image],
            denoising_strength=0.4, do_not_save_samples=True, do_not_save_grid=True, outpath_samples=p.outpath_samples,
            outpath_grids=p.outpath_grids,
        )  # fmt: skip
        detail.live_detail = True
        detail.scripts, detail.script_args = copy(p.scripts), copy(p.script_args)
        pp.image = processing.process_images(detail).images[0]
