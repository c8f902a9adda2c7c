"""python -m isdo invert: find the noise that a picture comes from."""

from .. import gallery, infotext, latents, models
from ..inversion import calls_of, invert
from ..sampling import sample_isdo
from ..schedules import SCHEDULES, schedule
from ..settings import FIELDS, Settings
from .arguments import EACH, LABEL, PICTURE, add_settings, device, fraction, given_settings, whole
from .batches import unlabelled, walk
from .pages import (
    VERSION,
    asked_of,
    in_channels_of,
    opened,
    own_or_none,
    prompt,
    told,
)

SUMMARY = "find the noise that a model draws a picture from"


def add_arguments(parser):
    """Give the command's parser its arguments."""
    add = parser.add_argument
    add("picture", help=PICTURE)
    models.add_flags(add, "eps", "what draws (%(default)s)")
    add("--label", **LABEL, help=f"{EACH} (those of the file)")
    guided = "classifier-free guidance on the way to the noise; 1, none, is the most exact (1)"
    add("--guidance", type=fraction(0), help=guided)
    steps = "steps, with isdo about one model call each by default (%(default)s)"
    add("--steps", type=whole(1), default=20, help=steps)
    add("--schedule", choices=list(SCHEDULES), help="%(choices)s (karras; for flow models: flow)")
    out = "file for the noise, which sample --noise takes (%(default)s)"
    add("--out", "-o", default="noise.safetensors", help=out)
    back = "draw the picture again from the noise, write that there, as PNG, and say how far it is"
    add("--back", metavar="FILE", help=back)
    add("--device", **device())
    add_settings(parser)


def run(args):
    """Find the noise that a model draws a picture from, or every picture of a page that `sample` or
    `refine` wrote."""
    settings = Settings(**given_settings(args))
    out, back, given = latents.check_target(args.out), args.back, own_or_none(args)
    takes, classes = asked_of(args, given)
    page = opened(args.picture, takes, classes)
    if back is not None:
        back = gallery.check_target(back, room=gallery.room(page.size(takes[0])))
    pictures = page.pictures
    if given:
        pictures = in_channels_of(given, pictures)
    else:
        args.label = args.label or page.said["labels"]
        args.guidance = 1.0 if args.guidance is None else args.guidance
        given = unlabelled(models.asked(args))
    args.schedule = args.schedule or models.usual_schedule(given.model)
    sigmas = schedule(args.schedule, args.steps, given.model)
    counted = calls_of(settings, sigmas, given.model.path, given.model.sigma_min)
    x, calls = walk(invert, "invert", counted, given, pictures, sigmas, settings)
    about = {
        "Steps": args.steps, "Schedule type": args.schedule, **told(given),
        **{field.infotext: getattr(settings, field.key) for field in FIELDS}, "Version": VERSION,
    }  # fmt: skip
    latents.write(out, x, float(sigmas[0]), about, args.label or [])
    print(f"{out}\n{calls} model calls a picture")
    if back is not None:
        found, _ = walk(sample_isdo, "and back", args.steps, given, x, sigmas, settings)
        gap = rms(found - pictures) / rms(pictures)
        pairs = about | page.pairs(given) | {"Version": VERSION}
        gallery.write_png(page.image(found), back, infotext.write(prompt(args.label), pairs))
        print(
            f"{back}\ndrawn again it differs by {gap.median():.2g} of its RMS, at most {gap.max():.2g}"
        )


def rms(pictures):
    """Return the root mean square of each picture (N,)."""
    return pictures.square().mean((1, 2, 3)).sqrt()
