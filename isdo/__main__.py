"""python -m isdo {sample,refine,invert,probe,demo,bench,train,info}: the package from the command
line."""

import argparse
import logging
import math
import platform
import sys
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch

from . import __version__, files, gallery, infotext, latents, models, picture, zoo
from .bench import suites
from .bench.baselines import BASELINES, FURTHER
from .inversion import calls_of
from .inversion import invert as run_invert
from .probe import measure_curvature
from .reference import SAMPLERS as REFERENCE
from .reference import seeded
from .refinement import refine as run_refine
from .sampling import sample_isdo
from .schedules import SCHEDULES, curvature_sigmas, karras, schedule
from .settings import FIELDS, PRESETS, REFINE_FIELDS, RefineSettings, Settings
from .zoo.net import CLASSES, NULL

BATCH, SIDE = 32, 32
SHOWN = 128  # pixels of a picture in the file, about, when no zoom is asked for
LARGEST = 512  # pixels of a picture's side: beyond, a CPU would be at it for an hour
SEEDS = 2**63 - 1  # the highest that torch takes, with room for the pictures that follow
MODEL_ROOM, CHECKPOINT_ROOM = (
    2**23,
    2**26,
)  # bytes: twice what a model of the zoo, what its training's state takes
VERSION = f"{infotext.OURS}{__version__}"


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line; the usage is what --help prints."""

    def error(self, message):
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def samplers():
    """Return every sampler by name, each ``run(model, x, sigmas, extra_args, callback,
    disable)``."""
    return (
        {"isdo": sample_isdo}
        | {name: baseline.run for name, baseline in (BASELINES | FURTHER).items()}
        | REFERENCE
    )


@contextmanager
def progress(total, label):
    """Show a bar on standard error; gives the callback that moves it by one step."""
    from tqdm import tqdm

    with tqdm(total=total, desc=label, leave=False) as bar:
        yield lambda *_: bar.update()


def draw(run, given, sigmas, seeds, callback=None, begun=None):
    """Return pictures (len(seeds), C, H, W), in batches; image i has its own seed and label,
    whatever its batch.

    ``begun`` (len(seeds), C, H, W) is where they are drawn from, noise of the seeds if None.
    """
    done = []
    for start in range(0, len(seeds), BATCH):
        part = slice(start, start + BATCH)
        x = sigmas[0] * gallery.noise(seeds[part], given.shape) if begun is None else begun[part]
        x = x.to(given.device)
        extra = given.extra_args(given.classes(range(len(seeds))[part]))
        sampler = seeded(run, seeds[part])
        done.append(
            sampler(
                given.model,
                x,
                sigmas.to(given.device),
                extra_args=extra,
                callback=callback,
                disable=True,
            ).cpu()
        )
    return torch.cat(done)


def unlabelled(given):
    """Return one of the zoo's models with the class that stands for none where no class was asked
    for."""
    return given if given.own or given.labels else replace(given, labels=(NULL,))


def told(given, suffix=""):
    """Return what a file says of a model: its name, what it is handed, its guidance."""
    guidance = None if given.guidance is None else f"{given.guidance:g}"
    extra = " ".join(f"{key}={value}" for key, value in given.extra.items())
    pairs = {"CFG scale": guidance, "Model": given.name + suffix, "Extra": extra}
    return {key: infotext.plain(value) for key, value in pairs.items() if value}


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


def size_of(given):
    """Return the size of a model's pictures as a file says it."""
    return "{2}x{1}".format(*given.shape)


def prompt(names):
    """Return the classes as the prompt of a file."""
    return ", ".join(names or ["no class"])


