"""A small double of AUTOMATIC1111 and of Forge: the names, signatures and habits that the plugin
depends on.

`test_host_double.py` compares it with snapshots of six real ones, and with that which WEBUI_DIR
names.
"""

import functools
import importlib.util
import inspect
import sys
from collections import namedtuple
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch

import isdo

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "isdo_webui.py"
SIGMA_MIN, SIGMA_MAX = 0.03, 14.6
MEAN, POWER = 0.3, 0.25  # of the Gaussian latents that the double's model knows


class Interrupted(BaseException):
    pass


# ------------------------------------------------------------------------------------------------ gradio and fastapi


class Component:
    """Stands for any gradio component; remembers what it was given."""

    def __init__(self, *args, **kwargs):
        self.value = args[0] if args else kwargs.get("value")
        self.label, self.elem_id = kwargs.get("label"), kwargs.get("elem_id")
        self.given, self.events = kwargs, {}

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def listen(self, event, fn, inputs, outputs):
        self.events.setdefault(event, []).append((fn, inputs, outputs))

    def change(self, fn, inputs, outputs, **_):
        self.listen("change", fn, inputs, outputs)

    def input(self, fn, inputs, outputs, **_):
        self.listen("input", fn, inputs, outputs)

    def click(self, fn, inputs, outputs, **_):
        self.listen("click", fn, inputs, outputs)

    def happens(self, event, value=None):
        """Let a person do something with it, or a change of its value come about; what follows,
        follows."""
        if event == "input":
            self.value = value
            self.happens("change")
        for fn, inputs, outputs in self.events.get(event, ()):
            given = fn(*(each.value for each in inputs))
            given = given if len(outputs) > 1 else [given]
            assert len(given) == len(outputs)
            for each, update in zip(outputs, given, strict=True):
                each.take(update)

    def take(self, update):
        """Take a value, or gradio's word for what becomes of it."""
        update = update if isinstance(update, Update) else Update(value=update)
        self.given.update({key: value for key, value in update.items() if key != "value"})
        if "value" in update and update["value"] != self.value:
            self.value = update["value"]
            self.happens("change")


class Update(dict):
    """What gr.update returns."""


def gradio():
    names = (
        "Accordion",
        "Button",
        "Checkbox",
        "Dropdown",
        "Markdown",
        "Number",
        "Row",
        "Slider",
        "State",
        "Textbox",
    )
    made = {name: type(name, (Component,), {}) for name in names}
    warnings = []
    return {**made, "update": Update, "Warning": warnings.append, "warnings": warnings}


class HTTPException(Exception):
    def __init__(self, status_code, detail=None):
        super().__init__(status_code, detail)
        self.status_code, self.detail = status_code, detail


# ----------------------------------------------------------------------------------------------------------- the model


class Wrapped:
    """The k-diffusion wrapper round the checkpoint; AUTOMATIC1111's kind."""

    def __init__(self, checkpoint):
        self.inner_model = checkpoint
        self.sigmas = (
            torch.linspace(SIGMA_MIN**0.25, SIGMA_MAX**0.25, 1000, dtype=torch.float64)
            .pow(4)
            .float()
        )

    def get_sigmas(self, n):
        at = torch.linspace(len(self.sigmas) - 1, 0, n).long()
        return torch.cat([self.sigmas[at], torch.zeros(1)])

    def denoise(self, x, sigma):
        sigma = sigma.reshape(-1, *[1] * (x.ndim - 1)).to(x)
        return MEAN + POWER / (POWER + sigma**2) * (x - MEAN)


class Predictor:
    """Forge's predictor: prediction_type says "const" for flow models."""

    def __init__(self, prediction_type):
        self.prediction_type = prediction_type

    def noise_scaling(self, sigma, noise, latent_image, max_denoise=False):
        if self.prediction_type == "const":
            return sigma * noise + (1 - sigma) * latent_image
        return noise * sigma + latent_image


class Linked(Wrapped):
    """Forge's schedule linker round the predictor."""

    def __init__(self, checkpoint, predictor):
        super().__init__(checkpoint)
        self.predictor = predictor
        if predictor.prediction_type == "const":
            self.sigmas = torch.arange(1, 1001) / 1000

    @property
    def sigma_min(self):
        raise TypeError(
            "'Tensor' object is not callable"
        )  # the predictor's is a number, and the linker calls it

    def get_sigmas(self, n):
        if self.predictor.prediction_type == "const":
            return torch.linspace(9999, 0, n + 1)  # what Flux gives on Forge
        return super().get_sigmas(n)

    def denoise(self, x, sigma):
        if self.predictor.prediction_type != "const":
            return super().denoise(x, sigma)
        sigma = sigma.reshape(-1, *[1] * (x.ndim - 1)).to(x)
        signal = 1 - sigma
        return MEAN + POWER * signal / (POWER * signal**2 + sigma**2) * (x - signal * MEAN)


