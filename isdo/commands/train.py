"""python -m isdo train: make the embedded models."""

import math
from dataclasses import replace
from functools import partial

from .. import files, zoo
from .arguments import fraction, whole

SUMMARY = "train an embedded model"
# bytes: twice what a model of the zoo, what its training's state takes
MODEL_ROOM, CHECKPOINT_ROOM = 2**23, 2**26


def add_arguments(parser):
    """Give the command's parser its arguments."""
    add = parser.add_argument
    add("--model", choices=list(TRAININGS), required=True)
    add("--out", metavar="FILE", help="the model (out/MODEL.safetensors)")
    add("--checkpoint", metavar="FILE", help="the state to go on from (beside the model)")
    after = "go on from this model, as it was written, where there is no checkpoint"
    add("--after", metavar="MODEL", help=after)
    add("--steps", type=whole(1), help="steps altogether, instead of the configuration's")
    add("--processes", type=whole(1), help="CPU processes (one for each core)")
    add("--seconds", type=fraction(0), default=math.inf, help="stop and save after so long")
    add("--font", metavar="FILE", help="NotoColorEmoji.ttf, if it is not where Debian puts it")
    add("--groups", metavar="FILE", help="emoji-test.txt, if it is not where Debian puts it")


def run(args):
    """Train a model of the zoo, or go on from the checkpoint; or the classifier of the suites of
    sets."""
    out = files.named(f"out/{args.model}.safetensors" if args.out is None else args.out)
    files.make_folder(out.parent)
    files.check_target(out, MODEL_ROOM)
    data = {name: getattr(args, name) for name in ("font", "groups") if getattr(args, name)}
    TRAININGS[args.model](args, out, data)
    print(out)


def train_zoo(args, out, data):
    """Train a model of the zoo into the file ``out``."""
    from ..zoo.train import CONFIGS, train

    config = CONFIGS[args.model]
    if args.steps is not None:
        config = replace(config, steps=args.steps)
    checkpoint = files.named(out.with_suffix(".pt") if args.checkpoint is None else args.checkpoint)
    files.make_folder(checkpoint.parent)
    files.check_target(checkpoint, CHECKPOINT_ROOM)
    train(config, out, checkpoint, args.processes, args.seconds, after=args.after, **data)


def train_classifier(args, out, data):
    """Train the classifier into the file ``out``."""
    from tqdm import tqdm

    from ..bench import classifier

    if args.checkpoint or args.processes or args.after or args.seconds < math.inf:
        raise ValueError(
            "the classifier trains in minutes, in one go: leave out --checkpoint, --processes, --after, --seconds"
        )
    config = classifier.Config() if args.steps is None else classifier.Config(steps=args.steps)
    classifier.train(config, out, partial(tqdm, desc="training"), **data)


TRAININGS = {name: train_zoo for name in zoo.NAMES} | {"classifier": train_classifier}
