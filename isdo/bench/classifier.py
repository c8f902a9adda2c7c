"""A small classifier of the zoo's pictures, or of anybody's own: its features are the space in
which sets of pictures are compared."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from ..files import replacing
from ..zoo import data
from ..zoo.folder import Folder
from ..zoo.net import CLASSES, NULL, group_norm
from .moments import Moments, frechet, moments

FILE = Path(__file__).with_name("classifier.safetensors")
FEATURES = 64
EDGE = 2  # pixels by which training pictures are moved about
TURNS = 4  # classes of pictures that have none: how far a picture is turned, in quarters
EXAMPLES = 20_000  # features of single real pictures in the file: 5 MB; recall of sets of 10,000
CHUNK = 256  # pictures of a call where nothing is learned


@dataclass(frozen=True)
class Config:
    """What reproduces the classifier: ``python -m isdo train --model classifier``.

    The learning rate rises over ``warmup`` steps and falls as a cosine to zero.
    """

    steps: int = 1500
    batch: int = 64
    rate: float = 2e-3
    warmup: int = 100
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    variants: int = 4
    held_out: float = 0.1
    seed: int = 0
    flip: bool = True


class Block(nn.Module):
    """Two 3x3 convolutions with a residual."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.norm1, self.conv1 = group_norm(inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2, self.conv2 = group_norm(outputs), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x):
        h = self.conv1(F.silu(self.norm1(x)))
        return self.skip(x) + self.conv2(F.silu(self.norm2(h)))


class Classifier(nn.Module):
    """A convolutional net (B, 3, S, S) in [-1, 1] -> logits (B, classes).

    SiLU and mean pooling throughout: features that are smooth in the picture, so that a small
    change of the pictures is a small change of their distance.

    Args:
        classes: how many.
        size: S; every doubling above 32 brings a block more, so that the last sees as much of the
            picture.
    """

    def __init__(self, classes=NULL, size=data.SIZE):
        super().__init__()
        self.inlet = nn.Conv2d(12, 32, 3, padding=1)
        more = [Block(64, 64) for _ in range(max(0, round(math.log2(size / data.SIZE))))]
        self.blocks = nn.ModuleList([Block(32, 32), Block(32, 64), Block(64, 64), *more])
        self.norm, self.neck = group_norm(64), nn.Linear(64, FEATURES)
        self.outlet = nn.Linear(FEATURES, classes)

    def features(self, x):
        """Return the penultimate layer (B, 64) of pictures (B, 3, S, S) in [-1, 1]."""
        h = self.inlet(F.pixel_unshuffle(x, 2))
        for i, block in enumerate(self.blocks):
            h = block(F.avg_pool2d(h, 2) if i else h)
        return F.silu(self.neck(F.silu(self.norm(h)).mean((2, 3))))

    def forward(self, x):
        return self.outlet(self.features(x))


@dataclass(frozen=True)
class Trained:
    """A trained classifier with what it knows of the real pictures.

    What a judge has, and what of it is optional: `judge.Judge`.

    Args:
        net: a Classifier.
        real: the Moments of the real pictures' features.
        odds: how often each class occurs (K,), None of pictures without classes.
        about: what its file says: size, classes, accuracy, floor ...
        examples: features of single real pictures (M, 64), or None.
    """

    net: Classifier
    real: Moments
    odds: torch.Tensor | None
    about: dict
    examples: torch.Tensor | None = None

    @torch.no_grad()
    def __call__(self, pictures):
        """Return (features (B, 64), most likely class (B,)) of pictures (B, 3, S, S) in [-1, 1]."""
        features = self.features(pictures)
        return features, self.net.outlet(features).argmax(1)

    def features(self, pictures):
        """Return the features (B, 64) of pictures (B, 3, S, S) in [-1, 1].

        Raises:
            ValueError: pictures of another shape.
        """
        if pictures.shape[1:] != (shape := (3, self.size, self.size)):
            raise ValueError(
                f"{self.title} knows pictures {shape}, not {tuple(pictures.shape[1:])}: give another by --judge"
            )
        return self.net.features(pictures.float().clamp(-1, 1))

    @property
    def accuracy(self):
        """A function of (pictures, labels (B,)): the share of the pictures that are taken for their
        class; None where there are no classes."""
        return None if self.odds is None else self._share

    def _share(self, pictures, labels):
        return (self(pictures)[1] == labels).double().mean().item()

    @property
    def title(self):
        """What it is called in messages."""
        return "the judge"

    @property
    def size(self):
        """Pixels of a picture's side."""
        return self.about.get("size", data.SIZE)

    @property
    def classes(self):
        """Names, in the order of the labels; none of pictures without classes."""
        return tuple(self.about.get("classes", CLASSES))

    @property
    def floor(self):
        """The Fréchet distance of one half of the real pictures from the other."""
        return self.about["floor"]

    def to(self, device):
        """Move the net to ``device``; returns self."""
        self.net.to(device)
        return self


