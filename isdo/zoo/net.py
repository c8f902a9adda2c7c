"""A small class-conditional UNet whose output is eps, v or the flow velocity, as the checkpoint
says."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..denoiser import PREDICTIONS
from ..process import scaled_linear_betas

CLASSES = (
    "faces",
    "people",
    "animals",
    "food",
    "travel",
    "activities",
    "objects",
    "symbols",
    "flags",
)
NULL = len(CLASSES)  # of the zoo's own models; of any net: `Net.null`
MULTIPLE = 8  # of the picture's sides: the net folds 2x2 pixels and halves twice
NARROWEST = 32  # of which widths are multiples: a group of a norm has 16 channels, half a width more is whole groups
LARGEST, WIDEST = 512, 1024


@dataclass(frozen=True)
class Architecture:
    """What a net is built from, and what a model's file says of that.

    Args:
        size: pixels of the side of the square pictures that it is trained on, a multiple of 8.
        width: channels of the finest of its three scales, a multiple of 32; the others have one and
            a half times and twice as many.
        classes: names, in the order of their labels; none: the net is unconditional.
        sigma_data: root mean square of the pictures' values in [-1, 1].

    Raises:
        ValueError: sizes that do not come out even, or no number.
    """

    size: int = 32
    width: int = 64
    classes: tuple[str, ...] = CLASSES
    sigma_data: float = 0.6

    def __post_init__(self) -> None:
        for name, value, multiple, most in (
            ("size", self.size, MULTIPLE, LARGEST),
            ("width", self.width, NARROWEST, WIDEST),
        ):
            if not isinstance(value, int) or value % multiple or not 0 < value <= most:
                raise ValueError(
                    f"the {name} is {value}: give a multiple of {multiple} from {multiple} to {most}"
                )
        if not 0 < self.sigma_data < math.inf:
            raise ValueError(f"sigma_data is {self.sigma_data}: it must be above 0, and finite")

    @property
    def channels(self) -> tuple[int, int, int]:
        """Channels of the three scales, fine to coarse."""
        return self.width, self.width * 3 // 2, self.width * 2

    @property
    def shape(self) -> tuple[int, int, int]:
        """(3, H, W) of a picture."""
        return 3, self.size, self.size


EMOJI = Architecture()  # of the zoo's own models


def scaled_linear() -> Tensor:
    """Return alphas_cumprod (1000,) float64 of Stable Diffusion's scaled-linear schedule."""
    return (1 - scaled_linear_betas()).cumprod(0)


def zero_terminal_snr(alphas_cumprod: Tensor) -> Tensor:
    """Return the schedule shifted so that nothing of the picture is left at its end (Lin et al.
    2023, algorithm 1).

    The last level is not 0 but the WebUIs' 4.8973e-08, whose sigma is 4518.8: eps-like quantities
    stay finite.
    """
    root = alphas_cumprod.sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    return (root**2).clamp(min=4.8973451890853435e-08)