class CFGDenoiser:
    """Counts its calls in ``step``, keeps the masked area, stops when asked to."""

    def __init__(self, sampler):
        self.sampler, self.p, self.model_wrap = sampler, None, None
        self.mask = self.nmask = self.init_latent = self.steps = self.total_steps = None
        self.step = 0

    @property
    def inner_model(self):
        if self.model_wrap is None:
            self.model_wrap = self.sampler.host.wrap()
        return self.model_wrap

    def __call__(self, x, sigma, uncond, cond, cond_scale, s_min_uncond, image_cond):
        host = self.sampler.host
        seen = SimpleNamespace(
            step=self.step,
            total=self.total_steps,
            sigma=float(sigma[0]),
            x=x.clone(),
            masked=self.mask,
        )
        seen.scale = cond_scale
        seen.prompts = (
            None
            if cond is None
            else [at_step(part.schedules, self.step) for parts in cond.batch for part in parts]
        )
        seen.negative = (
            None if uncond is None else [at_step(schedule, self.step) for schedule in uncond]
        )
        seen.image_cond, seen.half = (
            image_cond,
            torch.mm(*torch.ones(2, 1, 1)).dtype == torch.bfloat16,
        )
        host.seen.append(seen)
        if host.interrupt_at is not None and len(host.seen) > host.interrupt_at:
            host.state.interrupted = True
        if (
            host.stop_at is not None and len(host.seen) > host.stop_at
        ):  # a click, where the host counts more jobs than one
            host.state.stopping_generation = True
        if host.skip_at is not None and len(host.seen) > host.skip_at:
            host.state.skipped, host.skip_at = True, None
        if host.state.interrupted or host.state.skipped:
            raise Interrupted
        if host.nan_at is not None and len(host.seen) > host.nan_at:
            x = x * torch.nan
        if host.refine_at == self.step:
            self.model_wrap = None
        if self.mask is not None and host.forge:
            noise = torch.randn_like(self.init_latent)
            noised = self.inner_model.predictor.noise_scaling(
                sigma.view(-1, 1, 1, 1), noise, self.init_latent
            )
            x = x * self.nmask + noised * self.mask
        denoised = self.inner_model.denoise(x, sigma)
        if (
            host.forge and self.mask is not None
        ):  # a network mixes its pixels: what is kept shows in what is painted
            denoised = denoised + 0.3 * x.mean((-2, -1), keepdim=True)
        if self.mask is not None:
            denoised = denoised * self.nmask + self.init_latent * self.mask
        self.sampler.last_latent = denoised
        self.step += 1
        return denoised


def at_step(schedule, step):
    """Return the prompt of a step; beyond the end it is the first, as in the hosts."""
    return next((text for end, text in schedule if step <= end), schedule[0][1])


class Conds:
    """A prompt that changes: [(last step of it, text), ...] for each picture."""

    def __init__(self, schedules):
        self.batch = [[SimpleNamespace(schedules=schedule, weight=1.0)] for schedule in schedules]


# ---------------------------------------------------------------------------------------------------------- the modules

SamplerDataTuple = namedtuple("SamplerData", ["name", "constructor", "aliases", "options"])


class SamplerData(SamplerDataTuple):
    def total_steps(self, steps):
        return steps * 2 if self.options.get("second_order", False) else steps


@dataclass
class Scheduler:
    name: str
    label: str
    function: object
    default_rho: float = -1
    need_inner_model: bool = False
    aliases: list = None


class OptionInfo:
    def __init__(
        self,
        default=None,
        label="",
        component=None,
        component_args=None,
        onchange=None,
        section=None,
    ):
        self.default, self.label, self.component, self.component_args = (
            default,
            label,
            component,
            component_args,
        )
        self.section, self.category_id = section, None


class Categories:
    """The headings of the Settings page."""

    def __init__(self):
        self.mapping = {}

    def register_category(self, category_id, label):
        self.mapping.setdefault(category_id, label)


class Options(SimpleNamespace):
    def add_option(self, key, info):
        self.labels[key] = info
        if not hasattr(self, key):
            setattr(self, key, info.default)


