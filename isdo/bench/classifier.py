"""A small classifier of the zoo's pictures: its features are the space in which sets of pictures
are compared."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from ..files import replacing
from ..zoo import data
from ..zoo.net import CLASSES, group_norm
from .moments import Moments, frechet, moments

FILE = Path(__file__).with_name("classifier.safetensors")
FEATURES = 64
EDGE = 2  # pixels by which training pictures are moved about


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
    """A convolutional net (B, 3, 32, 32) in [-1, 1] -> logits (B, 9).

    SiLU and mean pooling throughout: features that are smooth in the picture, so that a small
    change of the pictures is a small change of their distance.
    """

    def __init__(self):
        super().__init__()
        self.inlet = nn.Conv2d(12, 32, 3, padding=1)
        self.blocks = nn.ModuleList([Block(32, 32), Block(32, 64), Block(64, 64)])
        self.norm, self.neck = group_norm(64), nn.Linear(64, FEATURES)
        self.outlet = nn.Linear(FEATURES, len(CLASSES))

    def features(self, x):
        """Return the penultimate layer (B, 64) of pictures (B, 3, 32, 32) in [-1, 1]."""
        h = self.inlet(F.pixel_unshuffle(x, 2))
        for i, block in enumerate(self.blocks):
            h = block(F.avg_pool2d(h, 2) if i else h)
        return F.silu(self.neck(F.silu(self.norm(h)).mean((2, 3))))

    def forward(self, x):
        return self.outlet(self.features(x))


@dataclass(frozen=True)
class Judge:
    """The trained classifier, the Moments of the real pictures' features, and how often each class
    occurs (9,).

    What a judge has, and what of it is optional: `judge.Judge`.
    """

    net: Classifier
    real: Moments
    odds: torch.Tensor
    about: dict

    @torch.no_grad()
    def __call__(self, pictures):
        """Return (features (B, 64), most likely class (B,)) of pictures (B, 3, 32, 32) in [-1,
        1]."""
        features = self.features(pictures)
        return features, self.net.outlet(features).argmax(1)

    def features(self, pictures):
        """Return the features (B, 64) of pictures (B, 3, 32, 32) in [-1, 1].

        Raises:
            ValueError: pictures of another shape.
        """
        if pictures.shape[1:] != (3, data.SIZE, data.SIZE):
            raise ValueError(
                f"the embedded judge knows pictures {(3, data.SIZE, data.SIZE)}, not {tuple(pictures.shape[1:])}: "
                "give another by --judge"
            )
        return self.net.features(pictures.float().clamp(-1, 1))

    def accuracy(self, pictures, labels):
        """Return the share of the pictures that are taken for the class in labels (B,)."""
        return (self(pictures)[1] == labels).double().mean().item()

    @property
    def floor(self):
        """The Fréchet distance of one half of the real pictures from the other."""
        return self.about["floor"]

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

    def to(self, device):
        """Move the net to ``device``; returns self."""
        self.net.to(device)
        return self


def load(file=FILE):
    """Return the embedded Judge.

    Raises:
        ValueError: when its file is missing.
    """
    if not Path(file).exists():
        raise ValueError(
            f"the classifier has no weights here: make them with python -m isdo train --model classifier --out {file}"
        )
    with safe_open(file, "pt") as opened:
        tensors = {key: opened.get_tensor(key) for key in opened.keys()}
        metadata = opened.metadata()
    real = Moments(tensors.pop("real.mean"), tensors.pop("real.covariance"))
    odds = tensors.pop("class_odds")
    net = Classifier()
    net.load_state_dict({key: value.float() for key, value in tensors.items()})
    about = {
        key: json.loads(metadata[key])
        for key in ("config", "accuracy", "accuracy_per_class", "floor", "classes")
    }
    return Judge(
        net.eval().requires_grad_(False), real, odds, about | {"licence": metadata["data"]}
    )


def augment(pictures, generator):
    """Flip half of the pictures (B, 3, H, W) and move each by up to EDGE pixels, white coming in at
    the sides."""
    count, _, height, width = pictures.shape
    flip = torch.rand(count, generator=generator, device="cpu") < 0.5
    pictures = torch.where(flip[:, None, None, None], pictures.flip(3), pictures)
    padded = F.pad(pictures, [EDGE] * 4, value=1.0)
    dy, dx = torch.randint(2 * EDGE + 1, (2, count, 1), generator=generator, device="cpu")
    rows, columns = torch.arange(height, device="cpu") + dy, torch.arange(width, device="cpu") + dx
    pictures = torch.arange(count, device="cpu")[:, None, None]
    return padded[pictures, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def rate_at(config, step):
    """Return the learning rate at a step."""
    return (
        config.rate
        * min(1.0, step / config.warmup)
        * (1 + math.cos(math.pi * step / config.steps))
        / 2
    )


def fit(emoji, config, progress=iter):
    """Return a Classifier trained on ``emoji``, every concept counting alike; ``progress`` wraps
    the steps."""
    torch.manual_seed(config.seed)
    net = Classifier().to(memory_format=torch.channels_last)
    generator, odds = torch.Generator("cpu").manual_seed(config.seed), emoji.odds()
    optimizer = torch.optim.AdamW(
        net.parameters(), lr=config.rate, weight_decay=config.weight_decay
    )
    for step in progress(range(config.steps)):
        index = torch.multinomial(odds, config.batch, replacement=True, generator=generator)
        variant = torch.randint(
            emoji.pictures.shape[1], (config.batch,), generator=generator, device="cpu"
        )
        pictures = augment(data.to_unit(emoji.pictures[index, variant]), generator)
        logits = net(pictures.contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(logits, emoji.labels[index], label_smoothing=config.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = rate_at(config, step + 1)
        optimizer.step()
    return net.eval().requires_grad_(False)


def accuracy(net, emoji):
    """Return (accuracy, accuracy of each class) on the pictures as they are, every concept counting
    alike."""
    right = (net(data.to_unit(emoji.pictures[:, 0])).argmax(1) == emoji.labels).double()
    odds = emoji.odds().double()
    classes = [emoji.labels == label for label in range(len(CLASSES))]
    per_class = [
        float((right * odds)[m].sum() / odds[m].sum()) if m.any() else math.nan for m in classes
    ]
    return float((right * odds).sum()), per_class


def features_of(net, emoji):
    """Return the Moments of the features of ``emoji``, all variants, every concept counting
    alike."""
    variants = emoji.pictures.shape[1]
    found = torch.cat(
        [net.features(data.to_unit(part)) for part in emoji.pictures.flatten(0, 1).split(256)]
    )
    return moments(found, emoji.odds().double().repeat_interleave(variants))


def train(config, out, progress=iter, font=data.FONT, groups=data.GROUPS):
    """Train the classifier and write it with the moments of the real pictures' features to ``out``.

    Args:
        config: a Config.
        out: a safetensors file.
        progress: wraps the range of steps, such as tqdm.
        font, groups: as in `zoo.data.load_emoji`.
    """
    emoji = data.load_emoji(config.variants, config.seed, font, groups)
    known, held_out = emoji.split(config.held_out, config.seed)
    net = fit(known, config, progress)
    # what is measured is what is stored: rounded to half precision first
    state = {name: value.half().contiguous() for name, value in net.state_dict().items()}
    net.load_state_dict({name: value.float() for name, value in state.items()})
    overall, per_class = accuracy(net, held_out)
    real = features_of(net, emoji)
    floor = frechet(*(features_of(net, half) for half in emoji.split(0.5, config.seed)))
    odds = torch.zeros(len(CLASSES), dtype=torch.float64, device="cpu").index_add(
        0, emoji.labels, emoji.odds().double()
    )
    metadata = {
        "config": json.dumps(asdict(config)),
        "data": data.LICENCE,
        "classes": json.dumps(CLASSES),
        "accuracy": json.dumps(round(overall, 4)),
        "accuracy_per_class": json.dumps([round(value, 4) for value in per_class]),
        "floor": json.dumps(round(floor, 4)),
    }
    tensors = state | {
        "real.mean": real.mean,
        "real.covariance": real.covariance,
        "class_odds": odds,
    }
    with replacing(out) as part:
        save_file({name: value.contiguous() for name, value in tensors.items()}, part, metadata)
