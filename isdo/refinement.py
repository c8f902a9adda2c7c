"""refine: what hosts and people call to make a finished picture better."""

import functools
import logging
import math
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, SupportsIndex, cast

import torch
from torch import Tensor
from tqdm.auto import trange

from . import group
from .answers import Checked, check_kind
from .denoiser import CallCounter
from .device import beside, full_precision, wide
from .inputs import check_mask, check_x
from .path import Path, detect_path, path_of, smallest_sigma
from .process import per_image
from .protocols import Callback, ExtraArgs, Model, NoiseSource, Sampler, Seeds, Sigmas
from .run import solve_ode
from .schedules import LEAST_ROOM, curvature_sigmas, rest
from .settings import RefineSettings, Settings
from .spectrum import Spectrum

log = logging.getLogger(__name__)
# Seeds of the picture's own noise and of its refinement are the same numbers to the user; noise
# that the picture was drawn from must not be added to it again.
SEED_OFFSET = 0x15D0_5EED
FINE = 0.25  # cycles per pixel: half of the highest frequency along an axis
# Detail that was all but absent, or is, is not brought back by a factor; nor is rounding made into
# detail.
LEAST_DETAIL = 1e-3


@dataclass(frozen=True)
class Refined:
    """What became of the pictures.

    Attributes:
        x: the pictures, in the shape, dtype and on the device of those given.
        iterations: (B,) how many each went through.
        converged: (B,) whether its last iteration changed it by less than the tolerance; never
            where that is 0.
        changes: (iterations, B) the root mean square change in each iteration over that of the
            picture, 0 once done.
        calls: model calls made.
    """

    x: Tensor
    iterations: Tensor
    converged: Tensor
    changes: Tensor
    calls: int


@dataclass(frozen=True)
class Action:
    """What iteration k does: exp(pixels g) for the generator ``name`` (None: nothing), then noise
    up to ``ratio`` = s/a, of which ``kept`` is still there, and the way down to ``end`` in
    ``steps``."""

    name: str | None
    pixels: float
    ratio: float
    kept: float
    end: float
    steps: int