class Script:
    is_img2img, infotext_fields = False, ()

    def run(self, p, *args):
        pass

    def process(self, p, *args):
        pass

    def process_batch(self, p, *args, **kwargs):
        pass

    def process_before_every_sampling(self, p, *args, **kwargs):
        pass

    def before_hr(self, p, *args):
        pass

    def post_sample(self, p, ps, *args):
        pass

    def postprocess_image(self, p, pp, *args):
        pass

    def postprocess(self, p, processed, *args):
        pass

    def elem_id(self, item_id):
        tab = (
            ("img2img_" if self.is_img2img else "txt2img_")
            if self.show(True) == self.show(False)
            else ""
        )
        return f"script_{tab}{self.title().lower().replace(' ', '_')}_{item_id}"


class AxisOption:
    def __init__(
        self,
        label,
        type,
        apply,
        format_value=None,
        confirm=None,
        cost=0.0,
        choices=None,
        prepare=None,
    ):
        self.label, self.type, self.apply, self.confirm, self.choices = (
            label,
            type,
            apply,
            confirm,
            choices,
        )


def setup_img2img_steps(p, steps=None):
    if steps is not None:
        return (
            int(steps / min(p.denoising_strength, 0.999)) if p.denoising_strength > 0 else 0
        ), steps - 1
    return p.steps, int(min(p.denoising_strength, 0.999) * p.steps)


def karras(n, sigma_min, sigma_max, device):
    ramp = torch.linspace(sigma_max ** (1 / 7), sigma_min ** (1 / 7), n).pow(7)
    return torch.cat([ramp, torch.zeros(1)])


def stops_above_zero(n, sigma_min, sigma_max, device):
    return torch.linspace(sigma_max, sigma_min, n + 1)  # KL Optimal's habit


def too_high(n, sigma_min, sigma_max, device):
    return karras(n, 0.03, 14.6, device)  # Align Your Steps' habit on flow models