def zoom_for(args, shape):
    """Return the zoom at which pictures of that shape come onto the page.

    Raises:
        ValueError: they are no pictures, or the page would be too large, for itself or for the
            disk.
    """
    channels, *sides = shape
    gallery.check_channels(channels)
    zoom = args.zoom or max(1, SHOWN // max(sides))
    gallery.check_target(args.out, room=gallery.room(gallery.check_page(args.count, sides, zoom)))
    return zoom


def sample(args):
    """Draw pictures and write them as one PNG."""
    given = {field.key: getattr(args, field.key) for field in FIELDS if hasattr(args, field.key)}
    if (given or args.preset) and args.sampler != "isdo":
        said = flag(next(iter(given), "preset"))
        raise ValueError(f"{said} is a setting of the sampler isdo, not of {args.sampler}")
    settings, out = (
        Settings(**{**PRESETS.get(args.preset, {}), **given}),
        gallery.check_target(args.out),
    )
    run, recorded, made, noise = samplers()[args.sampler], {}, Made(), asked_noise(args)
    if args.sampler == "isdo":
        run = partial(made.run, settings=settings)
        recorded = {field.infotext: getattr(settings, field.key) for field in FIELDS}
    if noise is not None:
        recorded["Noise"] = infotext.plain(files.named(args.noise).name)
    if not models.is_own(args.model):
        zoom_for(args, models.SHAPE)  # before anything is loaded
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
        pictures = draw(run, model, sigmas, seeds, callback, None if noise is None else noise.x)
    if made.calls:
        recorded["ISDO calls"] = made.told()
    gallery.write_png(gallery.grid(pictures, zoom=zoom), out, parameters(args, model, recorded))
    print(out)
    if made.calls and recorded["ISDO calls"] != str(args.steps):
        print(
            f"{recorded['ISDO calls']} model calls a picture, {sum(made.rejected)} steps done again"
        )


def asked_noise(args):
    """Return the Noise that pictures are to be drawn from, None: the seeds'; set what the command
    line leaves to it."""
    noise = None if args.noise is None else latents.read(args.noise)
    if noise is not None and args.count not in (None, len(noise.x)):
        raise ValueError(
            f"{args.noise} holds the noise of {len(noise.x)} pictures: leave out --count"
        )
    steps, count, named = (
        (12, 16, None) if noise is None else (noise.steps, len(noise.x), noise.schedule)
    )
    args.steps, args.count, args.schedule = (
        args.steps or steps,
        args.count or count,
        args.schedule or named,
    )
    if noise is not None:
        args.label = args.label or noise.labels
    return noise


ZOO_SIDES = (SIDE, SIDE), zoo.MULTIPLE


def opened(path, takes=ZOO_SIDES):
    """Return (pictures (N, 3, H, W), the zoom of their page or None, what the file says of how it
    was made).

    The latter are the pairs that this command line wrote, with the prompt's classes as "labels".
    ``takes`` says what the model takes: the (height, width) of its pictures, and of what other
    sides are multiples, None: it takes no others.

    Raises:
        ValueError: no picture, a broken one, or one of a size that the networks do not take.
    """
    with picture.header(path) as image:
        counted(path, image, takes)  # before anything is decoded
        with picture.told(path):
            image = picture.decoded(image)
        count = counted(path, image, takes)  # an icon may be of another size than its header says
        with picture.told(path):
            pictures, zoom = (
                gallery.cut(image, count, takes[0])
                if count
                else (gallery.from_image(image)[None], None)
            )
    line, said = infotext.read(image.info.get("parameters"))
    return (
        pictures,
        zoom,
        said | {"labels": [label for label in line.split(", ") if label in CLASSES]},
    )


def counted(path, image, takes=ZOO_SIDES):
    """Return how many pictures the page holds, None for a single picture; asks only what is known
    before decoding.

    ``takes`` as for `opened`.

    Raises:
        ValueError: a picture of a size that the networks do not take, a page that is not as its
            text says.
    """
    said, ((height, width), multiple) = infotext.read(image.info.get("parameters"))[1], takes
    size = f"{width}x{height}"
    if "Batch size" not in said:
        if multiple is None and image.size != (width, height):
            raise ValueError(
                f"{path} is {image.width} x {image.height}: the model takes pictures of {width} x {height}"
            )
        if multiple and any(side % multiple or not 0 < side <= LARGEST for side in image.size):
            raise ValueError(
                f"{path} is {image.width} x {image.height}: the models take sides that are multiples of {multiple}, up to "
                f"{LARGEST}, and were trained on {width} x {height}; or give a page that python -m isdo sample wrote"
            )
        return None
    count = number_in(
        said, "Batch size", whole(1, gallery.PIXELS), "give the page as it was written"
    )
    if said.get("Size", size) != size:
        raise ValueError(
            f"{path} says Size: {said['Size'][:40]!r}: give a page as it was written, of pictures of {size}"
        )
    turns = image.size, image.size[::-1]
    if image.width * image.height > gallery.PIXELS or not any(
        gallery.zoom_of(turn, count, takes[0]) for turn in turns
    ):
        raise ValueError(
            f"{path} is {image.width} x {image.height}: no page of {count} pictures of {size}, as its text says it is; "
            "give the page as it was written"
        )
    return count


def number_in(said, key, kind, remedy):
    """Return a number that a file says, read as the flag of that kind is.

    Raises:
        ValueError: the file says something else.
    """
    try:
        return kind(said[key])
    except argparse.ArgumentTypeError as error:
        why = str(error)
    except ValueError:
        why = f"must be a {kind.__name__}"
    raise ValueError(f"the file says {key}: {said[key][:40]!r}, which {why}: {remedy}")


def refine(args):
    """Refine a picture, or every picture of a page that `sample` or `refine` wrote."""
    given = {
        field.key: getattr(args, field.key) for field in REFINE_FIELDS if hasattr(args, field.key)
    }
    settings = RefineSettings(**given)
    out, animation = gallery.check_target(args.out), args.animate
    if animation is not None:
        animation = gallery.check_target(animation, ".gif")
    takes, given, own = ZOO_SIDES, None, models.is_own(args.model)
    if own:  # it says what pictures it takes
        given = models.asked(args)
        gallery.check_channels(given.shape[0])
        takes = given.shape[1:], getattr(given.model, "multiple", None)
    pictures, zoom, said = opened(args.picture, takes)
    size = (
        gallery.grid_size(len(pictures), takes[0], zoom)
        if zoom
        else (pictures.shape[3], pictures.shape[2])
    )
    gallery.check_target(out, room=gallery.room(size))
    if animation is not None:
        gallery.check_target(animation, ".gif", gallery.room(size, settings.iterations + 1))
    names, seed = args.label or said["labels"], args.seed
    if seed is None:
        seed = (
            number_in(said, "Seed", whole(0, SEEDS), "give one with --seed")
            if "Seed" in said
            else 0
        )
    if own:
        names = args.label
        pictures = pictures.mean(1, keepdim=True) if given.shape[0] == 1 else pictures
    else:
        args.label = names
        if args.guidance is None:
            remedy = "give one with --guidance"
            args.guidance = (
                number_in(said, "CFG scale", fraction(0), remedy) if "CFG scale" in said else 1.0
            )
        given = unlabelled(models.asked(args))

    def shown(batch):
        return gallery.grid(batch, zoom=zoom) if zoom else gallery.picture(batch[0])

    starts = range(0, len(pictures), BATCH)
    steps, calls = [pictures.clone() for _ in range(settings.iterations + 1)], 0
    with progress(settings.iterations * settings.calls * len(starts), "refine") as moved:
        for start in starts:
            part = slice(start, start + BATCH)

            def keep(state, part=part):
                for later in steps[state["i"] + 1 :]:  # a picture that is done stays as it is
                    later[part] = state["x"].cpu()

            extra = given.extra_args(given.classes(range(len(pictures))[part]))
            done = run_refine(
                given.model, pictures[part].to(given.device), extra, keep, True,
                settings=settings, seeds=seed + start, call_callback=moved,
            )  # fmt: skip
            calls = max(calls, done.calls)
    page = (
        {"Size": size_of(given), "Batch size": len(pictures)}
        if zoom
        else {"Size": "{}x{}".format(*size)}
    )
    about = {
        "Refine label": " / ".join(names or ["no class"]),
        **{f"Refine {REFINED.get(key, key)}": value for key, value in told(given).items()},
        "Refine seed": seed, "Refine calls": calls,
        **{field.infotext: getattr(settings, field.key) for field in REFINE_FIELDS}, "Refine version": VERSION,
    }  # fmt: skip
    pairs = history(said) | page | about
    pairs["Version"] = pairs.pop(
        "Version", VERSION
    )  # of what drew it; in the end, where the WebUIs have it
    gallery.write_png(shown(steps[-1]), out, infotext.write(prompt(names), pairs))
    print(out)
    if animation is not None:
        gallery.write_gif((shown(step) for step in steps), animation)
        print(animation)


REFINED = {"Model": "model", "Extra": "extra"}  # how the keys go on after "Refine"


def history(said):
    """Return the pairs of a file that a refinement leaves as they are: of its drawing, and of
    earlier refinements, numbered."""
    pairs = {key: value for key, value in said.items() if key != "labels"}
    if pairs and "Refine model" not in pairs:
        pairs["Label"] = " / ".join(said["labels"] or ["no class"])
    return infotext.numbered(pairs)


def invert(args):
    """Find the noise that a model draws a picture from, or every picture of a page that `sample` or
    `refine` wrote."""
    settings = Settings(
        **{field.key: getattr(args, field.key) for field in FIELDS if hasattr(args, field.key)}
    )
    out, back = latents.check_target(args.out), args.back
    takes, own = ZOO_SIDES, models.is_own(args.model)
    given = models.asked(args) if own else None
    if own:
        gallery.check_channels(given.shape[0])
        takes = given.shape[1:], getattr(given.model, "multiple", None)
    pictures, zoom, said = opened(args.picture, takes)
    size = (
        gallery.grid_size(len(pictures), takes[0], zoom)
        if zoom
        else (pictures.shape[3], pictures.shape[2])
    )
    if back is not None:
        back = gallery.check_target(back, room=gallery.room(size))
    if own:
        pictures = pictures.mean(1, keepdim=True) if given.shape[0] == 1 else pictures
    else:
        args.label = args.label or said["labels"]
        args.guidance = 1.0 if args.guidance is None else args.guidance
        given = unlabelled(models.asked(args))
    args.schedule = args.schedule or models.usual_schedule(given.model)
    sigmas = schedule(args.schedule, args.steps, given.model)
    counted = calls_of(settings, sigmas, given.model.path, given.model.sigma_min)
    x, calls = by_parts(run_invert, "invert", counted, given, pictures, sigmas, settings)
    about = {
        "Steps": args.steps, "Schedule type": args.schedule, **told(given),
        **{field.infotext: getattr(settings, field.key) for field in FIELDS}, "Version": VERSION,
    }  # fmt: skip
    latents.write(out, x, float(sigmas[0]), about, args.label or [])
    print(f"{out}\n{calls} model calls a picture")
    if back is not None:
        found, _ = by_parts(sample_isdo, "and back", args.steps, given, x, sigmas, settings)
        gap = (found - pictures).square().mean((1, 2, 3)).sqrt() / pictures.square().mean(
            (1, 2, 3)
        ).sqrt()
        shown = gallery.grid(found, zoom=zoom) if zoom else gallery.picture(found[0])
        page = (
            {"Size": size_of(given), "Batch size": len(found)}
            if zoom
            else {"Size": "{}x{}".format(*size)}
        )
        gallery.write_png(
            shown, back, infotext.write(prompt(args.label), about | page | {"Version": VERSION})
        )
        print(
            f"{back}\ndrawn again it differs by {gap.median():.2g} of its RMS, at most {gap.max():.2g}"
        )


def by_parts(run, label, moves, given, x, sigmas, settings):
    """Return what ``run`` (`invert` or `sample_isdo`) makes of x (B, C, H, W), in batches, and its
    model calls a picture.

    ``moves``: how often it calls back.
    """
    parts, found, report = (
        [slice(start, start + BATCH) for start in range(0, len(x), BATCH)],
        [],
        {},
    )
    with progress(moves * len(parts), label) as moved:
        for part in parts:
            extra, begun = (
                given.extra_args(given.classes(range(len(x))[part])),
                x[part].to(given.device),
            )
            found.append(
                run(
                    given.model, begun, sigmas, extra, moved, True, settings=settings, report=report
                ).cpu()
            )
    return torch.cat(found), report["calls"][0]


def probe(args):
    """Measure a model's spectral curvature in one short run, and print the levels that the schedule
    curvature makes of it."""
    from .bench.report import markdown, write_json

    out = args.json if args.json is None else files.check_target(args.json)
    given = unlabelled(models.asked(args))
    model, seeds = given.model, range(args.seed, args.seed + args.count)
    sigmas = karras(args.steps, model.sigma_min, model.sigma_max)
    x = (sigmas[0] * gallery.noise(seeds, given.shape)).to(given.device)
    extra = given.extra_args(given.classes(range(args.count)))
    found = measure_curvature(model, x, sigmas.to(given.device), extra)
    ends = model.sigma_min, model.sigma_max
    levels = {n: curvature_sigmas(n, *ends, found, model.path).tolist() for n in args.calls}
    rows = list(zip(found.ratios, found.values, strict=True))
    print(f"{given.title}, path {model.path.name}, {args.count} pictures, {args.steps} calls\n")
    print(
        markdown(
            ["noise to signal", "curvature"],
            [[f"{ratio:.4g}", f"{value:.4g}"] for ratio, value in rows],
        )
    )
    for n, sigmas in levels.items():
        print(f"\n{n} calls: {', '.join(f'{sigma:.4g}' for sigma in sigmas)}")
    if out is not None:
        about = {
            "model": given.title,
            "path": model.path.name,
            "seed": args.seed,
            "images": args.count,
            "steps": args.steps,
        }
        write_json(about | {"ratios": found.ratios, "values": found.values, "levels": levels}, out)


def demo(args):
    """Draw the same pictures with ISDO and other samplers."""
    from tqdm import tqdm

    from .bench.demo import demo

    for file in demo(args.out, progress=partial(tqdm, desc="drawing", leave=False)):
        print(file)


def _train_zoo(args, out, data):
    from .zoo.train import CONFIGS
    from .zoo.train import train as run

    config = CONFIGS[args.model]
    if args.steps is not None:
        config = replace(config, steps=args.steps)
    checkpoint = files.named(out.with_suffix(".pt") if args.checkpoint is None else args.checkpoint)
    files.make_folder(checkpoint.parent)
    files.check_target(checkpoint, CHECKPOINT_ROOM)
    run(config, out, checkpoint, args.processes, args.seconds, after=args.after, **data)


def _train_classifier(args, out, data):
    from tqdm import tqdm

    from .bench import classifier

    if args.checkpoint or args.processes or args.after or args.seconds < math.inf:
        raise ValueError(
            "the classifier trains in minutes, in one go: leave out --checkpoint, --processes, --after, --seconds"
        )
    config = classifier.Config() if args.steps is None else classifier.Config(steps=args.steps)
    classifier.train(config, out, partial(tqdm, desc="training"), **data)


TRAININGS = {name: _train_zoo for name in zoo.NAMES} | {"classifier": _train_classifier}


def train(args):
    """Train a model of the zoo, or go on from the checkpoint; or the classifier of the suites of
    sets."""
    out = files.named(f"out/{args.model}.safetensors" if args.out is None else args.out)
    files.make_folder(out.parent)
    files.check_target(out, MODEL_ROOM)
    data = {name: getattr(args, name) for name in ("font", "groups") if getattr(args, name)}
    TRAININGS[args.model](args, out, data)
    print(out)


def devices():
    """Return the devices that torch offers, by name."""
    found = ["cpu"]
    found += [
        f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())
    ]
    return found + (["mps"] if torch.backends.mps.is_available() else [])


