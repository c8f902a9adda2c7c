"""In a WebUI's interpreter, no server and no weights: its loader loads our script, its classes
sample round a known denoiser.

Only what cannot be without weights is replaced: the network, and the moving of weights to the
device. Writes DATA/found.json. usage: python sampling.py WEBUI_DIR CHECKOUT DATA
"""

import contextlib
import json
import os
import sys
from types import SimpleNamespace

WEBUI, ROOT, DATA = sys.argv[1:4]
os.chdir(WEBUI)
sys.path.insert(0, WEBUI)
sys.argv = ["launch.py", "--skip-torch-cuda-test", "--data-dir", DATA, *sys.argv[4:]]
MEAN, SPREAD = 0.2, 0.5


def initialise():
    from modules_forge.initialization import initialize_forge

    initialize_forge()
    from modules import initialize

    initialize.imports()


def fake_model(torch, kind):
    """Return an sd_model whose network is the denoiser of N(MEAN, SPREAD^2), with the host's own
    predictor where it has one.

    ``calls`` lists what the network was asked: sigma, and one number for each prompt (and for each
    of SDXL's vectors).
    """
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    calls = []

    def apply_model(x, t, **conditions):
        given = {
            name: value
            for name, value in conditions.items()
            if name in ("c_crossattn", "y") and value is not None
        }
        calls.append(
            [float(t[0]), {name: value.flatten(1)[:, 0].tolist() for name, value in given.items()}]
        )
        sigma = t.to(x).view(-1, *[1] * (x.ndim - 1))
        signal = 1 - sigma if kind == "flow" else 1
        return MEAN + SPREAD**2 * signal / (SPREAD**2 * signal**2 + sigma**2) * (x - signal * MEAN)

    network = SimpleNamespace(apply_model=apply_model, memory_required=lambda *a, **k: 0)
    try:
        from backend.modules import k_prediction
    except ImportError:
        pass
    else:
        network.predictor = flow_predictor(k_prediction) if kind == "flow" else k_prediction.Prediction(
            sigma_data=1.0, prediction_type="epsilon", beta_schedule="linear", linear_start=0.00085, linear_end=0.012,
            timesteps=1000,
        )  # fmt: skip
    unet = SimpleNamespace(model=network, model_options={"transformer_options": {}})
    unet.controlnet_linked_list = unet.extra_concat_condition = None
    return SimpleNamespace(
        forge_objects=SimpleNamespace(unet=unet), alphas_cumprod=torch.cumprod(1 - betas, 0).float(), parameterization="eps",
        is_sdxl=kind == "sdxl", is_sd3=False, sd_checkpoint_info=None, is_webui_legacy_model=lambda: True, calls=calls,
        device="cpu", model=SimpleNamespace(conditioning_key="crossattn"), cond_stage_key="txt", is_inpaint=False,
    )  # fmt: skip


def flow_predictor(k_prediction):
    try:
        return k_prediction.PredictionDiscreteFlow(shift=3.0)
    except TypeError:  # Forge Neo
        return k_prediction.PredictionDiscreteFlow(
            SimpleNamespace(sampling_settings={"shift": 3.0})
        )


