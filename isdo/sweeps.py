"""A run of the whole trajectory: its model calls round by round, what is told of them, and its last
step."""

from functools import partial

import torch
from tqdm.auto import tqdm

from .batch import Batch
from .curvature import RATIO_LIMIT
from .device import constants
from .fit import measure_of
from .settings import Settings
from .trajectory import Equations, Trajectory, chebyshev, resampled, sweep

# Residuals (RMS, beside pictures of the size of one) at which a schedule's nodes count as solved.
RESIDUAL = 1e-5
# Schedules have few nodes where noise covers all, and D turns little there: above so much noise to
# signal the variable of their interpolation is all but 1/r.
FEW = 3.0
# With a tolerance: the intervals to begin with. They are doubled until the doubled ones find an
# error below ``NEAR`` tolerances in the solution of the others: their own is then far smaller. The
# first ones need be solved no better than that.
START, NEAR = 8, 10.0
LOOKS_BACK = 3  # nodes that the last step looks at


class Sweeps:
    """A `run.Run` by sweeps over all nodes; theory page, section 14.

    Args:
        run: a `run.Run`: the model as it is asked, the state, spectrum, path and settings.
    """

    def __init__(self, run):
        self.run, self.rounds, self.callback = run, 0, None
        self.modes, self.spent = run.spectrum.forward(run.state), [0] * len(run.state)
        # under a mask the host's denoiser holds the known picture of each place in its batch
        self.batch = Batch(run.model, run.extra_args, len(run.state), together=run.mask is None)
        self.power_of = measure_of(run.spectrum, run.settings)

    def by_schedule(self, given, callback, disable):
        """Solve at the levels of a schedule, placed as the settings say; return x at its end."""
        run = self.run
        levels = run.placed(given)
        to_zero, nodes = (
            levels[-1] == 0,
            [v for i, v in enumerate(levels) if v > 0 and v not in levels[:i]],
        )
        steps = [nodes.index(level) for level in levels[:-1]]
        if not steps:
            return run.given.clone()
        self.found = list(
            self.begin(
                self.equations(nodes, FEW), RESIDUAL, run.row.calls(len(steps), to_zero)
            ).values()
        )
        run.begin_answers(run.row.calls(len(steps), to_zero))
        with tqdm(total=len(steps), disable=disable) as bar:
            for _ in self.rounds_of():
                for finals in self.solved():
                    for i in [i for i, node in enumerate(steps) if node == finals[0].node]:
                        bar.update()
                        if callback is not None:
                            callback(self.told(i, nodes[finals[0].node], finals))
        run.answers.settle()
        return self.end(to_zero)

    def by_tolerance(self, given, callback, disable):
        """Solve at Chebyshev's nodes between the ends of a schedule, as many as each picture needs;
        return x at 0."""
        run, most, tolerance = self.run, self.run.settings.max_calls, self.run.settings.tolerance
        (first, last), intervals, before = run.ends(given), START, None
        self.callback, self.found, running = (
            callback,
            [None] * len(self.modes),
            list(range(len(self.modes))),
        )
        run.begin_answers(most)
        with tqdm(disable=disable, unit="call") as bar:
            while running:
                equations = self.equations(
                    chebyshev(run.path, first, last, intervals) if first > last else [first]
                )
                guesses = {
                    b: resampled(self.found[b].final, before, equations)
                    for b in running
                    if before is not None
                }
                fresh = self.begin(
                    equations, tolerance * (NEAR if before is None else 1), most, running, guesses
                )
                self.found = [fresh.get(b, self.found[b]) for b in range(len(self.modes))]
                for _ in self.rounds_of():
                    bar.update(run.calls - bar.n)
                running = [b for b in running if self.goes_on(b, intervals, before)]
                for b in running:
                    self.spent[b] += self.found[b].calls
                intervals, before = 2 * intervals, equations
        run.answers.settle()
        return self.end(to_zero=True)

    def goes_on(self, b, intervals, before):
        """Say whether a picture needs more nodes than so many intervals have."""
        found = self.found[b]
        exact = found.equations.last == 0 or (before is not None and found.first <= NEAR)
        return not (exact or found.spent or 2 * intervals + 1 > self.run.settings.window)

    def equations(self, nodes, limit=RATIO_LIMIT):
        """Return the Equations between nodes, which fall or rise."""
        run = self.run
        return Equations(
            run.path, run.spectrum, nodes, self.modes.new_zeros(0), run.settings.window, limit
        )

    def begin(self, equations, tolerance, most, pictures=None, guesses=None, **options):
        """Return {picture: Trajectory}, of all or some of the pictures.

        Args:
            equations: Equations.
            tolerance: of the residuals.
            most: model calls a picture, those of earlier trajectories included.
            pictures: indices.
            guesses: {picture: modes at all nodes}.
            **options: further ones of Trajectory.
        """
        run, made = self.run, {}
        for b in range(len(self.modes)) if pictures is None else pictures:
            part = slice(b, b + 1)
            made[b] = Trajectory(
                equations, self.modes[part], run.norm(part, tolerance), run.window(part), run.settings.window,
                most=most - self.spent[b], power_of=self.power_of, guess=(guesses or {}).get(b), **options,
            )  # fmt: skip
        return made

    def rounds_of(self):
        """Sweep over the trajectories of all pictures until they are done; yields after each
        round."""
        report = self.run.report
        report |= {"calls": list(self.spent), "rejected": [0] * len(self.spent)}
        for _ in sweep(self.found, self.ask):
            self.rounds += 1
            calls = [spent + each.calls for spent, each in zip(self.spent, self.found, strict=True)]
            report |= {"calls": calls, "rounds": self.rounds}
            yield

    def ask(self, asked):
        """Return D (modes), by picture and node, where the lists ``asked`` of the pictures say."""
        if self.batch.together:
            pairs = [(b, j) for b, nodes in enumerate(asked) for j in nodes]
            answers = self.ask_at_once(pairs)
            if answers is not None:
                parts = iter(answers.split(1))
                return [[next(parts) for _ in nodes] for nodes in asked]
        levels = {j: self.ask_at_level(j) for j in sorted(set().union(*asked))}
        return [[levels[j][b : b + 1] for j in nodes] for b, nodes in enumerate(asked)]

    def ask_at_once(self, pairs):
        """Return D (modes) at pairs of a picture and a node by one call; None if the model does not
        take that."""
        run, index = self.run, [b for b, _ in pairs]
        sigmas = [self.found[b].equations.sigmas[j] for b, j in pairs]
        x = self.state_of(torch.cat([self.found[b].states[j] for b, j in pairs]))
        if all(j == 0 for _, j in pairs):
            x = rows_of(run.state, index)
        at_once = partial(self.batch.at_once, index=index)
        answer = run.answer(x, constants(sigmas, x), max(sigmas), at_once, may_refuse=True)
        if answer is None:
            return None
        asked, denoised = self.same_model(answer)
        if self.callback is not None:
            last = {b: i for i, b in enumerate(index)}
            rows = [last[b] for b in sorted(last)]
            self.tell(rows_of(asked, rows), [sigmas[row] for row in rows], rows_of(denoised, rows))
        return run.spectrum.forward(denoised.to(run.dtype))

    def ask_at_level(self, j):
        """Return D (modes) of all pictures at node j; one that does not need it lends what it
        has."""
        run, states, sigma = self.run, [], None
        for each in self.found:
            wanted = j in each.asked
            sigma = each.equations.sigmas[j] if wanted else sigma
            states.append(each.states[j] if wanted else each.states[max(each.states)])
        x = (
            run.state
            if j == 0 and all(each.asked for each in self.found)
            else self.state_of(torch.cat(states))
        )
        level = torch.full((len(x),), sigma, dtype=run.dtype, device=x.device)
        asked, denoised = self.same_model(
            run.answer(x, level, sigma, lambda *given: self.batch.at_level(*given, j))
        )
        if self.callback is not None:
            self.tell(asked, [sigma] * len(x), denoised)
        return run.spectrum.forward(denoised.to(run.dtype))

    def state_of(self, modes):
        """Return modes (n, channels, K) as pictures."""
        return self.run.spectrum.inverse(modes, (len(modes), *self.run.given.shape[1:]))

    def same_model(self, answer):
        """Return (what was asked, D) of an answer.

        Raises:
            RuntimeError: another model answers than before: the trajectory is of one.
        """
        asked, denoised, anew = answer
        if anew:
            raise RuntimeError(
                "the model was changed amid the run, by a refiner for instance, and the solver trajectory asks it at all noise "
                "levels again and again: take another solver, or no refiner"
            )
        return asked, denoised

    def tell(self, asked, sigmas, denoised):
        """Call the callback of a run with a tolerance."""
        levels = constants(sigmas, asked)
        state = {
            "x": asked,
            "i": self.run.calls - 1,
            "sigma": levels.max(),
            "sigma_hat": levels,
            "denoised": denoised,
        }
        self.callback(state)

    def solved(self):
        """Yield the Finals of all pictures at each node that has become final for all of them."""
        while all(each.final for each in self.found):
            yield [each.final.pop(0) for each in self.found]

    def told(self, i, sigma, finals):
        """Return what the callback is told of step i."""
        dtype, number = self.run.given.dtype, {"dtype": self.run.dtype, "device": self.modes.device}
        x, denoised = (
            self.state_of(torch.cat(parts)).to(dtype)
            for parts in zip(*((f.state, f.denoised) for f in finals), strict=True)
        )
        sigma = torch.full((), sigma, **number)
        return {"x": x, "i": i, "sigma": sigma, "sigma_hat": sigma, "denoised": denoised}

    def now(self):
        """Return the pictures at 0 as far as they are known: by the last step from the nodes in
        flight."""
        return self.state_of(torch.cat([self.last_step(b) for b in range(len(self.found))])).to(
            self.run.given.dtype
        )

    def end(self, to_zero):
        """Return the pictures at the last node, or at 0, whither what goes the last step of a
        sequential run goes."""
        run = self.run
        if not to_zero and self.found[0].equations.last == 0:  # the same level all along
            return run.given.clone()
        parts = [
            self.last_step(b) if to_zero else each.states[each.low]
            for b, each in enumerate(self.found)
        ]
        return self.state_of(torch.cat(parts)).to(run.given.dtype)

    def last_step(self, b):
        """Return a picture at 0 (modes), from its last nodes."""
        run, found = self.run, self.found[b]
        settings = Settings(modes=run.settings.modes, power=run.settings.power, corrector=0)
        solver = run.solver(slice(b, b + 1), settings)
        for j in sorted(found.states):
            if j > max(found.states) - LOOKS_BACK:
                solver.observe(found.equations.sigmas[j], found.states[j], found.denoised[j])
        return solver.predict(0.0)[1]


def rows_of(x, index):
    """Return rows of x by a list of numbers, which a GPU need not be handed."""
    return torch.cat([x[i : i + 1] for i in index])
