"""Problems with a known solution: denoisers in closed form on both paths, and the zoo's models with
a converged run."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import torch

from ..device import wide
from ..path import PATHS, noise_levels
from ..schedules import (
    curvature_sigmas,
    exponential,
    flow,
    karras,
    rest,
    sgm_uniform,
    simple,
    uniform,
)
from ..zoo.net import scaled_linear

SIZE, IMAGES = 16, 16
PACE = 50  # steps of the whole schedule that one from the middle takes its pace from
# the range of Stable Diffusion's scaled-linear schedule, and the flow range that 50 even steps
# cover
RANGES = {"ve": (0.0292, 14.61), "flow": (0.02, 1.0)}


@dataclass(frozen=True, eq=False)
class Problem:
    """An initial value problem of dx/dsigma = (x - D)/sigma: ``model(x, sigma (B,), **extra_args)
    -> D``, from ``x``.

    ``table`` holds the model's ascending noise levels, or only the ends of their range.
    ``solve(problem) -> (x at the end, uncertainty per image)`` is what `reference` and
    `uncertainty` show; it runs once. ``whole`` is the problem of which this one is the end.
    """

    name: str
    path: str
    model: Callable
    x: torch.Tensor
    table: torch.Tensor
    solve: Callable
    extra_args: dict = field(default_factory=dict)
    whole: "Problem | None" = None

    @property
    def sigma_min(self):
        return float(self.table[0])

    @property
    def sigma_max(self):
        return float(self.table[-1])

    @cached_property
    def _solution(self):
        with torch.no_grad():
            return self.solve(self)

    def reference(self):
        """Return the converged solution, shaped like x."""
        return self._solution[0]

    def uncertainty(self):
        """Return the RMS error (B,) that the reference itself may have."""
        return self._solution[1]

    @cached_property
    def fingerprint(self):
        """A number that tells one problem from another (weights, seeds, conditions) and survives
        rounding."""
        sigma = self.x.new_full((len(self.x),), math.sqrt(self.sigma_min * self.sigma_max))
        with torch.no_grad():
            state = self.x * sigma[0] / self.sigma_max
            return name_of(self.model(state, sigma, **self.extra_args))

    def schedules(self):
        """Return the schedules to judge on: name -> (steps -> sigmas, ending in 0), in x's dtype
        and on its device.

        The end of a whole problem goes in the pace of the whole one's, as in the WebUIs' img2img.
        """
        if self.whole is not None:
            paces = {name: make(PACE) for name, make in self.whole.schedules().items()}
            return {name: partial(self._rest, pace) for name, pace in paces.items()}
        rows = {
            "karras": partial(karras, sigma_min=self.sigma_min, sigma_max=self.sigma_max),
            "exponential": partial(exponential, sigma_min=self.sigma_min, sigma_max=self.sigma_max),
        }
        if self.path == "flow":
            # flow's schedules begin where nothing is left of the picture, and a model of one's own may
            # end below
            rows |= (
                {"flow shift 1": flow, "flow shift 3": partial(flow, shift=3.0)}
                if self.sigma_max == 1
                else {}
            )
        elif len(self.table) > PACE:  # else it is a range, or too coarse to take levels from
            rows["simple"] = partial(simple, sigmas=self.table)
        return {
            name: lambda steps, make=make: make(steps).to(self.x) for name, make in rows.items()
        }

    def offered(self):
        """Return the schedules that somebody who draws can choose from: name -> (steps -> sigmas).

        Those of `schedules`, what the WebUIs offer besides for the path ("normal" is even in the
        table's index), and ISDO's own.
        """
        rows = {"curvature": partial(curvature_sigmas, path=PATHS[self.path])}
        rows = {
            name: partial(make, sigma_min=self.sigma_min, sigma_max=self.sigma_max)
            for name, make in rows.items()
        }
        if self.path != "flow" and len(table := self._levels()) > PACE:
            rows |= {
                "simple": partial(simple, sigmas=table),
                "normal": partial(uniform, sigmas=table),
                "sgm_uniform": partial(sgm_uniform, sigmas=table),
            }
        return self.schedules() | {
            name: lambda steps, make=make: make(steps).to(self.x) for name, make in rows.items()
        }

    def _levels(self):
        """Return the table that schedules take levels from: where a model says only a range that ends
        where Stable Diffusion's table does, that one, as far as it lies in the range."""
        known = scaled_linear()
        table = ((1 - known) / known).sqrt()
        if len(self.table) > PACE or abs(table[-1] / self.sigma_max - 1) > 0.01:
            return self.table
        table = table[table > 0.99 * self.sigma_min].clamp(self.sigma_min, self.sigma_max)
        table[0], table[-1] = (
            self.sigma_min,
            self.sigma_max,
        )  # where the reference ends and x begins
        return table

    def _rest(self, pace, steps):
        return rest(pace, self.sigma_max, steps).to(self.x)


def _per_image(sigma):
    return sigma[:, None, None, None]


def hartley(x):
    """Transform the last two axes with the orthonormal real Fourier (Hartley) basis; it is its own
    inverse."""
    spectrum = torch.fft.fft2(x, norm="ortho")
    return spectrum.real - spectrum.imag


def frequencies():
    """Return (ky, kx), each (SIZE, SIZE), in cycles per picture."""
    k = torch.fft.fftfreq(SIZE, dtype=torch.float64, device="cpu") * SIZE
    return torch.meshgrid(k, k, indexing="ij")


class Mixture:
    """D of a Gaussian mixture whose components are stationary: independent in the Hartley basis.

    Args:
        path: isdo.path.Path.
        means, powers: (K, C, H, W) in the Hartley basis, of each component.
        classes: (K,) the class of each component, for labels and guidance.
    """

    def __init__(self, path, means, powers, classes):
        self.path, self.means, self.powers, self.classes = path, means, powers, classes

    def component_log_odds(self, y, signal, sigma):
        """Return log p(y, component) (B, K), up to a constant of the image."""
        variance = signal**2 * self.powers + sigma**2
        miss = (y[:, None] - signal * self.means).square() / variance + variance.log()
        return -miss.flatten(2).sum(2) / 2

    def weights(self, odds, labels, guidance):
        """Return (B, K) how much each component's own D counts; with guidance they are no
        probabilities."""
        plain = odds.softmax(1)
        if labels is None:
            return plain
        within = odds.masked_fill(labels[:, None] != self.classes, -torch.inf).softmax(1)
        return plain + guidance * (within - plain)

    def __call__(self, x, sigma, labels=None, guidance=1.0):
        """x (B, C, H, W), sigma (B,), labels (B,) long -> D, shaped like x."""
        y, sigma = hartley(x), _per_image(sigma)[:, None]
        signal = self.path.signal(sigma)
        weights = self.weights(self.component_log_odds(y, signal, sigma), labels, guidance)
        gain = signal * self.powers / (signal**2 * self.powers + sigma**2)
        own = self.means + gain * (y[:, None] - signal * self.means)
        return hartley(torch.einsum("bk,bkchw->bchw", weights, own))


class DataSet:
    """D of a finite set of pictures (N, C, H, W): their mean under the posterior."""

    def __init__(self, path, pictures):
        self.path, self.shape, self.flat = path, pictures.shape[1:], pictures.flatten(1)
        self.square = self.flat.square().sum(1)

    def __call__(self, x, sigma):
        """x (B, C, H, W), sigma (B,) -> D, shaped like x."""
        sigma = sigma[:, None]
        signal = self.path.signal(sigma)
        odds = signal * (x.flatten(1) @ self.flat.T - signal * self.square / 2) / sigma**2
        return (odds.softmax(1) @ self.flat).view(len(x), *self.shape)


def radial_powers(count, generator):
    """Spectra c / (1 + k)^p, p about 2.5 as in photographs, each component and channel with its own
    c and p."""
    ky, kx = frequencies()
    slope = 2 + torch.rand(count, 1, 1, 1, generator=generator, dtype=torch.float64, device="cpu")
    level = 4 * torch.exp(
        0.5 * torch.randn(count, 3, 1, 1, generator=generator, dtype=torch.float64, device="cpu")
    )
    return level / (1 + (ky**2 + kx**2).sqrt()) ** slope


def directed_powers(count, generator):
    """Spectra that fall up to 8 times faster in one direction than across it: edges, stripes,
    grain."""
    ky, kx = frequencies()
    angle, stretch, slope = torch.rand(
        3, count, 1, 1, 1, generator=generator, dtype=torch.float64, device="cpu"
    )
    angle, stretch = angle * math.pi, 8**stretch
    along, across = kx * angle.cos() + ky * angle.sin(), ky * angle.cos() - kx * angle.sin()
    level = 4 * torch.exp(
        0.5 * torch.randn(count, 3, 1, 1, generator=generator, dtype=torch.float64, device="cpu")
    )
    radius = (along**2 / stretch + across**2 * stretch).sqrt()
    # rotated frequencies alias at the highest ones: the mean over +-k keeps the field real
    power = level / (1 + radius) ** (2 + slope)
    return (power + power.flip(2, 3).roll((1, 1), (2, 3))) / 2


def make_mixture(path, generator, powers, components=12, classes=3):
    """Return a Mixture with means whose spectrum is 1/f, component i in class i mod ``classes``."""
    ky, kx = frequencies()
    noise = torch.randn(
        components, 3, SIZE, SIZE, generator=generator, dtype=torch.float64, device="cpu"
    )
    means = 3 * noise / (1 + (ky**2 + kx**2).sqrt()) ** 1.25
    return Mixture(
        path, means, powers(components, generator), torch.arange(components, device="cpu") % classes
    )


def pictures(clips, frames, generator):
    """Draw (clips * frames, 3, SIZE, SIZE) pictures in [-1, 1]: soft shapes and stripes that move
    and change colour.

    Consecutive frames differ by no more than the lowest noise, the ends of a clip by fifty times
    that, and clips by everything: the posterior has something to decide at every noise level. With
    distinct pictures only, every sampler would end on exactly the same one and there would be
    nothing to measure.
    """
    scene, swing, beat = torch.randn(
        3, clips, 1, 39, generator=generator, dtype=torch.float64, device="cpu"
    )
    time = 2 * math.pi * torch.arange(frames, dtype=torch.float64, device="cpu")[:, None] / frames
    return draw((scene + 0.04 * swing * time.sin() + 0.02 * beat * (2 * time).sin()).flatten(0, 1))


def draw(p):
    """Draw the scenes p (N, 39): 8 numbers for the ground, 4 for the stripes, 9 for each of three
    shapes."""
    axis = torch.linspace(-1, 1, SIZE, dtype=torch.float64, device="cpu")
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    p = p[:, :, None, None]
    ground, stripes, shapes = p[:, :8], p[:, 8:12], p[:, 12:].unflatten(1, (3, 9))
    canvas = ground[:, :3] + 0.4 * ground[:, 3:6] * (ground[:, 6:7] * x + ground[:, 7:8] * y)
    wave = torch.sin(4 * (stripes[:, :1] * x + stripes[:, 1:2] * y) + 3 * stripes[:, 2:3])
    canvas = canvas + 0.3 * stripes[:, 3:] * wave
    for s in shapes.unbind(1):
        dx, dy = x - 0.5 * s[:, :1], y - 0.5 * s[:, 1:2]
        turned = (
            dx * s[:, 2:3].cos() + dy * s[:, 2:3].sin(),
            dy * s[:, 2:3].cos() - dx * s[:, 2:3].sin(),
        )
        size = 0.45 * torch.exp(0.4 * s[:, 3:5])
        power = 2 + 2 * torch.sigmoid(2 * s[:, 5:6])  # from ellipses to squares with round corners
        distance = sum((t.abs() / size[:, i : i + 1]) ** power for i, t in enumerate(turned))
        cover = torch.sigmoid(6 * (1 - distance))
        canvas = canvas + cover * (1.2 * s[:, 6:9] - canvas)
    return canvas.tanh()


def by_dop853(problem, end=1e-7, tolerance=1e-10):
    """Solve dx/dlog(sigma) = x - D with Dormand and Prince's order 8 down to sigma = ``end``, where
    x - D is nothing.

    Returns x and, as its uncertainty, the difference to a run with a hundredfold tolerance.
    """
    from scipy.integrate import solve_ivp

    shape, count = problem.x.shape, len(problem.x)

    def model(state, sigma):
        return problem.model(state, state.new_full((count,), sigma), **problem.extra_args)

    def slope(t, flat):
        state = torch.from_numpy(flat).view(shape)
        return (state - model(state, math.exp(t))).flatten().numpy()

    def run(tolerance):
        span = math.log(problem.sigma_max), math.log(end)
        out = solve_ivp(
            slope, span, problem.x.flatten().numpy(), "DOP853", rtol=tolerance, atol=tolerance
        )
        return model(torch.from_numpy(out.y[:, -1].copy()).view(shape), end)

    x = run(tolerance)
    return x, rms(x - run(100 * tolerance))


# The variable t(sigma) in which the classical Runge-Kutta method takes even steps, as (t, sigma(t),
# (dsigma/dt)/sigma). On the flow path D of a learned net turns quickest just below sigma = 1, where
# even steps in a power of sigma do not converge.
BRIM = 1.002
_EVEN = {
    "ve": (lambda sigma: sigma ** (1 / 7), lambda t: t**7, lambda sigma: 7 / sigma ** (1 / 7)),
    "flow": (
        lambda sigma: math.log(sigma / (BRIM - sigma)),
        lambda t: min(BRIM / (1 + math.exp(-t)), 1.0),
        lambda sigma: (BRIM - sigma) / BRIM,
    ),
}


def fine_levels(problem, intervals):
    """Return the sigmas of so many steps of `by_runge_kutta`, from sigma_max to sigma_min,
    float64."""
    place, back, _ = _EVEN[problem.path]
    ends = place(problem.sigma_max), place(problem.sigma_min)
    ramp = torch.linspace(*ends, intervals + 1, dtype=torch.float64, device="cpu")
    return torch.tensor([back(t) for t in ramp.tolist()], dtype=torch.float64, device="cpu")


def by_runge_kutta(problem, steps=100):
    """Solve down to sigma_min by the classical Runge-Kutta method; there, x becomes D.

    The steps are even in sigma^(1/7) on `ve`, and in log(sigma / (1.002 - sigma)) on `flow`. The
    last step is that of every host: a learned net knows nothing below its sigma_min. 4 calls a
    step; returns x and, as its uncertainty, the difference to a run with half the steps.
    """

    def run(steps):
        x = _descend(problem, problem.sigma_min, steps)
        return problem.model(x, x.new_full((len(x),), problem.sigma_min), **problem.extra_args)

    x = run(steps)
    return x, rms(x - run(steps // 2))


def _descend(problem, end, steps):
    """Return x at sigma ``end`` by the classical Runge-Kutta method."""
    place, back, pace = _EVEN[problem.path]

    def slope(t, x):
        sigma = back(t)
        return pace(sigma) * (
            x - problem.model(x, x.new_full((len(x),), sigma), **problem.extra_args)
        )

    first, last, x = place(problem.sigma_max), place(end), problem.x
    h = (last - first) / steps
    for t in (first + i * h for i in range(steps)):
        k1 = slope(t, x)
        k2 = slope(t + h / 2, x + h / 2 * k1)
        k3 = slope(t + h / 2, x + h / 2 * k2)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + slope(t + h, x + h * k3))
    return x


def begun(problem, ratio):
    """Return the rest of a Problem from the noise-to-signal ratio ``ratio`` on, where the solution
    then is: img2img."""
    sigma = PATHS[problem.path].from_noise_to_signal(ratio)
    with torch.no_grad():
        x = _descend(problem, sigma, 50)
    table = torch.cat([problem.table[problem.table < sigma], problem.table.new_tensor([sigma])])
    return replace(problem, name=f"{problem.name}, from {ratio:g}", x=x, table=table, whole=problem)


def name_of(tensor):
    """Return a number that tells one tensor from another and survives rounding, as text."""
    return f"{wide(tensor).square().mean().item():.4e}"


def rms(x):
    """Return the root mean square of each image (B,), float64."""
    return wide(x).square().flatten(1).mean(1).sqrt()


def _gaussian(path, generator, _):
    return make_mixture(path, generator, radial_powers, components=1, classes=1), {}


def _mixture(path, generator, guidance, powers):
    model = make_mixture(path, generator, powers)
    if guidance is None:
        return model, {}
    return model, {"labels": torch.arange(IMAGES, device="cpu") % 3, "guidance": guidance}


def _data_set(path, generator, _):
    return DataSet(path, pictures(8, 300, generator)), {}


_radial, _directed = (
    partial(_mixture, powers=radial_powers),
    partial(_mixture, powers=directed_powers),
)
GAUSSIAN = "gaussian"
ANALYTIC = {  # name -> how to make (model, extra_args), guidance
    "stationary": (_radial, None),
    "anisotropic": (_directed, None),
    "stationary, guidance 5": (_radial, 5.0),
    "stationary, guidance 7.5": (_radial, 7.5),
    "anisotropic, guidance 5": (_directed, 5.0),
    "anisotropic, guidance 7.5": (_directed, 7.5),
    "data set": (_data_set, None),
}
_MAKERS = ANALYTIC | {GAUSSIAN: (_gaussian, None)}


def problem(name, path, seed=0):
    """Return an analytic Problem of 16 float64 pictures, 3 x 16 x 16.

    Args:
        name: a key of ANALYTIC, or GAUSSIAN.
        path: "ve" or "flow".
        seed: another seed is another mixture or data set, and other noise.

    Raises:
        ValueError: an unknown name or path.
    """
    if name not in _MAKERS or path not in PATHS:
        raise ValueError(
            f"no problem {name!r} on the path {path!r}: names {list(_MAKERS)}, paths {list(PATHS)}"
        )
    make, guidance = _MAKERS[name]
    generator = torch.Generator("cpu").manual_seed(seed)
    model, extra_args = make(PATHS[path], generator, guidance)
    low, high = RANGES[path]
    x = high * torch.randn(
        IMAGES, 3, SIZE, SIZE, generator=generator, dtype=torch.float64, device="cpu"
    )
    model.sigmas = _table(path, low, high)  # samplers may ask, as of every model in a WebUI
    return Problem(name, path, model, x, model.sigmas, by_dop853, extra_args)


def _table(path, low, high):
    """A thousand levels: Stable Diffusion's on `ve` (its schedule without its betas: even in sqrt),
    even on `flow`."""
    if path == "flow":
        return torch.linspace(low, high, 1000, dtype=torch.float64, device="cpu")
    from ..zoo.net import scaled_linear

    alphas = scaled_linear()
    return ((1 - alphas) / alphas).sqrt()


ZOO_MODELS = ("eps", "v", "flow")
ZOO_GUIDANCE = {"no class": None, "guidance 1": 1.0, "guidance 3": 3.0, "guidance 7": 7.0}

# noise-to-signal ratios at which img2img begins: strengths of about 0.3 and 0.6 on Stable
# Diffusion's own schedule
IMG2IMG_RATIOS, IMG2IMG_GUIDANCE, IMG2IMG_IMAGES = (0.8, 2.5), ("guidance 1", "guidance 3"), 6


def zoo_problem(model, guidance, seed=0, count=IMAGES, device="cpu"):
    """Return the Problem of drawing with an embedded model.

    Args:
        model: one of ZOO_MODELS, or a file that `isdo train` wrote.
        guidance: a key of ZOO_GUIDANCE.
        seed: of the noise and the labels.
        count: pictures.
        device: where the network runs.

    Raises:
        ValueError: when there is no such model.
    """
    from .. import zoo

    net, scale = zoo.load(model).to(device), ZOO_GUIDANCE[guidance]
    generator = torch.Generator("cpu").manual_seed(seed)
    x = net.sigma_max * torch.randn(count, *net.shape, generator=generator, device="cpu")
    labels = torch.randint(max(1, len(net.classes)), (count,), generator=generator, device="cpu")
    extra_args = {} if scale is None else {"labels": labels.to(device), "guidance": scale}
    return Problem(
        f"{model}, {guidance}",
        net.path.name,
        net,
        x.to(device),
        net.sigmas.cpu(),
        by_runge_kutta,
        extra_args,
    )


def own_problem(given, seed=0, count=IMAGES):
    """Return the Problem of drawing with a model of somebody's own, a `models.Given`, as it was
    given."""
    model, generator = given.model, torch.Generator("cpu").manual_seed(seed)
    x = model.sigma_max * torch.randn(count, *given.shape, generator=generator, device="cpu")
    table = noise_levels(model)
    table = wide([model.sigma_min, model.sigma_max]) if table is None else table
    extra_args = given.extra_args(given.classes(range(count)))
    return Problem(
        given.title, model.path.name, model, x.to(given.device), table, by_runge_kutta, extra_args
    )


def learned(models=None, guidance=tuple(ZOO_GUIDANCE), device="cpu"):
    """Return name -> maker(seed, count) of the Problems of trained models.

    Args:
        models: names or files of the zoo, each of which is drawn from with every guidance, or
            `models.Given`, each drawn from as it was given; None: ZOO_MODELS.
        guidance: keys of ZOO_GUIDANCE.
        device: where the zoo's networks run.
    """
    from .. import zoo

    makers = {}
    for model in ZOO_MODELS if models is None else models:
        if isinstance(model, str):
            scales = guidance if zoo.architecture_of(model).classes else ("no class",)
            makers |= {
                f"{model}, {scale}": partial(_zoo_maker, model, scale, device) for scale in scales
            }
        else:
            makers[model.title] = partial(own_problem, model)
    return makers


def _zoo_maker(model, guidance, device, seed=0, count=IMAGES):
    return zoo_problem(model, guidance, seed, count, device)


def _analytic_suite(seed=0, **_):
    return [partial(problem, name, path, seed) for name in ANALYTIC for path in PATHS]


def _zoo_suite(seed=0, count=IMAGES, **options):
    return [partial(make, seed, count) for make in learned(**options).values()]


def _img2img_suite(seed=0, count=IMG2IMG_IMAGES, **options):
    whole = [
        partial(make, seed, count)
        for make in learned(guidance=IMG2IMG_GUIDANCE, **options).values()
    ]
    return [
        lambda make=make, ratio=ratio: begun(make(), ratio)
        for make in whole
        for ratio in IMG2IMG_RATIOS
    ]


SUITES = {
    "analytic": _analytic_suite,
    "zoo": _zoo_suite,
    "choice": _zoo_suite,
    "img2img": _img2img_suite,
}


def suite(name, seed=0, **options):
    """Return the makers of a suite's problems, so that each can be made, used and dropped in turn.

    Args:
        name: "analytic", "zoo", "choice" (the zoo's problems) or "img2img".
        seed: of all problems.
        **options: ``device`` and ``models``, as for `learned`.

    Raises:
        ValueError: an unknown suite.
    """
    if name not in SUITES:
        raise ValueError(f"no suite {name!r}: choose one of {', '.join(SUITES)}")
    return SUITES[name](seed, **options)
