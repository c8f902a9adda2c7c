"""invert: from a picture to the noise that a sampler draws it from."""

from typing import Any

import torch
from torch import Tensor
from tqdm.auto import trange

from .fit import Change, measure_of
from .inputs import check_settings, check_sigmas, check_x
from .path import Path, path_of, smallest_sigma
from .protocols import Callback, ExtraArgs, Model, Sigmas
from .quadrature import step_total
from .run import Run
from .schedules import reposition
from .settings import Settings
from .solver import SOLVERS
from .srk import Call
from .sweeps import RESIDUAL, Sweeps

# The bottom - where is x, if the last step leads to the picture? - is asked for in two calls, and
# in more the more exact the way up is, whose error falls with a high power of its steps: 3 from 16
# steps on, 10 from 32, 12 from 48.
LEAST, STEPS_A_CALL, MOST = 2, 16, 12
EXACT = 12  # calls there of the solver "trajectory", which is as exact as its residuals
# Of the noise-to-signal ratio; a last level above it has too little of the picture to be solved
# for. Then the way up begins at the model's smallest level.
DEEPEST = 0.5
# The Gaussian solution divides by what the last step leaves of x, and is believed from that trust
# in the fit on.
FAINTEST, SURE = 0.01, 0.9
HALF = 1e-5  # roundings of numbers of 16 bits are larger


@torch.no_grad()
def invert(
    model: Model,
    x: Tensor,
    sigmas: Sigmas,
    extra_args: ExtraArgs | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    *,
    settings: Settings | None = None,
    report: dict[str, Any] | None = None,
) -> Tensor:
    """Return the x at sigmas[0] from which `sample_isdo` draws the picture x: the same solver runs
    up the same levels.

    At the bottom the picture is taken for what the last step of sampling ends on, the model's own
    answer at the last level above 0: x there solves D(x) = picture. From there on the
    probability-flow ODE is solved with rising sigmas, at the levels that sampling goes down by,
    moved as ``settings.placement`` says. A schedule that ends above 0 has the picture, with that
    much noise in it, at its end.

    Args:
        model: ``model(x, sigma (B,), **extra_args) -> denoised``, as for `sample_isdo`.
        x: the picture, (B, C, H, W) or (B, C, T, H, W), in the model's own units; any floating
            dtype. It is not modified.
        sigmas: falling noise levels (N + 1,), as they will be sampled with, usually ending in 0;
            they are walked upwards.
        extra_args: keyword arguments handed to the model as they are; guidance belongs to them.
            Above 1 a round trip is less exact, and at 7 another picture comes back.
        callback: called once a model call with {"x", "i", "sigma", "sigma_hat", "denoised"}.
        disable: hide the progress bar.
        settings: a Settings; its solver goes up as it goes down.
        report: a dict that takes in "calls": [B] numbers, how many model calls the run has made so
            far. That is about N, up to 11 more, with one call a step.

    Returns:
        x at sigmas[0], noise included, in the sampler's units and the shape, dtype and on the
        device of x: to be handed to `sample_isdo` with the same sigmas. On the path ve that is
        picture + sigmas[0] noise, so (result - x) / sigmas[0] is noise of about unit variance; on
        the flow path from sigma 1 on the result is the noise.

    Raises:
        ValueError: x, sigmas or settings that make no sense, a tolerance or a curvature penalty
            among them; the message says what to do.
        RuntimeError: the model returned NaN or infinity; the message names the call and the sigma.

    Exceptions of the model or the callback pass through. Theory page, section 15. The idea: DDIM
    inversion (Song et al. 2021, section 4.3; Dhariwal & Nichol 2021, appendix F).
    """
    settings = check_way(settings)
    check_x(x)
    path, low = path_of(settings, model), smallest_sigma(model)
    run = Ascent(model, x, extra_args, settings, path, None, low, {} if report is None else report)
    return run.rise(check_sigmas(sigmas, path), callback, disable)


def check_way(settings: Settings | None) -> Settings:
    """Return the settings, the defaults for None, if there is a way up by them."""
    settings = check_settings(settings)
    if settings.tolerance:
        raise ValueError(
            f"tolerance is {settings.tolerance:g}, and the way up goes by a schedule: set tolerance to 0"
        )
    if settings.curvature_penalty:
        raise ValueError(
            f"curvature_penalty is {settings.curvature_penalty:g}, and what it does is not undone on the way up: set it to 0"
        )
    return settings


