"""python -m isdo refine: make finished pictures better."""

from .. import gallery, infotext, models
from ..refinement import refine
from ..settings import REFINE_FIELDS, RefineSettings
from .arguments import (
    EACH,
    LABEL,
    PICTURE,
    SEEDS,
    add_settings,
    device,
    fraction,
    given_settings,
    whole,
)
from .batches import extra_args, parts, progress, unlabelled
from .pages import (
    VERSION,
    asked_of,
    in_channels_of,
    number_in,
    opened,
    own_or_none,
    prompt,
    told,
)

SUMMARY = "refine a picture with an embedded model, or one of your own"


def add_arguments(parser):
    """Give the command's parser its arguments."""
    add = parser.add_argument
    add("picture", help=PICTURE)
    models.add_flags(add, "eps", "what refines (%(default)s)")
    add("--label", **LABEL, help=f"{EACH} (those of the file)")
    guided = "classifier-free guidance, 1: none (the file's, else 1)"
    add("--guidance", type=fraction(0), help=guided)
    seed = "of the noise for the first picture (the file's, else 0)"
    add("--seed", type=whole(0, SEEDS), help=seed)
    add("--out", default="refined.png", help="PNG file (%(default)s)")
    add("--animate", metavar="FILE", help="write the picture after each iteration there, as GIF")
    add("--device", **device())
    add_settings(parser, REFINE_FIELDS, "settings of the refinement")


def run(args):
    """Refine a picture, or every picture of a page that `sample` or `refine` wrote."""
    settings = RefineSettings(**given_settings(args, REFINE_FIELDS))
    out, animation = gallery.check_target(args.out), args.animate
    if animation is not None:
        animation = gallery.check_target(animation, ".gif")
    given = own_or_none(args)
    takes, classes = asked_of(args, given)
    page = opened(args.picture, takes, classes)
    size = page.size(takes[0])
    gallery.check_target(out, room=gallery.room(size))
    if animation is not None:
        gallery.check_target(animation, ".gif", gallery.room(size, settings.iterations + 1))
    seed = args.seed
    if seed is None:
        seed = number_of(page.said, "Seed", whole(0, SEEDS), 0)
    names, pictures = args.label, page.pictures
    if given:
        pictures = in_channels_of(given, pictures)
    else:
        names = args.label = args.label or page.said["labels"]
        if args.guidance is None:
            args.guidance = number_of(page.said, "CFG scale", fraction(0), 1.0)
        given = unlabelled(models.asked(args))
    steps, calls = refined(given, pictures, settings, seed)
    about = {
        "Refine label": " / ".join(names or ["no class"]),
        **{f"Refine {REFINED.get(key, key)}": value for key, value in told(given).items()},
        "Refine seed": seed, "Refine calls": calls,
        **{field.infotext: getattr(settings, field.key) for field in REFINE_FIELDS}, "Refine version": VERSION,
    }  # fmt: skip
    pairs = history(page.said) | page.pairs(given) | about
    # of what drew it; in the end, where the WebUIs have it
    pairs["Version"] = pairs.pop("Version", VERSION)
    gallery.write_png(page.image(steps[-1]), out, infotext.write(prompt(names), pairs))
    print(out)
    if animation is not None:
        gallery.write_gif((page.image(step) for step in steps), animation)
        print(animation)


REFINED = {"Model": "model", "Extra": "extra"}  # how the keys go on after "Refine"


def number_of(said, key, kind, default):
    """Return a number that a file says of itself, ``default`` if it does not."""
    return number_in(said, key, kind, f"give one with {FLAG[key]}") if key in said else default


FLAG = {"Seed": "--seed", "CFG scale": "--guidance"}


def refined(given, pictures, settings, seed):
    """Return the pictures (N, C, H, W) before and after each iteration, and the model calls a
    picture."""
    steps, calls = [pictures.clone() for _ in range(settings.iterations + 1)], 0
    each = parts(len(pictures))
    with progress(settings.iterations * settings.calls * len(each), "refine") as moved:
        for part in each:

            def keep(state, part=part):
                for later in steps[state["i"] + 1 :]:  # a picture that is done stays as it is
                    later[part] = state["x"].cpu()

            done = refine(
                given.model, pictures[part].to(given.device), extra_args(given, len(pictures), part), keep, True,
                settings=settings, seeds=seed + part.start, call_callback=moved,
            )  # fmt: skip
            calls = max(calls, done.calls)
    return steps, calls


def history(said):
    """Return the pairs of a file that a refinement leaves as they are: of its drawing, and of
    earlier refinements, numbered."""
    pairs = {key: value for key, value in said.items() if key != "labels"}
    if pairs and "Refine model" not in pairs:
        pairs["Label"] = " / ".join(said["labels"] or ["no class"])
    return infotext.numbered(pairs)