def plan(
    settings: RefineSettings, clean: bool = True, shares: Sequence[int] | None = None
) -> list[Action]:
    """Return the Action of every iteration: eps_k = eps_0 / k^alpha and delta_k likewise.

    ``shares`` are the steps of each, where there is a number of them to be shared.

    The generators take turns. With antithetic pairs each acts twice in a row, by the same eps and
    the opposite sign; the eps is that of the pair, else the two would not cancel. Unless ``clean``,
    iterations before the last turn round at the floor: going to 0 and back washes out what the
    model's mean does not have (Restart, Xu et al. 2023, turns there too).
    """
    names, kept = group.SETS[settings.generators], 0.0
    done: list[Action] = []
    shares = [settings.calls] * settings.iterations if shares is None else shares
    ratios = [settings.noise / (k + 1) ** settings.noise_decay for k in range(len(shares))]
    for k, steps in enumerate(shares):
        turn, sign = (k // 2, (-1) ** k) if settings.antithetic else (k, 1)
        pixels = (
            sign
            * settings.strength
            / (1 + turn * (2 if settings.antithetic else 1)) ** settings.strength_decay
        )
        name = names[turn % len(names)] if names and pixels else None
        # there must be a way down to the floor, and up again
        turns = not clean and k + 1 < len(ratios) and settings.floor <= min(ratios[k : k + 2]) / 2
        end = settings.floor if turns else 0.0
        done.append(Action(name, pixels if name else 0.0, ratios[k], kept, end, steps))
        kept = end
    return done


class Held:
    """A model that is held to a known picture outside the mask, under its own call shape."""

    def __init__(self, model: Model, mask: Tensor, known: Tensor) -> None:
        self.model, self.mask, self.known = model, mask, known

    @property
    def inner_model(self) -> Any:
        return getattr(self.model, "inner_model", None)

    def __call__(self, x: Tensor, sigma: Tensor, **extra: Any) -> Tensor:
        denoised = check_kind(self.model(x, sigma, **extra), x).to(self.known)
        return torch.where(
            self.mask == 0, self.known, torch.lerp(self.known, denoised, self.mask)
        ).to(x.dtype)


class Watch:
    """A sampler's callback that remembers what the model said last, and passes on with all calls
    counted."""

    def __init__(self, callback: Callback | None, done: int) -> None:
        self.callback, self.done = callback, done
        self.denoised: Tensor | None = None

    def __call__(self, state: dict[str, Any]) -> None:
        self.denoised = state["denoised"]
        if self.callback is not None:
            self.callback({**state, "i": self.done + state["i"]})


def descent(
    path: Path,
    ratio: float,
    calls: int,
    low: float,
    sigmas: Sigmas | None = None,
    end: float = 0.0,
) -> Tensor:
    """Return falling sigmas, at most ``calls`` + 1, from the noise-to-signal ``ratio``, or from
    ``low`` if that is more.

    Args:
        path: a Path.
        ratio: s/a, above 0.
        calls: model calls.
        low: the smallest sigma of the model; 0: unknown.
        sigmas: a schedule in whose pace to go; left out, ISDO's own curvature schedule.
        end: the ratio to stop at, 0 or above the model's smallest; the way there is even in log
            sigma.
    """
    start = max(path.from_noise_to_signal(ratio), low)
    if end > 0:
        bottom = path.from_noise_to_signal(end)
        levels = torch.linspace(
            math.log(start), math.log(bottom), calls + 1, dtype=torch.float64, device="cpu"
        ).exp()
        levels[0], levels[-1] = start, bottom
        return levels
    if calls == 1 or start <= LEAST_ROOM * low:
        return wide([start, 0.0])
    if sigmas is None:
        return curvature_sigmas(calls, low or start / 100, start, path=path).double()
    return rest(sigmas, start, calls, low, high=start).double()


class Lock:
    """Takes the lowest modes out of a change of the painted part, so that those of the picture
    stay.

    The modes are products of cosines (no wrap-around), those with fewer half waves per longer side
    than ``count``. Under a mask they are not orthogonal any more, and what is taken out must itself
    lie under the mask: it is the projection in the inner product that the mask weighs.

    Args:
        count: 0 locks nothing, 1 the mean of each channel (and frame).
        mask: (B, C, ..., H, W) in the state's dtype, or None.
        like: the state.
    """

    def __init__(self, count: int, mask: Tensor | None, like: Tensor) -> None:
        self.mask, (height, width) = mask, like.shape[-2:]
        rows, columns = (
            torch.arange(n, dtype=torch.float64, device="cpu") * max(height, width) / n
            for n in (height, width)
        )
        chosen = (torch.hypot(rows[:, None], columns) < count).nonzero().tolist()
        waves = [torch.outer(_cosine(height, i), _cosine(width, j)).flatten() for i, j in chosen]
        basis = (
            torch.stack(waves)
            if waves
            else torch.zeros(0, height * width, dtype=torch.float64, device="cpu")
        )
        self.basis = beside(basis, like)
        self.inverse: Tensor | None = None
        if mask is not None and waves:
            weights = wide(mask).reshape(len(mask), -1, height * width)
            gram = torch.stack([(basis * w[:, None]) @ basis.T for w in weights])
            # an empty or tiny window leaves directions without weight: those are not locked, nor in
            # the change
            inverse = torch.linalg.pinv(gram, rtol=1e-9, hermitian=True)
            self.inverse = beside(inverse, like)

    def __call__(self, change: Tensor) -> Tensor:
        """Return the part of a change (B, C, ..., H, W), already under the mask, that the lock lets
        through."""
        if not len(self.basis):
            return change
        flat = change.reshape(len(change), -1, self.basis.shape[1])
        with full_precision(change.device):
            # one product a picture: a matrix library may block, and round, a larger one otherwise
            found = torch.stack([picture @ self.basis.T for picture in flat])
            if self.inverse is not None:
                found = (self.inverse @ found[..., None])[..., 0]
            low = torch.stack([weights @ self.basis for weights in found]).view_as(change)
        return change - (low if self.mask is None else self.mask * low)


class Leash:
    """Keeps the energy of fine detail near that of the first picture, in each radial band.

    A denoiser returns a mean, so noise and the way back wash detail out, or, once nothing is left
    to wash out, harden it; either way many iterations would end far off. What is beyond the allowed
    drift is taken out by one factor for each picture and band that is finer than FINE. One factor
    for all of them would let energy move among the bands.

    Args:
        drift: by what share the energy may differ.
        picture: the first one (B, C, ..., H, W).
    """

    def __init__(self, drift: float, picture: Tensor) -> None:
        height, width = picture.shape[-2:]
        self.drift, self.spectrum = drift, Spectrum(height, width, picture.device, halves=True)
        bands = torch.arange(self.spectrum.count, device=picture.device)
        fine = (bands + 1) / 2 >= FINE * max(picture.shape[-2:])
        energy = self._energy(self.spectrum.forward(picture))
        # infinite where nothing is held, so that the ratio is 0 there
        self.first = torch.where(fine & (energy > 0), energy, torch.inf)

    def _energy(self, modes: Tensor) -> Tensor:
        return self.spectrum.inner(modes, modes)

    def __call__(self, picture: Tensor) -> Tensor:
        """Return what must be added to a picture (B, C, ..., H, W)."""
        modes = self.spectrum.forward(picture)
        ratio = self._energy(modes) / self.first
        gain = (ratio.clamp(1 - self.drift, 1 + self.drift) / ratio).sqrt()
        held = (ratio > LEAST_DETAIL) & (ratio < 1 / LEAST_DETAIL)
        excess = self.spectrum.spread(torch.where(held, gain - 1, 0.0), modes)
        return self.spectrum.inverse(excess * modes, picture.shape)


def _cosine(size: int, order: int) -> Tensor:
    """Return the orthonormal cosine with ``order`` half waves, (size,) float64."""
    wave = torch.cos(
        torch.pi * order * (torch.arange(size, dtype=torch.float64, device="cpu") + 0.5) / size
    )
    return wave / wave.norm()


class SeededNoise:
    """Normal noise, each picture from a generator of its own: the same in any batch and on any
    device."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self.generators = [
            torch.Generator("cpu").manual_seed((seed + SEED_OFFSET) % 2**63) for seed in seeds
        ]

    def __call__(self, x: Tensor) -> Tensor:
        kind: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}
        drawn = [
            torch.randn(x.shape[1:], generator=generator, **kind) for generator in self.generators
        ]
        return torch.stack(drawn).to(x)


def _source_of_noise(noise: NoiseSource | None, seeds: Seeds, x: Tensor) -> NoiseSource:
    if noise is not None:
        if not callable(noise):
            raise ValueError(
                f"noise is a {type(noise).__name__}: give a function noise(x) -> normal noise shaped like x"
            )
        return noise
    return SeededNoise(each_seed(seeds, len(x)))


def each_seed(seeds: Seeds, count: int) -> Sequence[int]:
    """Return the seed of every picture: those given, or the first picture's and the next ones."""
    each: Sequence[int]
    try:
        if isinstance(seeds, (bool, str)):
            raise TypeError
        if isinstance(seeds, SupportsIndex) and not getattr(seeds, "ndim", 0):
            each = range(operator.index(seeds), operator.index(seeds) + count)
        else:
            each = [operator.index(seed) for seed in cast(Iterable[SupportsIndex], seeds)]
    except TypeError:
        each = ()
    if len(each) != count:
        raise ValueError(
            f"seeds is {seeds!r}: give the first picture's seed, or {count}, one for each picture"
        )
    return each


def _size(x: Tensor) -> Tensor:
    """Return the norm of each picture (B,), with bits that do not depend on the batch."""
    return torch.stack([torch.linalg.vector_norm(picture) for picture in x])


@torch.no_grad()
def refine(
    model: Model,
    x: Tensor,
    extra_args: ExtraArgs | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    *,
    settings: RefineSettings | None = None,
    mask: Tensor | None = None,
    seeds: Seeds = 0,
    noise: NoiseSource | None = None,
    sampler: Sampler | Settings | None = None,
    sigmas: Sigmas | None = None,
    call_callback: Callback | None = None,
    shares: Sequence[int] | None = None,
) -> Refined:
    """Refine finished pictures: move a little, add a little noise, solve back, undo the move, again
    and again.

    Args:
        model: ``model(x, sigma (B,), **extra_args) -> denoised``, as for `sample_isdo`.
        x: (B, C, H, W) or (B, C, T, H, W) without noise; any floating dtype. It is not modified.
        extra_args: keyword arguments handed to the model as they are.
        callback: called after each iteration with {"x": the pictures so far, clean and held, "i":
            the iteration from 0, "sigma": where it began, "change": (B,), "active": (B,)}. What it
            or the model raises passes through; the last "x" stays good.
        disable: hide the progress bar.
        settings: a RefineSettings.
        mask: broadcasts to x, 1 where the picture may change and 0 where it stays, bit for bit, or
            between. The model is held to the picture there: leave out any mask of its wrapper.

    Rarely needed:
        seeds: of the noise: the first picture's (the next has the next), or one for each.
        noise: ``noise(x) -> normal noise shaped like x``, called once an iteration, in place of the
            seeds.
        sampler: for the way back, ``sampler(model, x, sigmas, extra_args, callback, disable) ->
            x``, which calls its callback as k-diffusion's do; or Settings of ISDO, whose placement
            and tolerance do not count: the steps are the loop's own.
        sigmas: a schedule (N + 1,) whose pace the way back keeps; ISDO's own by default.
        call_callback: called at each model call as a sampler's callback, "i" counting all calls.
        shares: the steps of each iteration, in place of the settings' iterations and calls.

    Returns:
        A Refined.

    Raises:
        ValueError: x, settings, seeds or a mask that make no sense; the message says what, what was
            given, what to do.
        RuntimeError: the model returned NaN or infinity.

    Theory page, section 9. Re-noising and solving back: SDEdit (Meng et al. 2022), Restart (Xu et
    al. 2023).
    """
    settings = RefineSettings() if settings is None else settings
    if not isinstance(settings, RefineSettings):
        raise ValueError(f"settings is a {type(settings).__name__}: give isdo.RefineSettings(...)")
    check_x(x)
    working = x.dtype if x.dtype == torch.float64 else torch.float32
    mask = None if mask is None else check_mask(mask, x).to(x.device, working)
    noise = _source_of_noise(noise, seeds, x)
    solve, path = _solver(model, sampler, mask)
    low = smallest_sigma(model)
    picture = x.to(working)
    lock = Lock(settings.lock, mask, picture)
    leash = Leash(settings.detail, picture) if settings.detail < 1 else None
    clean = (
        mask is not None or settings.tolerance > 0 or settings.floor <= path.noise_to_signal(low)
    )
    actions = plan(settings, clean, shares)
    _warn_of_clamp(actions, path, low)
    state, active = picture, torch.ones(len(x), dtype=torch.bool, device=x.device)
    iterations = torch.zeros(len(x), dtype=torch.long, device=x.device)
    changes: list[Tensor] = []
    counter = CallCounter(model)

    def noisy(moved: Tensor, fresh: float, signal: float) -> Tensor:
        """Return what the way back begins with."""
        made = torch.add(moved, noise(moved).to(working), alpha=fresh)
        return (made if signal == 1 else made.mul_(signal)).to(x.dtype)

    def settled(back: Tensor, leash: Leash | None) -> Tensor:
        """Return the state after the way from ``moved`` to ``back``: what has changed is moved back
        and held."""
        change = (
            _moved(action.name, -action.pixels, back - moved) if settings.undo else back - state
        )
        if leash is not None:
            change = change + leash(state + change)
        change = lock(change if mask is None else mask * change)
        return state + (change if mask is None else torch.where(mask == 0, 0.0, change))

    for k in trange(len(actions), disable=disable, desc="refining"):
        action = actions[k]
        moved = _moved(action.name, action.pixels, state)
        back, sigma, watch = moved, 0.0, Watch(call_callback, counter.calls)
        if action.ratio > 0:
            levels = descent(path, action.ratio, action.steps, low, sigmas, action.end)
            sigma = float(levels[0])
            signal, last = path.signal(sigma), path.signal(action.end and float(levels[-1]))
            fresh = (
                math.sqrt(max(0.0, path.noise_to_signal(sigma) ** 2 - action.kept**2))
                * settings.noise_scale
            )
            held = counter if mask is None else Held(counter, mask, moved)
            back = solve(held, noisy(moved, fresh, signal), levels, extra_args, watch).to(working)
            back = back if last == 1 else back / last
        # where noise is kept, the picture so far is what the model said last
        found = settled(
            back if watch.denoised is None or not action.end else watch.denoised.to(working), leash
        )
        state = settled(back, None) if action.end else found
        if settings.tolerance:  # pictures that are done stay as they are
            found = torch.where(per_image(active, found), found, picture)
        relative = _size(found - picture) / _size(picture).clamp(min=torch.finfo(working).tiny)
        picture, iterations = found, iterations + active
        state = state if action.end else picture
        changes.append(relative)
        if settings.tolerance:
            active = active & (relative >= settings.tolerance)
        if callback is not None:
            callback(
                {
                    "x": picture.to(x.dtype, copy=True),
                    "i": k,
                    "sigma": sigma,
                    "change": relative,
                    "active": active,
                }
            )
        if (
            settings.tolerance and not active.any()
        ):  # one look an iteration, none inside the sampler's steps
            break
    moved_by = torch.stack(changes) if changes else picture.new_zeros(0, len(x))
    result = picture.to(x.dtype)
    return Refined(
        result.clone() if result is x else result, iterations, ~active, moved_by, counter.calls
    )


def _moved(name: str | None, pixels: float, picture: Tensor) -> Tensor:
    return picture if name is None else group.exp(name, pixels, picture)


# solve(model, x, sigmas, extra_args, callback) -> x
Solve = Callable[[Model, Tensor, Tensor, ExtraArgs | None, Callback], Tensor]


def _solver(
    model: Model, sampler: Sampler | Settings | None, mask: Tensor | None
) -> tuple[Solve, Path]:
    """Return (solve(model, x, sigmas, extra_args, callback) -> x, path, (steps, whether to 0) ->
    model calls)."""
    if sampler is None or isinstance(sampler, Settings):
        settings = sampler or Settings()
        path = path_of(settings, model)
        # a model that is held does not answer for itself, and the levels of a way back are the
        # loop's own
        settings = replace(settings, path=path.name, placement=0, tolerance=0)
        return functools.partial(_by_isdo, settings, mask), path
    return functools.partial(_by_other, sampler), detect_path(model)


def _by_isdo(
    settings: Settings,
    mask: Tensor | None,
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: ExtraArgs | None,
    callback: Callback,
) -> Tensor:
    # each way back ends on D: what the ODE would still take out of the noise is what the loop is
    # there to take away
    return solve_ode(model, x, sigmas, extra_args, callback, True, settings, mask, low=0.0)


def _by_other(
    sampler: Sampler,
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: ExtraArgs | None,
    callback: Callback,
) -> Tensor:
    model = Checked(model, x.device, len(sigmas) - 1)
    x = sampler(
        model,
        x,
        sigmas.to(x.dtype).to(x.device),
        extra_args=extra_args,
        callback=callback,
        disable=True,
    )
    model.answers.settle()
    return x


def _warn_of_clamp(actions: list[Action], path: Path, low: float) -> None:
    below = [
        action.ratio for action in actions if 0 < path.from_noise_to_signal(action.ratio) < low
    ]
    if below:
        log.warning(
            "%d of %d iterations ask for less noise (down to %.3g) than the model knows: its smallest, %.3g, is taken",
            len(below), len(actions), min(below), path.noise_to_signal(low),
        )  # fmt: skip