class Judge(Trained):
    """The classifier of emoji, which can show them, too."""

    @property
    def title(self):
        """What it is called in messages."""
        return "the embedded judge"

    def pictures(self, count, seed):
        """Return (emoji (count, 3, 32, 32), their labels), every concept counting alike.

        Raises:
            FileNotFoundError: the emoji are not on this machine.
        """
        emoji = data.load_emoji()
        chosen = torch.multinomial(
            emoji.odds(), count, generator=torch.Generator("cpu").manual_seed(seed)
        )
        return data.to_unit(emoji.pictures[chosen, 0]), emoji.labels[chosen]


TOLD = ("config", "accuracy", "accuracy_per_class", "floor", "classes")


def load(file=FILE):
    """Return the judge in a file that ``isdo train --model classifier`` wrote: the embedded Judge,
    or a Trained of anybody's own pictures.

    Raises:
        ValueError: the file is missing, or holds no classifier.
    """
    if not Path(file).is_file():
        raise ValueError(
            f"the classifier has no weights here: make them with python -m isdo train --model classifier --out {file}"
        )
    try:
        with safe_open(file, "pt") as opened:
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}
            metadata = opened.metadata() or {}
        about = {key: json.loads(metadata[key]) for key in TOLD}
        about |= {"licence": metadata["data"]}
        about |= {key: json.loads(metadata[key]) for key in ("size",) if key in metadata}
        real = Moments(tensors.pop("real.mean"), tensors.pop("real.covariance"))
        odds, examples = tensors.pop("class_odds", None), tensors.pop("real.examples", None)
        with torch.device("cpu"):  # whatever device is the default
            net = Classifier(len(about["classes"]) or TURNS, about.get("size", data.SIZE))
        net.load_state_dict({key: value.float() for key, value in tensors.items()})
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{file} holds no classifier ({str(error).splitlines()[0]}): give a file that python -m isdo train --model "
            "classifier wrote"
        ) from None
    kind = Judge if metadata["data"] == data.LICENCE else Trained
    return kind(net.eval().requires_grad_(False), real, odds, about, examples)