class Host:
    """A WebUI in a test: ``forge`` chooses the family, ``prediction`` the model, ``schedules``
    whether there is a list."""

    def __init__(
        self, forge=False, prediction="epsilon", schedules=True, more_samplers=False, half=False
    ):
        self.forge, self.prediction, self.predictor = forge, prediction, Predictor(prediction)
        self.more_samplers, self.half = more_samplers, half
        self.seen, self.interrupt_at, self.refine_at, self.scripts_data = [], None, None, []
        self.skip_at = self.nan_at = self.stop_at = None
        self.state, self.total_tqdm, self.saved, self.reported = State(), TotalTQDM(), [], []
        self.callbacks = {"on_app_started": [], "on_before_ui": [], "on_ui_settings": []}
        self.opts = Options(
            labels={}, always_discard_next_to_last_sigma=False, sgm_noise_multiplier=False
        )
        vars(self.opts).update(enable_pnginfo=True, samples_format="png", sigma_min=0, sigma_max=0)
        self.modules = self.make_modules(schedules)

    def wrap(self):
        checkpoint = SimpleNamespace()
        return Linked(checkpoint, self.predictor) if self.forge else Wrapped(checkpoint)

    def make_modules(self, schedules):
        host, module = self, {}

        def new(name, **content):
            module[name] = made = ModuleType(name)
            vars(made).update(content)
            return made

        euler = SamplerData(
            "Euler", lambda model: KDiffusionSampler(sample_euler, model), ["k_euler"], {}
        )
        heun = SamplerData(
            "Heun",
            lambda model: KDiffusionSampler(sample_heun, model),
            ["k_heun"],
            {"second_order": True},
        )
        sde_options = {"solver_type": "heun", "brownian_noise": True}
        sde = SamplerData(
            "SDE", lambda model: KDiffusionSampler(sample_sde, model), ["k_sde"], sde_options
        )
        fast = SamplerData(
            "DPM fast", lambda model: KDiffusionSampler(sample_fast, model), ["k_fast"], {}
        )
        others = (
            {each.name: each for each in (euler, heun, sde, fast)}
            if self.more_samplers
            else {"Euler": euler}
        )
        all_samplers = list(others.values())
        listed = [Scheduler("automatic", "Automatic", None), Scheduler("karras", "Karras", karras)]
        listed += [
            Scheduler("kl", "KL Optimal", stops_above_zero),
            Scheduler("ays", "Align Your Steps", too_high),
        ]
        schedulers_map = {key: each for each in listed for key in (each.name, each.label)}

        class KDiffusionSampler:
            def __init__(self, funcname, sd_model, options=None):
                self.host, self.funcname, self.func, self.config, self.p = (
                    host,
                    funcname,
                    funcname,
                    None,
                    None,
                )
                self.model_wrap_cfg = CFGDenoiser(self)
                self.model_wrap = self.model_wrap_cfg.inner_model
                self.last_latent = None

            def get_sigmas(self, p, steps):
                discard = host.opts.always_discard_next_to_last_sigma
                steps += discard
                name = p.hr_scheduler if p.is_hr_pass else p.scheduler
                name = self.config.options.get("scheduler") if name in (None, "Automatic") else name
                scheduler = schedulers_map.get(name)
                if p.sampler_noise_scheduler_override:
                    sigmas = p.sampler_noise_scheduler_override(steps)
                elif scheduler is None or scheduler.function is None:
                    sigmas = self.model_wrap.get_sigmas(steps)
                else:
                    table = self.model_wrap.sigmas
                    inner = {"inner_model": self.model_wrap} if scheduler.need_inner_model else {}
                    low, high = (
                        host.opts.sigma_min or table[0].item(),
                        host.opts.sigma_max or table[-1].item(),
                    )
                    sigmas = scheduler.function(
                        n=steps, sigma_min=low, sigma_max=high, device="cpu", **inner
                    )
                    p.extra_generation_params["Schedule type"] = scheduler.label
                return torch.cat([sigmas[:-2], sigmas[-1:]]) if discard else sigmas

            def noised(self, image, noise, sigma):
                if host.forge:
                    return self.model_wrap.predictor.noise_scaling(sigma, noise, image)
                return image + noise * sigma

            def sample_img2img(
                self,
                p,
                x,
                noise,
                conditioning,
                unconditional_conditioning,
                steps=None,
                image_conditioning=None,
            ):
                steps, t_enc = setup_img2img_steps(p, steps)
                sigmas = self.get_sigmas(p, steps)[steps - t_enc - 1 :]
                self.model_wrap_cfg.init_latent = x
                given = conditioning, unconditional_conditioning, image_conditioning
                return self.run(p, self.noised(x, noise, sigmas[0]), sigmas, t_enc + 1, *given)

            def sample(
                self,
                p,
                x,
                conditioning,
                unconditional_conditioning,
                steps=None,
                image_conditioning=None,
            ):
                steps = steps or p.steps
                sigmas = self.get_sigmas(p, steps)
                scale = (1 + sigmas[0] ** 2).sqrt() if host.opts.sgm_noise_multiplier else sigmas[0]
                return self.run(
                    p,
                    x * scale,
                    sigmas,
                    steps,
                    conditioning,
                    unconditional_conditioning,
                    image_conditioning,
                )

            def run(self, p, x, sigmas, steps, cond, uncond, image_cond):
                self.last_latent = x
                scale = getattr(p, "cfg_scale", 7.0)
                names = {
                    "uncond": uncond,
                    "cond": cond,
                    "cond_scale": scale,
                    "s_min_uncond": 0.0,
                    "image_cond": image_cond,
                }
                given = self.initialize(p)
                if "sigmas" in inspect.signature(self.func).parameters:
                    given["sigmas"] = sigmas
                if self.config.options.get("brownian_noise"):
                    given["noise_sampler"] = lambda *_: torch.ones_like(x)
                if self.config.options.get("solver_type"):
                    given["solver_type"] = self.config.options["solver_type"]
                # by name at this moment, as the hosts hand it over
                kind = {
                    "extra_args": names,
                    "disable": True,
                    "callback": self.callback_state,
                    **given,
                }
                return self.launch_sampling(
                    steps, lambda: self.func(self.model_wrap_cfg, x, **kind)
                )

            def launch_sampling(self, steps, func):
                self.model_wrap_cfg.steps, self.model_wrap_cfg.total_steps = (
                    steps,
                    self.config.total_steps(steps),
                )
                host.state.sampling_steps, host.state.sampling_step = steps, 0
                try:
                    return func()
                except Interrupted:
                    return self.last_latent

            def initialize(self, p):
                self.p = self.model_wrap_cfg.p = p
                self.model_wrap_cfg.mask, self.model_wrap_cfg.nmask, self.model_wrap_cfg.step = (
                    p.mask,
                    p.nmask,
                    0,
                )
                return (
                    {"s_noise": 1.0} if "s_noise" in inspect.signature(self.func).parameters else {}
                )

            def callback_state(self, d):
                host.steps_done.append(d)
                host.state.sampling_step = d["i"]
                host.total_tqdm.update()

        new(
            "modules.scripts", Script=Script, AlwaysVisible=object(), scripts_data=self.scripts_data
        )
        new(
            "modules.script_callbacks",
            **{name: found.append for name, found in self.callbacks.items()},
        )
        new(
            "modules.shared", opts=self.opts, OptionInfo=OptionInfo, options_section=None, state=self.state,
            total_tqdm=self.total_tqdm, cmd_opts=SimpleNamespace(no_half=False),
        )  # fmt: skip
        new("modules.options", **({"categories": Categories()} if schedules else {}))
        on, off = (
            functools.partial(torch.autocast, "cpu", torch.bfloat16, enabled)
            for enabled in (True, False)
        )
        on, off = (on, off) if self.half else (nullcontext, nullcontext)
        new("modules.devices", unet_needs_upcast=False, autocast=on, without_autocast=off)
        new(
            "modules.errors",
            report=lambda message, *, exc_info=False: self.reported.append(message),
        )
        new("modules.images", save_image=self.save_image)
        new("modules.rng", ImageRNG=ImageRNG)
        new(
            "modules.processing",
            process_images=self.process_images,
            create_infotext=create_infotext,
        )
        new(
            "modules.sd_samplers_common", SamplerData=SamplerData, setup_img2img_steps=setup_img2img_steps,
            InterruptedException=Interrupted,
        )  # fmt: skip
        new(
            "modules.sd_samplers_kdiffusion",
            KDiffusionSampler=KDiffusionSampler,
            k_diffusion_samplers_map=dict(others),
        )
        samplers = new(
            "modules.sd_samplers",
            all_samplers=all_samplers,
            all_samplers_map=dict(others),
            samplers_map={},
        )

        def find_sampler_config(name):
            return all_samplers[0] if name is None else samplers.all_samplers_map.get(name)

        def set_samplers():
            samplers.samplers_map.clear()
            for sampler in all_samplers:
                samplers.samplers_map.update(
                    {name.lower(): sampler.name for name in (sampler.name, *sampler.aliases)}
                )

        @functools.cache
        def get_sampler_and_scheduler(sampler_name, scheduler_name):
            name = sampler_name
            for scheduler in listed:
                for ending in (scheduler.label, scheduler.name, *(scheduler.aliases or [])):
                    name = name.removesuffix(f" {ending}")
            return samplers.all_samplers_map.get(name, all_samplers[0]).name

        vars(samplers).update(
            find_sampler_config=find_sampler_config, set_samplers=set_samplers,
            get_sampler_and_scheduler=get_sampler_and_scheduler, create_sampler=self.create_sampler,
            sample_to_image=lambda samples, index=0, approximation=None: Image(samples[index]),
        )  # fmt: skip
        if schedules:
            new(
                "modules.sd_schedulers",
                Scheduler=Scheduler,
                schedulers=listed,
                schedulers_map=schedulers_map,
            )
        accordion = type("InputAccordion", (Component,), {})
        new("modules.ui_components", InputAccordion=accordion)
        parent = new("modules", __path__=[])
        for name in [name for name in module if name != "modules"]:
            setattr(parent, name.removeprefix("modules."), module[name])
        new("gradio", **gradio())
        new("fastapi", HTTPException=HTTPException)
        self.steps_done = []
        return module

    @contextmanager
    def running(self):
        """Let the plugin import this host; afterwards nothing of it is left."""
        ours = [name for name in sys.modules if name.startswith("isdo.hosts") or name == "isdo.ui"]
        hosts = [
            name for name in sys.modules if name.split(".")[0] in ("modules", "gradio", "fastapi")
        ]
        gone = {name: sys.modules.pop(name) for name in (*ours, *hosts)}
        for name in ("ui", "hosts"):  # an import from the package would find the other host's there
            vars(isdo).pop(name, None)
        sys.modules.update(self.modules)
        try:
            yield self
        finally:
            for name in list(sys.modules):
                if name in self.modules or name.startswith("isdo.hosts") or name == "isdo.ui":
                    del sys.modules[name]
            sys.modules.update(gone)

    def load(self, path=SCRIPT):
        """Run the script as the host does: under the name of its file, not in sys.modules."""
        spec = importlib.util.spec_from_file_location(path.name, path)
        self.script = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.script)
        return self.script

    def ui(self):
        """Do what the host does when it builds the page."""
        for name in ("on_ui_settings", "on_before_ui"):
            for callback in self.callbacks[name]:
                callback()

    def generate(self, p, args=()):
        """Make the latents of one picture, first pass and hires, and leave the infotext's
        parameters on p."""
        script = self.script.IsdoScript()
        script.process(p, *args)
        x = torch.stack(
            [
                torch.randn(p.shape, generator=torch.Generator().manual_seed(seed))
                for seed in p.seeds
            ]
        )
        self.seen.clear()
        self.steps_done.clear()
        sampler = self.create(p.sampler_name)
        if p.init_latent is not None:
            return sampler.sample_img2img(p, p.init_latent, x, None, None)
        samples = sampler.sample(p, x, None, None)
        if p.enable_hr:
            p.is_hr_pass = True
            sampler = self.create(p.hr_sampler_name or p.sampler_name)
            samples = sampler.sample_img2img(p, samples, x, None, None, steps=p.steps)
        return samples

    def create(self, name):
        return self.create_sampler(name, None)

    def create_sampler(self, name, model):
        config = self.modules["modules.sd_samplers"].find_sampler_config(name)
        sampler = config.constructor(model)
        sampler.config = config
        return sampler

    def save_image(
        self, image, path, basename, seed=None, prompt=None, extension="png", info=None, p=None, forced_filename=None,
        suffix="", save_to_dirs=None,
    ):  # fmt: skip
        name = forced_filename or f"{len(self.saved):05}-{seed}{suffix}"
        image.already_saved_as = f"{path}/{name}.{extension}"
        self.saved.append((image, seed, info, image.already_saved_as))

    def runner(self, img2img=False):
        """Return the scripts of a tab as the host keeps them, each with its place among the
        arguments."""
        made, at = [], 1
        for value in vars(self.script).values():
            if isinstance(value, type) and issubclass(
                value, self.modules["modules.scripts"].Script
            ):
                script = value()
                script.is_img2img = img2img
                if not script.show(img2img):
                    continue
                script.alwayson = script.show(img2img) is not True
                script.controls = script.ui(img2img)
                script.args_from, script.args_to = at, at + len(script.controls)
                at = script.args_to
                made.append(script)
        return made

    def ask(self, p, img2img=False, **args):
        """Give p the scripts of its tab and the arguments that the page would hand over: ``refine``
        and ``script``."""
        p.scripts = self.runner(img2img)
        given, names = (
            [0],
            {"IsdoScript": "sampler", "RefineAccordion": "refine", "RefineScript": "script"},
        )
        names["InvertScript"] = "invert"
        for script in p.scripts:
            mine = args.get(names[type(script).__name__])
            if mine is None:
                mine = [control.value for control in script.controls]
            given += [*mine, *[None] * (len(script.controls) - len(mine))]
        p.script_args = tuple(given)
        self.state.__init__()
        self.total_tqdm.__init__()
        self.seen.clear()
        self.steps_done.clear()
        return p

    def process_images(self, p):
        """Draw every batch of p; hooks of scripts in the hosts' order, and what they raise is
        reported and no more."""

        def hook(name, *given, **named):
            for script in [script for script in p.scripts if script.alwayson]:
                args = p.script_args[script.args_from : script.args_to]
                try:
                    getattr(script, name)(p, *given, *args, **named)
                except Exception as error:
                    self.reported.append(error)

        p.all_seeds = [p.seed + i for i in range(p.n_iter * p.batch_size)]
        p.all_prompts = [p.prompt] * len(p.all_seeds)
        p.all_subseeds = p.all_seeds
        hook("process")
        if p.kind == "img2img":
            p.init_latent, p.sampler = p.init_images.clone(), self.create(p.sampler_name)
            p.image_conditioning = torch.ones(1)
        if self.state.job_count == -1:
            self.state.job_count = p.n_iter * (2 if p.enable_hr else 1)
        made, infotexts = [], []
        for batch in range(p.n_iter):
            p.iteration, self.state.skipped = batch, False
            if self.state.interrupted or self.state.stopping_generation:
                break
            mine = slice(batch * p.batch_size, (batch + 1) * p.batch_size)
            p.seeds, p.prompts, p.subseeds = (
                p.all_seeds[mine],
                p.all_prompts[mine],
                p.all_subseeds[mine],
            )
            p.negative_prompts = [p.negative_prompt] * len(p.prompts)
            p.rng = ImageRNG(p.shape, p.seeds)
            hook(
                "process_batch",
                batch_number=batch,
                prompts=p.prompts,
                seeds=p.seeds,
                subseeds=p.subseeds,
            )
            total = p.find_total(self, p.steps)
            p.c, p.uc = (
                Conds([p.schedule(total)] * p.batch_size),
                [[(3, "bad"), (total, "worse")]] * p.batch_size,
            )
            p.host, p.hook = self, hook
            with self.modules["modules.devices"].autocast():
                ps = SimpleNamespace(samples=p.sample())
            hook("post_sample", ps)
            images = ps.samples if isinstance(ps.samples, Decoded) else Decoded(ps.samples)
            self.state.nextjob()
            for image in images:
                pp = SimpleNamespace(image=Image(image))
                hook("postprocess_image", pp)
                made.append(pp.image)
                infotexts.append(create_infotext(p, p.prompts, p.seeds, p.subseeds))
                if p.save_samples():
                    i = (len(made) - 1) % p.batch_size
                    self.save_image(
                        pp.image, "out", "", p.seeds[i], p.prompts[i], "png", infotexts[-1], p
                    )
        processed = SimpleNamespace(images=made, infotexts=infotexts, p=p, index_of_first_image=0)
        hook("postprocess", processed)
        return processed

    def sample(self, p, hook):
        noise = p.rng.next()
        if p.kind != "img2img":
            p.sampler = self.create(p.sampler_name)
        hook("process_before_every_sampling", x=noise, noise=noise, c=p.c, uc=p.uc)
        if p.kind == "img2img":
            samples = p.sampler.sample_img2img(
                p, p.init_latent, noise, p.c, p.uc, image_conditioning=p.image_conditioning
            )
            return samples if p.mask is None else samples * p.nmask + p.init_latent * p.mask
        samples = p.sampler.sample(p, noise, p.c, p.uc, image_conditioning=torch.zeros(1))
        if not p.enable_hr or self.state.interrupted:
            return samples
        p.is_hr_pass, p.sampler = True, self.create(p.hr_sampler_name or p.sampler_name)
        self.state.nextjob()
        steps = p.hr_second_pass_steps or p.steps
        p.rng = ImageRNG(p.shape, p.seeds)
        p.hr_c, p.hr_uc = (
            Conds([p.schedule(steps)] * p.batch_size),
            [[(steps, "bad")]] * p.batch_size,
        )
        hook("before_hr")
        samples = p.sampler.sample_img2img(
            p,
            samples,
            p.rng.next(),
            p.hr_c,
            p.hr_uc,
            steps=steps,
            image_conditioning=torch.zeros(1),
        )
        p.sampler, p.is_hr_pass = None, False
        return Decoded(samples)