def main():
    initialise()
    import torch
    from modules import (
        prompt_parser,
        rng,
        script_loading,
        scripts,
        sd_models,
        sd_samplers,
        sd_samplers_kdiffusion,
        shared,
    )

    shared.opts.data["live_previews_enable"] = False
    sys.path.insert(0, ROOT)
    loaded = script_loading.load_module(os.path.join(ROOT, "scripts", "isdo_webui.py"))
    sys.path.remove(ROOT)
    sd_samplers_kdiffusion.sampling_prepare = lambda *a, **k: None
    sd_samplers_kdiffusion.sampling_cleanup = lambda *a, **k: None

    def prompt(kind, value):
        text = torch.full((77, 8), float(value))
        return (
            {"crossattn": text, "vector": torch.full((16,), value + 0.5)}
            if kind == "sdxl"
            else text
        )

    def refined(p, samples, conds):
        """Let the accordion's own hooks refine the samples, as the host calls them."""
        p.c, p.uc = conds
        p.subseeds, p.subseed_strength, p.n_iter, p.comment = (
            p.seeds,
            0.0,
            1,
            lambda text: p.comments.append(text),
        )
        p.image_conditioning, p.comments = samples.new_zeros(1, 5, 1, 1), []
        accordion, p.script_args = loaded.RefineAccordion(), (0, True)
        accordion.args_from, accordion.args_to = 1, 2
        accordion.process(p, True)
        accordion.process_batch(p, True, batch_number=0)
        accordion.process_before_every_sampling(p, True)
        ps = scripts.PostSampleArgs(samples)
        accordion.post_sample(p, ps, True)
        return ps.samples

    def run(name, steps, batch=2, scheduler="Karras", kind="eps", refine=False):
        """Sample [1:2:.5] with the negative prompt 0."""
        model = fake_model(torch, kind)
        sd_models.model_data.set_sd_model(model)
        Part = prompt_parser.ScheduledPromptConditioning
        parts = [Part(steps // 2, prompt(kind, 1)), Part(steps, prompt(kind, 2))]
        negative = [[Part(steps, prompt(kind, 0))]] * batch
        composed = [[prompt_parser.ComposableScheduledPromptConditioning(parts, 1.0)]] * batch
        p = SimpleNamespace(
            sampler_name=name, scheduler=scheduler, steps=steps, cfg_scale=3.0, is_hr_pass=False, enable_hr=False, hr_cfg=1.0,
            hr_scheduler=None, sampler_noise_scheduler_override=None, eta=None, s_churn=0.0, s_tmin=0.0, s_tmax=float("inf"),
            s_noise=1.0, s_min_uncond=0.0, extra_generation_params={}, rng=rng.ImageRNG((4, 16, 16), list(range(batch))),
            seeds=[0] * batch, all_seeds=[0] * batch, iteration=0, batch_size=batch, refiner_switch_at=None, scripts=None,
            refiner_checkpoint_info=None, denoising_strength=0.5, sd_model=model, width=128, height=128, tiling=False,
        )  # fmt: skip
        sampler = sd_samplers.create_sampler(name, model)
        noise = p.rng.next()
        with torch.inference_mode(), contextlib.redirect_stdout(sys.stderr):
            conds = prompt_parser.MulticondLearnedConditioning((batch,), composed), negative
            drawn = out = sampler.sample(
                p, noise, *conds, image_conditioning=noise.new_zeros(1, 5, 1, 1)
            )
            if refine:
                out = refined(p, drawn, conds)
        start = sampler.get_sigmas(p, steps)[0]
        signal = 1 - start if kind == "flow" else 1
        exact = (
            MEAN
            + (noise * start - signal * MEAN) * SPREAD / (SPREAD**2 * signal**2 + start**2) ** 0.5
        )
        return {
            "error": float((out - exact).square().mean().sqrt()), "calls": model.calls, "dtype": str(out.dtype),
            "first": out[0].double().sum().item(), "params": p.extra_generation_params,
            "change": float((out - drawn).square().mean().sqrt()),
            "means": float((out - drawn).mean((-2, -1)).abs().max()), "spread": float(out.std()),
            "comments": getattr(p, "comments", []), "steps": shared.state.sampling_steps,
        }  # fmt: skip

    names = [sampler.name for sampler in sd_samplers.all_samplers]
    found = {"names": names.count("ISDO")}
    kinds = {"eps": "Karras", "sdxl": "Karras"}
    if hasattr(sys.modules.get("backend.modules.k_prediction"), "PredictionDiscreteFlow"):
        kinds["flow"] = "Simple"
        found["own grid"] = run("ISDO", 8, scheduler="Automatic", kind="flow")
    for kind, scheduler in kinds.items():
        ask = {"scheduler": scheduler, "kind": kind}
        found[kind] = {
            "isdo": run("ISDO", 8, **ask),
            "alone": run("ISDO", 8, 1, **ask),
            "euler": run("Euler", 8, **ask),
        }
        found[kind]["euler fine"] = run("Euler", 200, **ask)
        found[kind]["refined"] = run("Euler", 12, refine=True, **ask)
        found[kind]["refined alone"] = run("Euler", 12, 1, refine=True, **ask)
    with open(
        os.path.join(DATA, "found.json"), "w"
    ) as file:  # some hosts keep stdout for themselves
        json.dump(found, file)


main()
os._exit(0)  # some hosts leave threads