def group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(channels // 16, channels, eps=1e-5)


def _silence(layer: nn.Conv2d) -> None:
    """Let a layer answer 0 until it has learned something."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class Block(nn.Module):
    """Two 3x3 convolutions with a residual; the embedding scales and shifts the middle."""

    def __init__(self, inputs: int, outputs: int, embedding: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = group_norm(inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * outputs)
        self.norm2, self.conv2 = group_norm(outputs), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        _silence(self.conv2)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        h = self.conv1(F.silu(self.norm1(x)))
        h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        return self.skip(x) + self.conv2(F.silu(h))


class Attention(nn.Module):
    """Self-attention over the pixels, with a residual."""

    def __init__(self, channels: int, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.norm = heads, group_norm(channels)
        self.qkv, self.out = nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(channels, channels, 1)
        _silence(self.out)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        qkv = self.qkv(self.norm(x)).reshape(
            batch, 3, self.heads, channels // self.heads, height * width
        )
        q, k, v = qkv.transpose(-1, -2).unbind(1)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2)
        return x + self.out(mixed.reshape(batch, channels, height, width))


class Trunk(nn.Module):
    """The learned part: a UNet on a picture of unit variance, told the noise level and the
    class."""

    frequencies: Tensor

    def __init__(self, architecture: Architecture = EMOJI, heads: int = 4) -> None:
        super().__init__()
        (c1, c2, c3), embedding = architecture.channels, 2 * architecture.width
        # at most one turn over a factor e^2 of noise: a denoiser that is smooth in sigma is one
        # that can be integrated
        self.register_buffer(
            "frequencies",
            2.0 ** torch.linspace(-4, 0, 16, device="cpu") * math.pi,
            persistent=False,
        )
        self.embed = nn.Sequential(
            nn.Linear(32, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        self.label = nn.Embedding(len(architecture.classes) + 1, embedding)
        self.inlet = nn.Conv2d(
            12, c1, 3, padding=1
        )  # 2x2 pixels are one cell: a quarter of the work, little lost
        self.down1, self.down2, self.down3 = (
            Block(a, b, embedding) for a, b in ((c1, c1), (c1, c2), (c2, c3))
        )
        self.middle, self.middle_attention = Block(c3, c3, embedding), Attention(c3, heads)
        self.up3, self.up2, self.up1 = (
            Block(a, b, embedding) for a, b in ((2 * c3, c3), (c3 + c2, c2), (c2 + c1, c1))
        )
        self.up2_attention = Attention(c2, heads)
        self.outlet_norm, self.outlet = group_norm(c1), nn.Conv2d(c1, 12, 3, padding=1)
        _silence(self.outlet)

    def forward(self, x: Tensor, level: Tensor, labels: Tensor) -> Tensor:
        """x (B, 3, H, W), H and W multiples of 8; level (B,) the log noise-to-signal ratio; labels
        (B,) long."""
        angle = level[:, None] * self.frequencies
        embedding = F.silu(
            self.embed(torch.cat([angle.sin(), angle.cos()], 1)) + self.label(labels)
        )
        h1 = self.down1(self.inlet(F.pixel_unshuffle(x, 2)), embedding)
        h2 = self.down2(F.avg_pool2d(h1, 2), embedding)
        h3 = self.down3(F.avg_pool2d(h2, 2), embedding)
        h = self.middle_attention(self.middle(h3, embedding))
        h = self.up3(torch.cat([h, h3], 1), embedding)
        h = self.up2_attention(
            self.up2(torch.cat([F.interpolate(h, scale_factor=2.0), h2], 1), embedding)
        )
        h = self.up1(torch.cat([F.interpolate(h, scale_factor=2.0), h1], 1), embedding)
        return F.pixel_shuffle(self.outlet(F.silu(self.outlet_norm(h))), 2)


class Net(nn.Module):
    """A network in the call shape of its prediction type: ``net(c_in x, t, labels) -> eps | v |
    velocity``.

    Inside, the trunk corrects the Wiener filter of white data with variance sigma_data^2 (EDM,
    equation 7), so that the three prediction types are three outlets of one architecture and can be
    fine-tuned from each other. ``t`` is the index into the 1,000 levels for eps and v (fractions
    are interpolated in log sigma, as k-diffusion does), and sigma itself for flow.
    """

    def __init__(
        self,
        prediction: str,
        alphas_cumprod: Tensor | None = None,
        architecture: Architecture = EMOJI,
    ) -> None:
        super().__init__()
        self.prediction, self.architecture = PREDICTIONS[prediction], architecture
        self.sigma_data, self.trunk = architecture.sigma_data, Trunk(architecture)
        self.null = len(architecture.classes)  # the label that stands for no class
        self.set_schedule(alphas_cumprod)

    def set_schedule(self, alphas_cumprod: Tensor | None) -> None:
        """Give t its meaning: alphas_cumprod (1000,), or None where t is sigma itself."""
        self.alphas_cumprod = alphas_cumprod
        self.log_sigmas = (
            None if alphas_cumprod is None else ((1 - alphas_cumprod) / alphas_cumprod).log() / 2
        )

    def sigma(self, t: Tensor) -> Tensor:
        """Return sigma (float32) of t."""
        if self.log_sigmas is None:
            return t.float()
        low = t.floor().long().clamp(0, len(self.log_sigmas) - 2)
        fraction, table = t - low, self.log_sigmas.to(t.dtype).to(t.device)
        return (table[low] * (1 - fraction) + table[low + 1] * fraction).exp().float()

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """x (B, 3, H, W); t (B,); labels (B,) long or None for the null class."""
        labels = torch.full((len(x),), self.null, device=x.device) if labels is None else labels
        sigma = self.sigma(t)[:, None, None, None]
        path, c_out = self.prediction.path, self.prediction.c_out(sigma)
        signal, variance = path.signal(sigma), self.sigma_data**2
        x = x / self.prediction.c_in(sigma)
        total = signal**2 * variance + sigma**2
        # past a ratio of 400 the picture is gone and the level stops moving: pure noise (a = 0) is
        # an ordinary input
        level = (sigma / (signal + sigma / 400)).log().flatten()
        skip = (signal * variance / total - self.prediction.c_skip(sigma)) / c_out
        return skip * x + self.sigma_data * sigma * total**-0.5 / c_out * self.trunk(
            x * total**-0.5, level, labels
        )