class State:
    """What the hosts' progress bar is made from."""

    def __init__(self):
        self.interrupted = self.skipped = self.stopping_generation = False
        self.job_no = self.sampling_step = self.sampling_steps = 0
        self.job_count = -1

    def nextjob(self):
        self.job_no += 1
        self.sampling_step = 0


class TotalTQDM:
    """The console's bar over all jobs, once somebody told its length."""

    def __init__(self):
        self._tqdm, self.done = None, 0

    def update(self):
        self.done += 1

    def updateTotal(self, new_total):
        self._tqdm = SimpleNamespace(total=new_total)


class ImageRNG:
    """Noise of each picture from its own generator."""

    def __init__(
        self,
        shape,
        seeds,
        subseeds=None,
        subseed_strength=0.0,
        seed_resize_from_h=0,
        seed_resize_from_w=0,
    ):
        self.shape, self.generators = (
            tuple(shape),
            [torch.Generator().manual_seed(seed) for seed in seeds],
        )

    def next(self):
        return torch.stack(
            [torch.randn(self.shape, generator=generator) for generator in self.generators]
        )


class Decoded(list):
    """What comes out of the VAE."""

    already_decoded = True


class Image:
    """A picture on its way to the file."""

    def __init__(self, data):
        self.data, self.info = data, {}


