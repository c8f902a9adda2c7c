"""python -m isdo train: make the embedded models, or models of your own pictures."""

import argparse
import math
from dataclasses import replace
from functools import partial

from .. import files, zoo
from .arguments import device, fraction, whole

SUMMARY = "train an embedded model, or one of your own pictures"
# bytes: twice what a model of the zoo, what its training's state takes
MODEL_ROOM, CHECKPOINT_ROOM = 2**23, 2**26
SIZE, MINUTES = 32, 10
EMOJI = {"font": "NotoColorEmoji.ttf", "groups": "emoji-test.txt"}  # flags of the zoo's own models
OWN = ("size", "width", "batch", "seed", "flip", "bfloat16", "save_every", "device")  # of --data
RESUMED = (
    "checkpoint",
    "processes",
    "after",
    "width",
    "bfloat16",
    "save_every",
)  # not for the classifier


def add_arguments(parser):
    """Give the command's parser its arguments."""
    add = parser.add_argument
    model = "what it predicts; classifier: the judge of the bench's sets (eps with --data)"
    add("--model", choices=list(TRAININGS), help=model)
    data = "folder of your own pictures, one subfolder a class (left out: emoji)"
    add("--data", metavar="FOLDER", help=data)
    add("--out", metavar="FILE", help="the model (out/MODEL.safetensors)")
    add("--checkpoint", metavar="FILE", help="the state to go on from (beside the model)")
    after = "go on from this model, as it was written, where there is no checkpoint"
    add("--after", metavar="MODEL", help=after)
    add("--steps", type=whole(1), help="steps altogether, instead of the configuration's")
    add("--processes", type=whole(1), help="CPU processes (one for each core)")
    add("--seconds", type=fraction(0), default=math.inf, help="stop and save after so long")
    own = parser.add_argument_group("with --data")
    add = own.add_argument
    size = f"pixels of a picture's side, a multiple of {zoo.MULTIPLE} ({SIZE})"
    add("--size", type=whole(1), help=size)
    width = (
        "channels of the finest scale, a multiple of 32 (64); twice as many: four times the work"
    )
    add("--width", type=whole(1), help=width)
    add("--batch", type=whole(1), help="pictures of a step (CPU: 64, GPU: 512)")
    add("--seed", type=whole(0, 2**23 - 1), help="of weights, order and noise (0)")
    switch = {"action": argparse.BooleanOptionalAction}
    add("--flip", **switch, help="mirror half of the pictures; not for writing (on)")
    half = "matrix products in that format (on for a GPU that has it)"
    add("--bfloat16", **switch, help=half)
    add(
        "--save-every",
        type=fraction(0),
        metavar="MINUTES",
        help=f"write model and state ({MINUTES})",
    )
    where = device() | {"default": None, "help": f"where it is trained ({device()['default']})"}
    add("--device", **where)
    group = parser.add_argument_group("without --data")
    for name, file in EMOJI.items():
        text = f"{file}, if it is not where Debian puts it"
        group.add_argument(f"--{name}", metavar="FILE", help=text)


def run(args):
    """Train a model of the zoo, or one of your own pictures, or go on from the checkpoint; or the
    classifier of the suites of sets."""
    refuse(args, EMOJI if args.data else OWN, "is for emoji" if args.data else "goes with --data")
    if args.model is None:
        if not args.data:
            raise ValueError(f"give --model, one of {', '.join(TRAININGS)}, or --data FOLDER")
        args.model = "eps"
    out = files.named(f"out/{args.model}.safetensors" if args.out is None else args.out)
    files.make_folder(out.parent)
    files.check_target(out, MODEL_ROOM)
    TRAININGS[args.model](args, out)
    print(out)


def refuse(args, flags, why):
    """Refuse flags that were given.

    Raises:
        ValueError: one of them, and why it is not for this training.
    """
    for name in flags:
        if getattr(args, name) is not None:
            raise ValueError(f"--{name.replace('_', '-')} {why}: leave it out")


def checkpoint_of(args, out, room=CHECKPOINT_ROOM):
    """Return the file of the training's state, which can be written."""
    checkpoint = files.named(out.with_suffix(".pt") if args.checkpoint is None else args.checkpoint)
    files.make_folder(checkpoint.parent)
    return files.check_target(checkpoint, room)


def emoji_files(args):
    """Return the files of the emoji that were named."""
    return {name: getattr(args, name) for name in EMOJI if getattr(args, name)}


def train_zoo(args, out):
    """Train a model of the zoo, or of one's own pictures, into the file ``out``."""
    if args.data:
        return train_own(args, out)
    from ..zoo.train import CONFIGS, train

    config = CONFIGS[args.model]
    if args.steps is not None:
        config = replace(config, steps=args.steps)
    checkpoint, data = checkpoint_of(args, out), emoji_files(args)
    return train(config, out, checkpoint, args.processes, args.seconds, after=args.after, **data)


def train_own(args, out):
    """Train a model of one's own pictures into the file ``out``."""
    from ..zoo import train

    checkpoint = checkpoint_of(args, out)
    known = checkpoint if checkpoint.exists() else None
    given = {
        name: getattr(args, name) for name in ("steps", "size", "width", "batch", "seed", "flip")
    }
    where = args.device or device()["default"]
    configured = partial(
        train.own_config,
        args.model,
        checkpoint=known,
        after=args.after,
        device=where,
        half=args.bfloat16,
        **given,
    )
    built = configured().architecture(())  # refuses what is no net before pictures are read
    scale = max(1, (built.width / 64) ** 2)
    files.check_target(out, int(scale * MODEL_ROOM))
    files.check_target(checkpoint, int(scale * CHECKPOINT_ROOM))
    folder = pictures(args, built.size, out)
    minutes = MINUTES if args.save_every is None else args.save_every
    config, after = configured(folder), None if known else args.after
    if config.start == after:  # of another prediction type: its weights alone
        after = None
    train.train_own(
        config, folder, out, checkpoint, args.processes, args.seconds, after, where, minutes
    )


def pictures(args, size, out):
    """Return the Folder that the command line names, and tell what is in it."""
    from tqdm import tqdm

    from ..zoo import folder

    bar = partial(tqdm, desc="reading", unit=" files", leave=False)
    found = folder.read(args.data, size, out.parent, bar)
    print(found.told())
    return found


def train_classifier(args, out):
    """Train the classifier into the file ``out``."""
    from tqdm import tqdm

    from ..bench import classifier

    if args.checkpoint or args.processes or args.after or args.seconds < math.inf:
        raise ValueError(
            "the classifier trains in minutes, in one go: leave out --checkpoint, --processes, --after, --seconds"
        )
    refuse(args, RESUMED, "is not for the classifier")
    config, bar = classifier.Config(), partial(tqdm, desc="training")
    given = {name: getattr(args, name) for name in ("steps", "batch", "seed", "flip")}
    config = replace(config, **{key: value for key, value in given.items() if value is not None})
    if not args.data:
        return classifier.train(config, out, bar, **emoji_files(args))
    built = zoo.Architecture(args.size or SIZE)
    found = pictures(args, built.size, out)
    where = args.device or device()["default"]
    share = classifier.train_on(found, replace(config, variants=1), out, bar, where)
    asked = "class" if found.classes else "how far they are turned: it was shown no classes"
    return print(f"accuracy on held-out pictures: {share:.1%} ({asked})")


TRAININGS = {name: train_zoo for name in zoo.NAMES} | {"classifier": train_classifier}