def augment(pictures, generator, flip=True, sides=None):
    """Mirror half of the pictures (B, 3, H, W) and move each by up to EDGE pixels.

    Args:
        generator: of the CPU, wherever the pictures are.
        flip: mirror them.
        sides: how torch pads what comes in at the sides; None: white.
    """
    count, _, height, width = pictures.shape
    device = pictures.device
    mirrored = torch.rand(count, generator=generator, device="cpu") < (0.5 if flip else 0)
    pictures = torch.where(mirrored.to(device)[:, None, None, None], pictures.flip(3), pictures)
    padded = (
        F.pad(pictures, [EDGE] * 4, value=1.0)
        if sides is None
        else F.pad(pictures, [EDGE] * 4, sides)
    )
    moves = torch.randint(2 * EDGE + 1, (2, count, 1), generator=generator, device="cpu")
    dy, dx = moves.to(device)
    rows, columns = (
        torch.arange(height, device=device) + dy,
        torch.arange(width, device=device) + dx,
    )
    pictures = torch.arange(count, device=device)[:, None, None]
    return padded[pictures, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def turned(pictures, quarters):
    """Return pictures (B, C, S, S), each turned by so many quarters (B,)."""
    ways = torch.stack([pictures.rot90(k, (2, 3)) for k in range(TURNS)], 1)
    return ways[torch.arange(len(pictures), device=pictures.device), quarters]


def rate_at(config, step):
    """Return the learning rate at a step."""
    return (
        config.rate
        * min(1.0, step / config.warmup)
        * (1 + math.cos(math.pi * step / config.steps))
        / 2
    )


def fit(pictures, config, progress=iter, device="cpu"):
    """Return a Classifier trained on ``pictures`` (data.Pictures), every concept counting alike.

    Without classes it learns how far a picture is turned (Gidaris et al. 2018, "Unsupervised
    representation learning by predicting image rotations"): to see that takes features of what is
    in it.

    Args:
        pictures: data.Pictures.
        config: a Config.
        progress: wraps the steps.
        device: where the net is trained.
    """
    torch.manual_seed(config.seed)
    with torch.device("cpu"):
        net = Classifier(len(pictures.classes) or TURNS, pictures.size)
    net = net.to(device, memory_format=torch.channels_last)
    generator, odds = torch.Generator("cpu").manual_seed(config.seed), pictures.odds()
    sides = "reflect" if isinstance(pictures, Folder) else None
    optimizer = torch.optim.AdamW(
        net.parameters(), lr=config.rate, weight_decay=config.weight_decay
    )
    for step in progress(range(config.steps)):
        index = torch.multinomial(odds, config.batch, replacement=True, generator=generator)
        variant = torch.randint(
            pictures.pictures.shape[1], (config.batch,), generator=generator, device="cpu"
        )
        shown, labels = pictures.pictures[index, variant].to(device), pictures.labels[index]
        shown = augment(data.to_unit(shown), generator, config.flip, sides)
        if not pictures.classes:
            labels = torch.randint(TURNS, (config.batch,), generator=generator, device="cpu")
            shown = turned(shown, labels.to(device))
        logits = net(shown.contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(logits, labels.to(device), label_smoothing=config.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = rate_at(config, step + 1)
        optimizer.step()
    return net.eval().requires_grad_(False)


def chunks(pictures):
    """Yield (N, 3, S, S) uint8 in parts that a net takes at once, in [-1, 1]."""
    for part in pictures.split(CHUNK):
        yield data.to_unit(part)


def accuracy(net, pictures):
    """Return (accuracy, accuracy of each class) on the pictures as they are, every concept counting
    alike; without classes, on each picture in all turns."""
    device = next(net.parameters()).device

    def taken(shown):
        return net(shown.to(device)).argmax(1).cpu()

    shown, odds = pictures.pictures[:, 0], pictures.odds().double()
    odds = odds / odds.sum()
    if not pictures.classes:
        per_turn = [
            float(
                (torch.cat([taken(p.rot90(k, (2, 3))) for p in chunks(shown)]) == k).double() @ odds
            )
            for k in range(TURNS)
        ]
        return sum(per_turn) / TURNS, per_turn
    right = (torch.cat([taken(part) for part in chunks(shown)]) == pictures.labels).double()
    classes = [pictures.labels == label for label in range(len(pictures.classes))]
    per_class = [
        float((right * odds)[m].sum() / odds[m].sum()) if m.any() else math.nan for m in classes
    ]
    return float((right * odds).sum()), per_class


def features(net, pictures):
    """Return the features (N variants, 64) of ``pictures``, all variants, on the CPU."""
    device = next(net.parameters()).device
    parts = chunks(pictures.pictures.flatten(0, 1))
    return torch.cat([net.features(part.to(device)).cpu() for part in parts])


def features_of(net, pictures):
    """Return the Moments of the features of ``pictures``, all variants, every concept counting
    alike."""
    return moments_of(features(net, pictures), pictures)


def moments_of(found, pictures):
    """Return the Moments of features (N variants, 64), every concept counting alike."""
    variants = pictures.pictures.shape[1]
    return moments(found, pictures.odds().double().repeat_interleave(variants))


def train(config, out, progress=iter, font=data.FONT, groups=data.GROUPS):
    """Train the classifier of emoji and write it with the moments of the real pictures' features to
    ``out``.

    Args:
        config: a Config.
        out: a safetensors file.
        progress: wraps the range of steps, such as tqdm.
        font, groups: as in `zoo.data.load_emoji`.
    """
    train_on(data.load_emoji(config.variants, config.seed, font, groups), config, out, progress)


def train_on(pictures, config, out, progress=iter, device="cpu"):
    """Train a classifier on ``pictures`` (data.Pictures) and write it to ``out`` with what it knows
    of them: moments, for a Folder also features of up to EXAMPLES of them.

    Args:
        pictures: data.Pictures.
        config, out, progress: as for `train`.
        device: where it is trained.

    Returns:
        Its accuracy on held-out pictures.
    """
    known, held_out = pictures.split(config.held_out, config.seed)
    net = fit(known, config, progress, device)
    # what is measured is what is stored: rounded to half precision first
    state = {name: value.half().cpu().contiguous() for name, value in net.state_dict().items()}
    net.load_state_dict({name: value.float() for name, value in state.items()})
    overall, per_class = accuracy(net, held_out)
    found = features(net, pictures)
    real = moments_of(found, pictures)
    floor = frechet(*(features_of(net, half) for half in pictures.split(0.5, config.seed)))
    metadata = {
        "config": json.dumps(asdict(config)),
        "data": pictures.licence,
        "classes": json.dumps(pictures.classes),
        "size": json.dumps(pictures.size),
        "accuracy": json.dumps(round(overall, 4)),
        "accuracy_per_class": json.dumps([round(value, 4) for value in per_class]),
        "floor": json.dumps(round(floor, 4)),
    }
    tensors = state | {"real.mean": real.mean, "real.covariance": real.covariance}
    if pictures.classes:
        tensors["class_odds"] = torch.zeros(
            len(pictures.classes), dtype=torch.float64, device="cpu"
        ).index_add(0, pictures.labels, pictures.odds().double())
    if isinstance(pictures, Folder):  # in an order by chance: the first are any
        tensors["real.examples"] = found[:EXAMPLES]
    with replacing(out) as part:
        save_file({name: value.contiguous() for name, value in tensors.items()}, part, metadata)
    return overall