def info(args):
    """Print versions, devices, models with their losses, and the settings; or the models'
    variational bounds."""
    if args.elbo:
        from .zoo import likelihood

        given = args.pictures and (opened(args.pictures)[0], f"pictures of {args.pictures}")
        return print(likelihood.table(*(given or likelihood.pictures())))
    if args.pictures:
        raise ValueError("--pictures is for --elbo: give both")
    versions = f"isdo {__version__}, Python {platform.python_version()}, torch {torch.__version__}"
    print(f"{versions}, {torch.get_num_threads()} threads")
    print(f"devices: {', '.join(devices())}")
    print("\nmodels, with the validation loss of the output in ten bands of noise, low to high")
    for name in zoo.NAMES:
        try:
            about = zoo.info(name)
            losses = " ".join(f"{loss:.4f}" for loss in about["losses"])
            print(f"  {name:6} {losses}   {about['config']['steps']} steps")
        except ValueError as error:
            print(f"  {name:6} {error}")
    print(f"  classes: {', '.join(CLASSES)}")
    print("\nsettings of the sampler isdo")
    for field in FIELDS:
        print(f"  {flag(field.key):24} {field.default!s:10} {field.help}")
    print("\nsettings of the refinement")
    for field in REFINE_FIELDS:
        print(f"  {flag(field.key):24} {field.default!s:10} {field.help}")