def create_infotext(
    p, all_prompts, all_seeds, all_subseeds, comments=None, iteration=0, position_in_batch=0
):
    """Return the parameters as a mapping: how they are written down is the hosts' own."""
    return {"Steps": p.steps, "Sampler": p.sampler_name, **p.extra_generation_params}


def sample_euler(model, x, sigmas, extra_args=None, callback=None, disable=None):
    for i in range(len(sigmas) - 1):
        denoised = model(x, sigmas[i].expand(len(x)), **extra_args)
        callback({"x": x, "i": i, "sigma": sigmas[i], "sigma_hat": sigmas[i], "denoised": denoised})
        x = x + (x - denoised) / sigmas[i] * (sigmas[i + 1] - sigmas[i])
    return x


def sample_heun(model, x, sigmas, extra_args=None, callback=None, disable=None, s_noise=1.0):
    for i in range(len(sigmas) - 1):
        denoised = model(x, sigmas[i].expand(len(x)), **extra_args)
        callback({"x": x, "i": i, "sigma": sigmas[i], "sigma_hat": sigmas[i], "denoised": denoised})
        slope, step = (x - denoised) / sigmas[i], sigmas[i + 1] - sigmas[i]
        end = x + slope * step
        if sigmas[i + 1] > 0:
            again = (end - model(end, sigmas[i + 1].expand(len(x)), **extra_args)) / sigmas[i + 1]
            end = x + (slope + again) / 2 * step
        x = end
    return x