def rising(levels: list[float], path: Path, low: float) -> tuple[list[float], bool]:
    """Return (the levels of a falling schedule upwards without the 0, whether the bottom has to be
    solved for)."""
    *above, last = levels
    if last > 0 or not above:
        return levels[::-1], False
    deep = above[-1] > DEEPEST * path.signal(above[-1])
    return ([low] if deep and 0 < low < above[-1] else []) + above[::-1], True


def calls_at_bottom(steps: int) -> int:
    """Return how many calls the bottom of a schedule with so many steps is asked for in."""
    return min(LEAST + (steps // STEPS_A_CALL) ** 3, MOST)


def calls_of(settings: Settings | None, sigmas: Sigmas, path: Path, low: float) -> int:
    """Return how many model calls `invert` makes with these settings and sigmas.

    Raises:
        ValueError: as for `invert`.
    """
    settings = check_way(settings)
    levels = reposition(check_sigmas(sigmas, path), settings.placement, low, path)
    return Plan(settings, levels, path, low).calls


class Plan:
    """The way up a falling schedule.

    Attributes:
        levels: rising, without the 0.
        bottom: calls at the first of them; 0: x stands there.
        blind: whether the top is asked for: where noise covers all, what D says is news, and the
            step from there is done again with it, and so is the one up to it.
        calls: model calls; at most, where the solver sweeps.
    """

    def __init__(self, settings: Settings, levels: list[float], path: Path, low: float) -> None:
        row = SOLVERS[settings.solver]
        self.levels, solved = rising(levels, path, low)
        steps, top = len(self.levels) - 1, self.levels[-1]
        self.bottom = (EXACT if row.sweeps else calls_at_bottom(len(self.levels))) if solved else 0
        self.blind = row.redoes and settings.corrector > 0 and steps > 0 and path.signal(top) == 0
        if row.sweeps:
            self.calls = self.bottom + row.sweeps * steps
            return
        self.calls = self.bottom + row.calls_a_step * steps - (solved and steps > 0) + self.blind


class Ascent(Run):
    """One run upwards."""

    def rise(self, sigmas: list[float], callback: Callback | None, disable: bool | None) -> Tensor:
        """Go up a falling schedule; return x at its first level."""
        plan = Plan(self.settings, self.placed(sigmas), self.path, self.low)
        self.callback = callback
        self.begin_answers(plan.calls)
        with trange(plan.calls, disable=disable, unit="call") as self.bar:
            known = self.solve_bottom(plan.levels[0], plan.bottom) if plan.bottom else None
            state = (
                self.sweep(plan) if self.row.sweeps else self.climb(plan.levels, known, plan.blind)
            )
        self.answers.settle()
        return state.to(self.given.dtype)

    def call(self, state: Tensor, sigma: float) -> tuple[Tensor, bool]:
        """Return (D at the level ``sigma`` in modes, whether another model answers than before)."""
        level = torch.full((len(state),), sigma, dtype=self.dtype, device=state.device)
        asked, denoised, anew = self.ask(state, level, sigma)
        self.report["calls"] = [self.calls] * len(state)
        self.bar.update()
        if self.callback is not None:
            told = {
                "x": asked,
                "i": self.calls - 1,
                "sigma": level[0],
                "sigma_hat": level[0],
                "denoised": denoised,
            }
            self.callback(told)
        return self.spectrum.forward(denoised.to(self.dtype)), anew

    def solve_bottom(self, sigma: float, calls: int) -> Tensor:
        """Move the state to where sampling's last step, from ``sigma``, leads to the picture;
        return D there (modes).

        Where that step ends on D, x + a (picture - D(x)) comes nearer as far as D follows x, which
        is where the picture has anything to say, and with the last two changes mixed in it is there
        in a few calls. Where the calls show a Gaussian of power S, the step is linear in x and is
        solved.
        """
        signal, goal = self.path.signal(sigma), self.spectrum.forward(self.state)
        modes = goal
        before: list[tuple[Tensor, Tensor]] = []
        asked: list[Call] = []
        for _ in range(calls):
            denoised, _ = self.call(self.spectrum.inverse(modes, self.given.shape), sigma)
            noise = torch.sub(modes, denoised, alpha=signal).mul_(signal / sigma**2)
            asked.append(Call(sigma, modes, denoised, noise))
            before = [(modes, (goal - denoised).mul_(signal)), *before[:2]]
            modes = self.mixed(before)
        power, trust = self.power_of(asked)
        ratio, total = step_total(self.path, sigma, 0.0, power)
        residual = torch.addcmul(asked[-1].denoised, power, asked[-1].noise, value=-1)
        solved = torch.addcmul(goal, total, residual, value=-1).div_(ratio.clamp(min=FAINTEST))
        modes = torch.lerp(modes, solved, trust * (ratio > FAINTEST))
        self.state = self.spectrum.inverse(modes, self.given.shape)
        residual = torch.addcmul(goal, ratio, modes, value=-1).div_(total)
        return (
            (residual * sigma**2)
            .addcmul_(power, modes, value=signal)
            .div_(power * signal**2 + sigma**2)
        )

    def power_of(self, asked: list[Call]) -> tuple[Tensor, Tensor]:
        """Return the power that the first two calls show, and the trust in it (modes): as far as
        they prove a Gaussian.

        In half precision what changed between them is rounding.
        """
        like = asked[0].state
        power_of = measure_of(self.spectrum, self.settings)
        if power_of is None or torch.finfo(self.given.dtype).eps >= HALF:
            return torch.zeros_like(like[:, :1]), torch.zeros_like(like[:, :1, :1])
        change = Change.between(asked[1], asked[0], self.window(), self.spectrum)
        known = power_of(change)
        sure = ((known.trust - SURE) / (1 - SURE)).clamp(0, 1)
        return known.numbers(self.spectrum.basis.parts) * sure, sure

    def mixed(self, before: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Return the next x (modes) out of the last (x, miss), newest first: Anderson's mixing, per
        picture."""
        (modes, miss), *older = before
        changes = [(modes - x, miss - r) for x, r in older]
        products = [[self.product(p, q) for _, q in changes] for _, p in changes]
        wanted = [self.product(p, miss) for _, p in changes]
        new = modes + miss
        for part, (x, r) in zip(_solve(products, wanted), changes, strict=True):
            new = torch.addcmul(new, part[:, None, None].to(new.dtype), x + r, value=-1)
        return new

    def product(self, p: Tensor, q: Tensor) -> Tensor:
        """Return the inner product (B,) of modes."""
        return self.spectrum.inner(p, q).sum(1)

    def sweep(self, plan: Plan) -> Tensor:
        """Solve for all levels at once, from the state up; return x at the highest."""
        sweeps, nodes = Sweeps(self), list(dict.fromkeys(plan.levels))
        sweeps.callback, sweeps.spent = self.callback, [plan.bottom] * len(self.state)
        sweeps.found = list(sweeps.begin(sweeps.equations(nodes), RESIDUAL, plan.calls).values())
        for _ in sweeps.rounds_of():
            self.bar.update(self.calls - self.bar.n)
        return sweeps.end(to_zero=False)

    def climb(self, levels: list[float], known: Tensor | None, blind: bool) -> Tensor:
        """Go up the levels from the state; ``known`` is D at the first (modes) if nobody has to be
        asked."""
        solver, sigma, modes = self.solver(), levels[0], self.spectrum.forward(self.state)
        for end in levels[1:]:
            amid, arrived = False, end == sigma
            while not arrived:
                denoised, anew = (
                    (known, False) if known is not None else self.call(self.state, sigma)
                )
                known = None
                if anew:  # a refiner took over: what the other model said is no history of this one
                    solver.reset()
                    if amid and sigma == end:
                        break
                solver.observe(sigma, modes, denoised)
                sigma, modes, arrived = solver.predict(end)
                self.state, amid = self.spectrum.inverse(modes, self.given.shape), True
        if blind:
            denoised, anew = self.call(self.state, sigma)
            if not anew:
                solver.observe(sigma, modes, denoised)
                self.state = self.spectrum.inverse(solver.corrected, self.given.shape)
        return self.state


def _solve(matrix: list[list[Tensor]], wanted: list[Tensor]) -> list[Tensor]:
    """Return the solution (list of (B,)) of a symmetric system of none, one or two equations; 0
    where they say nothing."""
    if not wanted:
        return []
    eps, tiny = torch.finfo(wanted[0].dtype).eps, torch.finfo(wanted[0].dtype).tiny ** 0.5
    if len(wanted) == 1:
        return [wanted[0] / (matrix[0][0] + tiny)]
    (a, b), (_, c) = matrix
    determinant = (a * c - b * b).clamp(min=0) + 8 * eps * a * c + tiny
    return [
        (c * wanted[0] - b * wanted[1]) / determinant,
        (a * wanted[1] - b * wanted[0]) / determinant,
    ]
