"""python -m isdo sample: draw pictures."""

import math
from functools import partial

from .. import files, gallery, infotext, latents, models, zoo
from ..bench.baselines import BASELINES, FURTHER
from ..reference import SAMPLERS as REFERENCE
from ..sampling import sample_isdo
from ..schedules import SCHEDULES, schedule
from ..settings import FIELDS, PRESETS, Settings
from .arguments import (
    EACH,
    LABEL,
    SEEDS,
    add_settings,
    device,
    flag,
    fraction,
    given_settings,
    whole,
)
from .batches import BATCH, draw, progress, unlabelled
from .pages import VERSION, prompt, size_of, told, zoom_for

SUMMARY = "draw pictures with an embedded model, or one of your own"
STEPS, COUNT = 12, 16


def add_arguments(parser):
    """Give the command's parser its arguments."""
    add = parser.add_argument
    models.add_flags(add, "eps", "what draws (%(default)s)")
    add(
        "--zero-terminal-snr",
        action="store_true",
        help="start the model v at sigma 4518, from pure noise",
    )
    add("--label", **LABEL, help=EACH)
    steps = f"steps, with isdo one model call each by default ({STEPS}; with --noise its own)"
    add("--steps", type=whole(1), help=steps)
    preset = "%(choices)s: settings of the sampler isdo that go together"
    add("--preset", choices=list(PRESETS), help=preset, metavar="NAME")
    names = "%(choices)s (%(default)s)"
    add("--sampler", choices=list(samplers()), default="isdo", help=names, metavar="NAME")
    schedules = "%(choices)s (karras; for flow models: flow; with --noise its own)"
    add("--schedule", choices=list(SCHEDULES), help=schedules)
    add("--noise", metavar="FILE", help="draw from the noise that invert found, not from a seed's")
    seed = "of the first picture; the next has the next seed (%(default)s)"
    add("--seed", type=whole(0, SEEDS), default=0, help=seed)
    count = f"pictures ({COUNT}; with --noise as many as there are)"
    add("--count", type=whole(1, gallery.PIXELS), help=count)
    guided = f"classifier-free guidance, 1: none ({models.GUIDED:g}; your own model: what it does by itself)"
    add("--guidance", type=fraction(0), help=guided)
    zoom = f"magnification in the file, up to {gallery.ZOOM} (4, for larger pictures less)"
    add("--zoom", type=whole(1, gallery.ZOOM), help=zoom)
    add("--out", default="grid.png", help="PNG file (%(default)s)")
    add("--device", **device())
    add_settings(parser)


def run(args):
    """Draw pictures and write them as one PNG."""
    given = given_settings(args)
    if (given or args.preset) and args.sampler != "isdo":
        said = flag(next(iter(given), "preset"))
        raise ValueError(f"{said} is a setting of the sampler isdo, not of {args.sampler}")
    settings = Settings(**{**PRESETS.get(args.preset, {}), **given})
    out, noise = gallery.check_target(args.out), asked_noise(args)
    sampler, recorded, made = samplers()[args.sampler], {}, Made()
    if args.sampler == "isdo":
        sampler = partial(made.run, settings=settings)
        recorded = {field.infotext: getattr(settings, field.key) for field in FIELDS}
    if noise is not None:
        recorded["Noise"] = infotext.plain(files.named(args.noise).name)
    if not models.is_own(args.model):
        zoom_for(args, zoo.architecture_of(args.model).shape)  # before anything is loaded
        args.guidance = models.GUIDED if args.guidance is None else args.guidance
    model = unlabelled(models.asked(args, zero_terminal_snr=args.zero_terminal_snr))
    zoom = zoom_for(args, model.shape)
    seeds = range(args.seed, args.seed + args.count)
    args.schedule = args.schedule or models.usual_schedule(model.model)
    sigmas = schedule(args.schedule, args.steps, model.model)
    if noise is not None:
        noise.check(args.noise, float(sigmas[0]), model.shape)
    total = None if settings.tolerance else args.steps * math.ceil(args.count / BATCH)
    with progress(total, args.sampler) as callback:
        begun = None if noise is None else noise.x
        pictures = draw(sampler, model, sigmas, seeds, callback, begun)
    if made.calls:
        recorded["ISDO calls"] = made.told()
    gallery.write_png(gallery.grid(pictures, zoom=zoom), out, parameters(args, model, recorded))
    print(out)
    if made.calls and recorded["ISDO calls"] != str(args.steps):
        print(
            f"{recorded['ISDO calls']} model calls a picture, {sum(made.rejected)} steps done again"
        )


def samplers():
    """Return every sampler by name, each ``run(model, x, sigmas, extra_args, callback,
    disable)``."""
    baselines = {name: baseline.run for name, baseline in (BASELINES | FURTHER).items()}
    return {"isdo": sample_isdo} | baselines | REFERENCE


class Made:
    """How many model calls the pictures of ISDO took, over all batches."""

    def __init__(self):
        self.calls, self.rejected = [], []

    def run(self, *args, **kwargs):
        """Draw as `sample_isdo` does."""
        report = {}
        x = sample_isdo(*args, report=report, **kwargs)
        self.calls += report["calls"]
        self.rejected += report["rejected"]
        return x

    def told(self):
        """Return the calls as text: one number, or from which to which."""
        return " to ".join(map(str, sorted({min(self.calls), max(self.calls)})))


def asked_noise(args):
    """Return the Noise that pictures are to be drawn from, None: the seeds'; set what the command
    line leaves to it."""
    noise = None if args.noise is None else latents.read(args.noise)
    if noise is not None and args.count not in (None, len(noise.x)):
        raise ValueError(
            f"{args.noise} holds the noise of {len(noise.x)} pictures: leave out --count"
        )
    steps, count, named = (
        (STEPS, COUNT, None) if noise is None else (noise.steps, len(noise.x), noise.schedule)
    )
    args.steps = args.steps or steps
    args.count = args.count or count
    args.schedule = args.schedule or named
    if noise is not None:
        args.label = args.label or noise.labels
    return noise


def parameters(args, given, settings):
    """Return what made the pictures as the WebUIs write it: the prompt's line, then "Key: value"
    pairs."""
    pairs = {
        "Steps": args.steps,
        "Sampler": args.sampler,
        "Schedule type": args.schedule,
        **told(given, " (zero terminal SNR)" if args.zero_terminal_snr else ""),
        "Seed": args.seed,
        "Size": size_of(given),
        "Batch size": args.count,
        **settings,
        "Version": VERSION,
    }
    return infotext.write(prompt(args.label), pairs)