def sample_sde(
    model,
    x,
    sigmas,
    extra_args=None,
    callback=None,
    disable=None,
    noise_sampler=None,
    solver_type="midpoint",
):
    assert solver_type == "heun"
    for i in range(len(sigmas) - 1):
        denoised = model(x, sigmas[i].expand(len(x)), **extra_args)
        callback({"x": x, "i": i, "sigma": sigmas[i], "sigma_hat": sigmas[i], "denoised": denoised})
        x = denoised + sigmas[i + 1] * noise_sampler(sigmas[i], sigmas[i + 1])
    return x


def sample_fast(model, x, sigma_min, sigma_max, n, extra_args=None, callback=None, disable=None):
    raise AssertionError("has no schedule to run on")


class Picture(SimpleNamespace):
    """What the host calls p."""

    def comment(self, text):
        self.comments[text] = 1

    def save_samples(self):
        return not self.do_not_save_samples

    def txt2img_image_conditioning(self, x):
        return torch.zeros(1)

    def sample(self):
        return self.host.sample(self, self.hook)

    def parse_extra_network_prompts(self):
        self.prompts = [text.partition("<lora:")[0] for text in self.prompts]
        self.extra_network_data = {"of": list(self.prompts)}

    def setup_conds(self):
        """Read the prompts of a batch; Forge has no negative ones at CFG scale 1."""
        total = self.find_total(self.host, self.steps)
        self.c = Conds([[(total, text)] for text in self.prompts])
        none = self.host.forge and self.cfg_scale == 1
        self.uc = None if none else [[(total, text)] for text in self.negative_prompts]

    def find_total(self, host, steps):
        return (
            host.modules["modules.sd_samplers"]
            .find_sampler_config(self.sampler_name)
            .total_steps(steps)
        )

    def schedule(self, steps):
        return [(steps // 2, "cat"), (steps, "dog")]


def asked(kind="txt2img", **changes):
    """Return a p that the host draws whole, of a tab."""
    p = Picture(
        **vars(picture(sampler_name="Euler", scheduler="Karras")), kind=kind, n_iter=1, batch_size=1, seed=1, sd_model=None,
        prompt="[cat:dog:.5]", extra_network_data={}, hr_second_pass_steps=0,
        subseed_strength=0.0, comments={}, do_not_save_samples=False,
        outpath_samples="out", override_settings={}, negative_prompt="bad", cached_c=[None, None], cached_uc=[None, None],
    )  # fmt: skip
    if kind == "img2img":
        p.init_images = (
            torch.randn(1, *p.shape, generator=torch.Generator().manual_seed(9)) * 0.5 + MEAN
        )
    vars(p).update(changes)
    if kind == "img2img" and len(p.init_images) < p.batch_size:
        p.init_images = p.init_images.expand(p.batch_size, *p.shape)
    return p


def picture(**changes):
    """Return what the host calls p, as far as a sampler looks."""
    p = SimpleNamespace(
        cfg_scale=7.0,
        sampler_name="ISDO", scheduler="Automatic", hr_scheduler=None, hr_sampler_name=None, enable_hr=False, is_hr_pass=False,
        steps=8, denoising_strength=0.75, seeds=[1], shape=(4, 8, 8), init_latent=None, mask=None, nmask=None,
        sampler_noise_scheduler_override=None, extra_generation_params={},
    )  # fmt: skip
    vars(p).update(changes)
    return p