def flag(key):
    """Return the command-line flag of a setting."""
    return "--" + key.replace("_", "-")


def whole(low, high=math.inf):
    """Return an argparse type: a whole number from ``low`` to ``high``, both included."""

    def number(text):
        if (value := int(text)) < low:
            raise argparse.ArgumentTypeError(f"must be at least {low}, not {value}")
        if value > high:
            raise argparse.ArgumentTypeError(f"must be at most {high}, not {value}")
        return value

    number.__name__ = "whole number"
    return number


def fraction(low):
    """Return an argparse type: a finite number of at least ``low``."""

    def number(text):
        if not low <= (value := float(text)) < math.inf:
            raise argparse.ArgumentTypeError(f"must be a number of at least {low:g}, not {text}")
        return value

    number.__name__ = "number"
    return number


def usable(device):
    """Return the name of a device that is there; an argparse type."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise argparse.ArgumentTypeError(
            f"no device {device} here: there is {', '.join(devices())}"
        ) from None
    return device


def add_settings(parser, fields=FIELDS, title="settings of the sampler isdo"):
    """Give the parser one flag for each setting; a flag that is not given leaves no trace."""
    group = parser.add_argument_group(title)
    for field in fields:
        kind = (
            {"action": argparse.BooleanOptionalAction}
            if field.kind is bool
            else {"type": field.kind}
        )
        if field.choices:
            kind |= {"choices": field.choices, "metavar": "NAME"}
        text = f"{field.help} (default: {field.default})".replace("%", "%%")
        group.add_argument(flag(field.key), default=argparse.SUPPRESS, help=text, **kind)


def make_parser():
    """Return the parser of the whole command line."""
    parser = Parser(prog="python -m isdo", description="ISDO, a diffusion sampler.")
    parser.add_argument("--version", action="version", version=f"isdo {__version__}")
    names = "{sample,refine,invert,probe,demo,bench,train,info}"
    commands = parser.add_subparsers(dest="command", required=True, metavar=names)

    def command(run, summary):
        sub = commands.add_parser(run.__name__, help=summary, description=run.__doc__)
        sub.set_defaults(run=run)
        return sub.add_argument

    default = "cuda" if torch.cuda.is_available() else "cpu"
    device = {"type": usable, "default": default, "help": "where the network runs (%(default)s)"}

    add = command(sample, "draw pictures with an embedded model, or one of your own")
    models.add_flags(add, "eps", "what draws (%(default)s)")
    add(
        "--zero-terminal-snr",
        action="store_true",
        help="start the model v at sigma 4518, from pure noise",
    )
    classes = f"of the pictures in turn: {', '.join(CLASSES)} (of your own model: its own, or numbers); left out: no class"
    label = {"nargs": "+", "metavar": "CLASS"}
    add("--label", **label, help=classes)
    add(
        "--steps",
        type=whole(1),
        help="steps, with isdo one model call each by default (12; with --noise its own)",
    )
    add(
        "--preset",
        choices=list(PRESETS),
        help="%(choices)s: settings of the sampler isdo that go together",
        metavar="NAME",
    )
    add(
        "--sampler",
        choices=list(samplers()),
        default="isdo",
        help="%(choices)s (%(default)s)",
        metavar="NAME",
    )
    add(
        "--schedule",
        choices=list(SCHEDULES),
        help="%(choices)s (karras; for flow models: flow; with --noise its own)",
    )
    add("--noise", metavar="FILE", help="draw from the noise that invert found, not from a seed's")
    add(
        "--seed",
        type=whole(0, SEEDS),
        default=0,
        help="of the first picture; the next has the next seed (%(default)s)",
    )
    add(
        "--count",
        type=whole(1, gallery.PIXELS),
        help="pictures (16; with --noise as many as there are)",
    )
    guided = f"classifier-free guidance, 1: none ({models.GUIDED:g}; your own model: what it does by itself)"
    add("--guidance", type=fraction(0), help=guided)
    zoom = f"magnification in the file, up to {gallery.ZOOM} (4, for larger pictures less)"
    add("--zoom", type=whole(1, gallery.ZOOM), help=zoom)
    add("--out", default="grid.png", help="PNG file (%(default)s)")
    add("--device", **device)
    add_settings(commands.choices["sample"])

    add = command(refine, "refine a picture with an embedded model, or one of your own")
    sides = f"multiples of {zoo.MULTIPLE}, up to {LARGEST}"
    add(
        "picture",
        help=f"PNG file: a page that sample or refine wrote, or a picture whose sides are {sides}",
    )
    models.add_flags(add, "eps", "what refines (%(default)s)")
    add("--label", **label, help=f"{classes} (those of the file)")
    add(
        "--guidance",
        type=fraction(0),
        help="classifier-free guidance, 1: none (the file's, else 1)",
    )
    add(
        "--seed",
        type=whole(0, SEEDS),
        help="of the noise for the first picture (the file's, else 0)",
    )
    add("--out", default="refined.png", help="PNG file (%(default)s)")
    add("--animate", metavar="FILE", help="write the picture after each iteration there, as GIF")
    add("--device", **device)
    add_settings(commands.choices["refine"], REFINE_FIELDS, "settings of the refinement")

    add = command(invert, "find the noise that a model draws a picture from")
    add(
        "picture",
        help=f"PNG file: a page that sample or refine wrote, or a picture whose sides are {sides}",
    )
    models.add_flags(add, "eps", "what draws (%(default)s)")
    add("--label", **label, help=f"{classes} (those of the file)")
    add(
        "--guidance",
        type=fraction(0),
        help="classifier-free guidance on the way to the noise; 1, none, is the most exact (1)",
    )
    add(
        "--steps",
        type=whole(1),
        default=20,
        help="steps, with isdo about one model call each by default (%(default)s)",
    )
    add(
        "--schedule",
        choices=list(SCHEDULES),
        default=None,
        help="%(choices)s (karras; for flow models: flow)",
    )
    add(
        "--out",
        "-o",
        default="noise.safetensors",
        help="file for the noise, which sample --noise takes (%(default)s)",
    )
    add(
        "--back",
        metavar="FILE",
        help="draw the picture again from the noise, write that there, as PNG, and say how far it is",
    )
    add("--device", **device)
    add_settings(commands.choices["invert"])

    add = command(
        probe, "measure where a model's pictures bend, and the levels that follow from it"
    )
    models.add_flags(add, "eps", "what is measured (%(default)s)")
    add("--label", **label, help=classes)
    add("--guidance", type=fraction(0), help="as for sample (1)")
    add("--steps", type=whole(3), default=24, help="calls of the run that measures (%(default)s)")
    add(
        "--calls",
        type=whole(1),
        nargs="+",
        default=[6, 8, 10, 12],
        metavar="N",
        help="of which levels are made (6 8 10 12)",
    )
    add(
        "--count",
        type=whole(1, gallery.PIXELS),
        default=8,
        help="pictures of that run (%(default)s)",
    )
    add("--seed", type=whole(0, SEEDS), default=0, help="of the first picture (%(default)s)")
    add("--json", metavar="FILE", help="write the table and the levels there")
    add("--device", **device)

    add = command(demo, "the same pictures with ISDO and other samplers, and a work-precision plot")
    add("--out", default="out", help="folder for the pictures (%(default)s)")

    add = command(suites.bench, "measure ISDO against other samplers")
    add(
        "--suite",
        choices=list(suites.SUITES),
        default="analytic",
        help="what to measure (%(default)s)",
    )
    add("--json", metavar="FILE", help="write the rows there; most suites go on from what it holds")
    add(
        "--plot",
        metavar="FILE",
        help="draw error, or the distance of sets, against model calls there (png, svg or pdf)",
    )
    add(
        "--doc",
        metavar="FILE",
        help="write what is printed there, as markdown; keeps what an older page has by hand",
    )
    made = "of the suites analytic, zoo, img2img (5 to 30), sets (16 to 50) and frechet (6 to 15)"
    add("--calls", type=whole(1), nargs="+", metavar="N", help=made)
    add(
        "--bend",
        action="store_true",
        help="of the first three: give all samplers the levels that ISDO makes of each schedule",
    )
    add(
        "--all",
        action="store_true",
        help="of these five: also the samplers that the pages have not measured yet",
    )
    add(
        "--samplers",
        nargs="+",
        metavar="NAME",
        help="of the suites sets and frechet: which (those of the suite's page)",
    )
    add(
        "--cache",
        metavar="DIR",
        help="of these: where drawn batches are kept, to go on from (beside --json)",
    )
    add("--batch", type=whole(1), help="of these: pictures in a network call (CPU: 50, else 250)")
    add(
        "--autocast",
        choices=["bfloat16", "float16"],
        metavar="DTYPE",
        help="of these: run the model in bfloat16 or float16",
    )
    add("--seed", type=whole(0), help="of problems and noise (0; of the suite sweep 1)")
    add("--limit", type=whole(1), help="pictures of each problem at most")
    add("--only", default="", help="part of the name of the problems wanted")
    models.add_flags(
        add,
        None,
        "of every suite but analytic; sets, frechet and refine: eps, others: all of the zoo",
    )
    add(
        "--label",
        **label,
        help="of a model of your own: numbers of classes, or its names, of the pictures in turn",
    )
    add(
        "--guidance",
        type=fraction(0),
        help="of the suites sets and frechet (1: none), or of a model of your own",
    )
    add(
        "--judge",
        metavar="JUDGE",
        help=f"of the {suites.those_with('judge')}: module:callable, which returns your own",
    )
    add("--device", **device)

    add = command(train, "train an embedded model")
    add("--model", choices=list(TRAININGS), required=True)
    add("--out", metavar="FILE", help="the model (out/MODEL.safetensors)")
    add("--checkpoint", metavar="FILE", help="the state to go on from (beside the model)")
    add(
        "--after",
        metavar="MODEL",
        help="go on from this model, as it was written, where there is no checkpoint",
    )
    add("--steps", type=whole(1), help="steps altogether, instead of the configuration's")
    add("--processes", type=whole(1), help="CPU processes (one for each core)")
    add("--seconds", type=fraction(0), default=math.inf, help="stop and save after so long")
    add("--font", metavar="FILE", help="NotoColorEmoji.ttf, if it is not where Debian puts it")
    add("--groups", metavar="FILE", help="emoji-test.txt, if it is not where Debian puts it")

    add = command(info, "versions, devices, models, settings")
    add(
        "--elbo",
        action="store_true",
        help="print the variational bound of pictures under each model instead",
    )
    add(
        "--pictures",
        metavar="FILE",
        help="of that: a page that sample wrote, or a picture (held-out emoji, else the zoo's)",
    )
    return parser


def one_line(error):
    """Return an error's words in one line, whatever stands in the names that it repeats."""
    return " ".join(str(error).splitlines())


def main(arguments=None):
    """Run the command line; returns the exit status: 0, 1 for a failed run, 2 for wrong input, 130
    when interrupted."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    parser = make_parser()
    args = parser.parse_args(arguments)
    try:
        args.run(args)
    except (ValueError, OSError, ImportError) as error:
        print(f"{parser.prog} {args.command}: {one_line(error)}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        print(f"{parser.prog} {args.command}: failed: {one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{parser.prog} {args.command}: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
