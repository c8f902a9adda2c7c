"""Change one number or rule of the package at a time, and see whether a test notices.

    python tests/mutants.py [--list] [--only PART ...] [--row TEXT] [--all-tests] [--timeout SECONDS]

What survives is a rule that nobody would miss, or one whose test is missing. Nothing here is edited
in place: the repository is copied, and every change is made in a child process of its own, which is
forked after torch and pytest are loaded (so it wants Linux or macOS). A change counts as caught only
if the test that failed passes without it. Not part of CI, which checks the table alone
(`tests/test_mutants.py`): a row whose text is gone is an error there.
"""

import argparse
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT = 900
VERDICTS = ("caught", "SURVIVED", "TIMEOUT", "ERROR")


class Row(NamedTuple):
    """One change: ``old``, which is there once, becomes ``new``; what that breaks; which tests ought
    to notice, if not those of the part."""

    old: str
    new: str
    breaks: str
    tests: tuple = ()


@dataclass(frozen=True)
class Part:
    """The rows of one file, and the tests that ought to notice them."""

    name: str
    file: str
    tests: tuple
    rows: tuple


def _tests(*names):
    return tuple(f"tests/test_{name}.py" for name in names)


SCHEDULES = Part("schedules", "isdo/schedules.py", _tests("schedules"), (
    Row("1 - least / expected", "1 - (least / expected) ** 0.5", "the share is of the squared error"),
    Row("left = self.turned[-1] - turned[-1]", "left = 0.0", "what ending there leaves"),
    Row("STEP_ERROR = 0.25  #", "STEP_ERROR = 0.5  #", "how steps are weighed against the last one"),
    Row("kappa ** (1 / (ORDER + 1))", "kappa ** (1 / (ORDER + 2))", "equal shares of k^(1/3)"),
    Row("between ** (2 * ORDER + 1)", "between ** (2 * ORDER)", "the last level as steps grow"),
    Row("left * (self.turned[-1] - self.turned)", "left * self.turned", "what D has still to turn"),
    Row("    0.0913, 0.118, 0.134, 0.142, 0.138,", "    0.0913, 0.118, 0.134, 0.142, 0.150,",
        "the stored curve"),
    Row("moved + share * (there - here)", "moved + share**2 * (there - here)",
        "the share of the way to the curvature"),
    Row("(1 - pull) * placement * share", "placement * share", "guidance takes over from the share"),
    Row("TYPICAL_SCALE, GUIDED_SCALE = 2.0, 7.0", "TYPICAL_SCALE, GUIDED_SCALE = 3.0, 7.0",
        "the guidance that the stored curves are of"),
    Row("        0.659, 0.595, 0.739,", "        0.659, 0.695, 0.739,", "the curve of guidance 7"),
    Row("(min(sigma_min, given[-1]) or given[-1])", "(sigma_min or given[-1])",
        "a schedule that ends below the model's smallest level"),
    Row("rho: float = 7.0", "rho: float = 6.0", "Karras's default"),
    Row("len(table) - 1, 0, steps + 1)[:-1]", "len(table) - 1, 0, steps)", "sgm_uniform"),
    Row("torch.lerp(table.log()[low], table.log()[low + 1], index - low).exp()",
        "torch.lerp(table[low], table[low + 1], index - low)", "levels between those of a table"),
    Row("shift * ramp / (1 + (shift - 1) * ramp)", "shift * ramp / (1 + shift * ramp)",
        "the shift of flow"),
    Row("LEAST_ROOM = 1.01", "LEAST_ROOM = 2.0", "room for a second level",
        _tests("schedules", "refinement")),
    Row("last = max(last, count - (count - first) / steps)", "pass",
        "the steps of the rest where few levels are left"),
    Row("if floor < start / LEAST_ROOM:", "if True:", "a way from the model's smallest level"),
    Row("if start <= bottom:", "if False:", "a schedule that ends above 0, from below its end"),
))  # fmt: skip

CURVATURE = Part("schedules", "isdo/curvature.py", _tests("schedules"), (
    Row("RATIO_LIMIT = 100.0", "RATIO_LIMIT = 30.0", "levels where next to nothing shows",
        _tests("schedules", "control")),
    Row("FLOOR = 1e-3", "FLOOR = 1e-1", "where D stood still in the probe"),
    Row("inside + below - above", "inside + 2 * below - above", "curvature below the table falls as r"),
    Row("inside + below - above", "inside + below - 2 * above", "curvature above the table falls as 1/r"),
))  # fmt: skip

PATH = Part("path", "isdo/path.py", _tests("path"), (
    Row("ROUNDING = 1e-5", "ROUNDING = 1e-2", "a level above the limit of its path is refused"),
    Row("ratio / (1 + self.fade * ratio)", "ratio / (1 + ratio)", "r to sigma on ve"),
    Row("return table[table > 0].sort().values if", "return table[table > 0] if",
        "tables that fall"),
    Row('return FLOW if prediction == "const" else VE', "return VE", "Forge's flow models"),
    Row("FLOW.settle(float(table[-1])) <= FLOW.sigma_limit", "float(table[-1]) <= FLOW.sigma_limit",
        "a flow table in float32 that ends at 1.0000001"),
))  # fmt: skip

SPECTRUM = Part("spectrum", "isdo/spectrum.py", _tests("spectrum"), (
    Row("multiplicity[:, 0] = 1", "multiplicity[:, 0] = 2", "modes without a mirror image"),
    Row("    if width % 2 == 0:\n        multiplicity[:, -1] = 1\n", "", "the highest mode across"),
    Row("np.round(waves)", "np.floor(waves)", "the edges of bands"),
    Row("np.ceil(2 * waves - 1e-9)", "np.ceil(2 * waves + 1e-9)", "the edges of half bands"),
    Row("index, multiplicity / parts, count)", "index, multiplicity, count)", "degrees of freedom of a band"),
    Row("radius * max(height, width)", "radius * min(height, width)", "frequency is physical"),
    Row("(below < modes)", "(below <= modes)", "how many modes are fitted"),
    Row("    if alone:", "    if False:", "a single picture's bits",
        _tests("spectrum", "sampling")),
    Row("    matrix[0] *= 0.5**0.5\n", "", "the cosine basis is orthonormal"),
    Row("np.sqrt(multiplicity)", "np.ones_like(multiplicity)", "inner products in Fourier space"),
    Row("else numbers[..., ::2] + numbers[..., 1::2]", "else numbers[..., ::2]", "both parts of a mode"),
))  # fmt: skip

WINDOW = Part("window", "isdo/window.py", _tests("sampling", "control", "trajectory"), (
    Row("(self.mask == 0).to(mask.dtype)", "1 - self.mask", "half painted pixels are painted"),
    Row("return self._times(self.mask, modes)", "return modes", "fits look at the painted part"),
    Row("denoised(), alpha=rise)", "denoised(), alpha=0 * rise)", "kept pixels go towards the host's D"),
))  # fmt: skip

QUADRATURE = Part("quadrature", "isdo/quadrature.py", _tests("quadrature"), (
    Row("def _rule(half=20,", "def _rule(half=8,", "nodes of the rule"),
    Row("half=20, reach=3.1)", "half=20, reach=2.2)", "how near the ends it goes"),
    Row("path.signal(sigma) + sigma / limit)))", "path.signal(sigma))))", "depth is finite at pure noise",
        _tests("quadrature", "trajectory")),
    Row("(start - end) * (a1 * start + a0 * end)", "(start - end) * (a1 * end + a0 * start)",
        "what a step adds"),
    Row("_log1p(2 * delta / (1 + 2 * sigma))", "_log1p(delta / (1 + sigma))", "the tau log1p"),
    Row('Tau("cube root", _power(1 / 3))', 'Tau("cube root", _power(1 / 4))', "the tau cube root"),
    Row("factors[:0:-1]", "factors[::-1][:-1][::-1]", "shares of nodes", _tests("quadrature", "trajectory")),
    Row("(low + node * (high - low))", "(low + co_node * (high - low))", "where a point of a step lies"),
    Row("(knots[i] - knots[i + degree])", "(knots[i] - knots[i + 1])", "divided differences"),
    Row("max(start, end), min(start, end)", "start, end", "a step upwards", _tests("quadrature", "trajectory")),
))  # fmt: skip

FIT = Part("fit", "isdo/fit.py", _tests("multistep", "ablation"), (
    Row("\nCOHERENT = 0.99", "\nCOHERENT = 0.9", "a number a mode where nobody says what is enough"),
    Row("single = spectrum.basis.parts == 1 or", "single =", "a basis of single numbers"),
    Row("max(spectrum.height, spectrum.width) <= 2", "False", "pictures of 2 by 2"),
    Row(" or coherent >= 1", "", "a threshold that nothing passes"),
    Row("fitted=spectrum.among_lowest(settings.modes)", "fitted=None", "how many modes are fitted"),
    Row("self.with_noise = values * values[:, 1:]", "self.with_noise = values * values[:, :1]",
        "products are with the noise"),
    Row("Change(self.values * fitted, self.spectrum)", "Change(self.values, self.spectrum)",
        "modes that are not fitted have no power"),
    Row("doubt=1 - found.trust * fitted", "doubt=found.doubt", "modes that are not fitted are answered"),
    Row("table((0.0, tiny), products)", "table((-1e30, tiny), products)", "a power is not negative"),
    Row("explained = (power * both)", "explained = (power * noise)", "the share that is explained"),
    Row("slope = 1 / (most - coherent)", "slope = 1e9", "trust grows linearly"),
    Row("Power((power * trust)[..., None]", "Power(power[..., None]", "half-believed fits"),
    Row("table((-coherent * slope, most * slope), self.values)", "table((-coherent * slope, 1.0), self.values)",
        "doubt is what trust leaves"),
    Row("cls(window.painted(values), spectrum)", "cls(values, spectrum)", "fits look at the painted part"),
))  # fmt: skip

SRK = Part("srk", "isdo/srk.py", _tests("srk"), (
    Row("SHORTEST = 1e-5", "SHORTEST = -1.0", "a power out of rounding"),
    Row("mul_(-(call.sigma**2))", "mul_(-(call.sigma * self.start.sigma))", "the slope of a stage"),
    Row("self.start.sigma ** (1 - float(part)) * self.end ** float(part)",
        "self.start.sigma * (1 - float(part)) + self.end * float(part)", "stages even in log sigma"),
    Row("(*self.slopes, self.slope(call)) if self.tableau.fsal else self.slopes", "self.slopes",
        "the estimate of a first-same-as-last row"),
    Row("return ratio * self.moved(self.tableau.errors, slopes)",
        "return self.moved(self.tableau.errors, slopes)", "the estimate at the end of a step"),
    Row("if end == 0:", "if False:", "the step to 0"),
))  # fmt: skip

TABLEAU = Part("srk", "isdo/tableau.py", _tests("tableau"), (
    Row("self.c[-1] == 1 and (*self.a[-1], Fraction(0)) == self.b", "self.c[-1] == 1",
        "which rows are first-same-as-last"),
    Row("b - low for b, low", "low - b for b, low", "the sign of the estimate", _tests("tableau", "srk")),
    Row("if (found := self.order_of(weights)) != order:",
        "if (found := self.order_of(weights)) < order:", "an order said too low"),
    Row("if any(sum(row) != c", "if all(sum(row) != c", "rows sum to c"),
))  # fmt: skip

CONTROL = Part("control", "isdo/control.py", _tests("control", "adaptive"), (
    Row("0.7, 0.4, 0.9, 0.2, 5.0", "0.7, 0.4, 0.6, 0.2, 5.0", "safety"),
    Row("0.7, 0.4, 0.9, 0.2, 5.0", "0.7, 0.0, 0.9, 0.2, 5.0", "the proportional part"),
    Row("0.7, 0.4, 0.9, 0.2, 5.0", "0.35, 0.4, 0.9, 0.2, 5.0", "the integral part"),
    Row("0.7, 0.4, 0.9, 0.2, 5.0", "0.7, 0.4, 0.9, 0.02, 5.0", "the smallest factor"),
    Row("0.7, 0.4, 0.9, 0.2, 5.0", "0.7, 0.4, 0.9, 0.2, 50.0", "the largest factor"),
    Row("                1.0,\n                1.0,\n", "                1.0,\n                self.largest,\n",
        "no growth right after a failure"),
    Row("SHORTEST = 1e-3", "SHORTEST = 1e-1", "the shortest step"),
    Row("FIRST = 0.5", "FIRST = 5.0", "the first step"),
    Row("(here - end) / 2)", "here - end)", "the last two steps share what is left"),
    Row("wrong = (share * inner(gap, gap)).sum()", "wrong = inner(gap, gap).sum()",
        "bands count by what reaches the end"),
    Row("(1 + (energy.sum() / count.sum()).sqrt())", "1", "relative to the picture's size"),
    Row("error if math.isfinite(error) else HOPELESS", "error", "an error that is no number"),
    Row("return -math.log(self.path.signal(sigma) / sigma + 1 / RATIO_LIMIT)",
        "return -math.log(self.path.signal(sigma) / sigma + 1e-9)", "the length of a step from noise"),
))  # fmt: skip

REFINEMENT = Part("refinement", "isdo/refinement.py", _tests("refinement"), (
    Row("SEED_OFFSET = 0x15D0_5EED", "SEED_OFFSET = 0", "noise that the picture was drawn from"),
    Row("FINE = 0.25", "FINE = 0.45", "what counts as fine detail"),
    Row("LEAST_DETAIL = 1e-3", "LEAST_DETAIL = 0.0", "detail made out of rounding"),
    Row("ratio.clamp(1 - self.drift, 1 + self.drift)",
        "ratio.clamp(1 - self.drift, 1e9)", "hardened detail is held, too"),
    Row("1 + self.drift) / ratio).sqrt()", "1 + self.drift) / ratio)", "the factor on detail"),
    Row("                * settings.noise_scale\n", "", "the factor on the noise"),
    Row("- action.kept**2))", "))", "noise that is still there counts"),
    Row("(k // 2, (-1) ** k) if settings.antithetic", "(k // 2, 1) if settings.antithetic",
        "antithetic pairs cancel"),
    Row("1 + turn * (2 if settings.antithetic else 1)", "1 + k", "a pair has one amount"),
    Row("min(ratios[k : k + 2]) / 2", "ratios[k] / 2", "a way up again from the floor"),
    Row("settings.noise / (k + 1) ** settings.noise_decay",
        "settings.noise / (k + 2) ** settings.noise_decay", "how noise is annealed"),
    Row("torch.where(per_image(active, found), found, picture)", "found",
        "what has converged stays"),
    Row("columns) < count).nonzero()", "columns) <= count).nonzero()", "how many modes are locked"),
    Row("* max(height, width) / n", "* min(height, width) / n", "half waves a longer side"),
    Row("(basis * w[:, None]) @ basis.T", "basis @ basis.T", "the lock under a mask"),
    Row("_moved(action.name, -action.pixels, back - moved) if settings.undo",
        "_moved(action.name, action.pixels, back - moved) if settings.undo", "the move is undone"),
    Row("placement=0, tolerance=0)", "tolerance=0)", "the ways back go by the loop's own levels"),
    Row("settings, mask, low=0.0)", "settings, mask, low=0.03)", "ways back end on D"),
    Row("torch.lerp(self.known, denoised, self.mask)\n        ).to(x.dtype)",
        "denoised\n        ).to(x.dtype)", "soft masks hold in part"),
    Row("range(operator.index(seeds), operator.index(seeds) + count)",
        "[operator.index(seeds)] * count", "the next picture has the next seed"),
))  # fmt: skip

SAMPLING = Part("repainting", "isdo/sampling.py", _tests("repainting"), (
    Row("REPAINT_OFFSET = 0x0D15_5E1D", "REPAINT_OFFSET = 0", "a refinement of the same seed"),
    Row("if path.from_noise_to_signal(noise) <= first", "if True", "no way back above the start"),
    Row("        lock=0,\n", "", "nothing of the drawing is locked"),
))  # fmt: skip

RUN = Part("run", "isdo/run.py", _tests("sampling", "control", "srk"), (
    Row("ROUNDINGS = 10", "ROUNDINGS = 0", "a tolerance of less than rounding"),
    Row("min(self.low, given[-2]) or given[-2]", "given[-2]", "how far down a tolerance goes"),
    Row("for side in (1, -1)", "for side in (1, 1)", "both sides of x are asked", _tests("penalty")),
    Row("before is not None and before != self.inner", "False", "a refiner takes over"),
))  # fmt: skip

INVERSION = Part("inversion", "isdo/inversion.py", _tests("inversion"), (
    Row("LEAST, STEPS_A_CALL, MOST = 2, 16, 12", "LEAST, STEPS_A_CALL, MOST = 2, 64, 12",
        "calls at the bottom"),
    Row("DEEPEST = 0.5", "DEEPEST = 50.0", "a last level with too little of the picture"),
    Row("FAINTEST, SURE = 0.01, 0.9", "FAINTEST, SURE = 0.01, 0.0", "half a Gaussian is none"),
    Row("FAINTEST, SURE = 0.01, 0.9", "FAINTEST, SURE = 1e-9, 0.9", "a division by nothing"),
    Row("HALF = 1e-5", "HALF = 1.0", "half precision shows rounding, not power"),
    Row("for x, r in older]\n        products", "for x, r in older[:0]]\n        products",
        "the mixing at the bottom"),
    Row("        if blind:\n", "        if False:\n", "the step up to pure noise is done again"),
    Row("+ self.blind\n", "\n", "the number of calls"),
))  # fmt: skip

PENALTY = Part("penalty", "isdo/penalty.py", _tests("penalty"), (
    Row("(-2 * self.weight", "(2 * self.weight", "the sign of the penalty"),
    Row("(-2 * self.weight", "(-1 * self.weight", "the gradient of a square"),
    Row("self.width) - 1).clamp(min=0)", "self.width) - 1)", "only what comes apart counts"),
    Row("self.width) - 1).clamp(min=0)", "self.width)).clamp(min=0)", "kappa is lambda - 1"),
    Row("SHARE = 0.5", "SHARE = 1e3", "the limit of the correction"),
    Row("APART, APART_IN_FLOAT64 = 0.15, 2.0**-14", "APART, APART_IN_FLOAT64 = 0.01, 2.0**-14",
        "the distance of the further calls in float32"),
    Row("APART, APART_IN_FLOAT64 = 0.15, 2.0**-14", "APART, APART_IN_FLOAT64 = 0.15, 2.0**-24",
        "the distance of the further calls in float64"),
    Row("MODES = 64", "MODES = 8", "where the direction lives"),
    Row("- 2 * denoised + minus", "- denoised + minus", "the second difference"),
    Row("weight * feeler.count(modes)", "weight", "the same for a picture of any size"),
    Row("(self.path.signal(sigma) / (2 * width * sigma))\n        found",
        "(1 / (2 * width * sigma))\n        found", "the slope on the path flow"),
))  # fmt: skip

TRAJECTORY = Part("trajectory", "isdo/trajectory.py", _tests("trajectory"), (
    Row("LEBESGUE = 4.0", "LEBESGUE = 40.0", "how wide an interpolation may be"),
    Row("WIDEST = 33", "WIDEST = 9", "nodes of an interpolation"),
    Row("EXPECTED = 0.6", "EXPECTED = 0.0", "the first answer that is foretold"),
    Row("FAINT = 0.3", "FAINT = 1e-9", "answers where the picture is faint"),
    Row("DEPTH, RIDGE = 2, 1e-3", "DEPTH, RIDGE = 1, 1e-3", "how many changes take part"),
    Row("DEPTH, RIDGE = 2, 1e-3", "DEPTH, RIDGE = 2, 0.0", "two changes that are alike"),
    Row("PATIENCE, FALLING = 4, 0.7", "PATIENCE, FALLING = 400, 0.7", "patience ends"),
    Row("ROUNDED = 100.0", "ROUNDED = 1e9", "what counts as rounding"),
    Row("MOST, INNER, STRETCH = 0.5, 2, 3.0", "MOST, INNER, STRETCH = 0.99, 2, 3.0",
        "no more than twofold"),
    Row("MOST, INNER, STRETCH = 0.5, 2, 3.0", "MOST, INNER, STRETCH = 0.5, 0, 3.0",
        "the implicit answer is iterated"),
    Row("MOST, INNER, STRETCH = 0.5, 2, 3.0", "MOST, INNER, STRETCH = 0.5, 2, 1e9",
        "how far an earlier change is stretched"),
    Row("BEHIND = 2", "BEHIND = 0", "nodes that the step to 0 looks at"),
    Row("if not (interval.final and good):", "if not good:", "a node that others still change"),
    Row("asked if each.low <= slowest + each.reach else []", "asked", "no picture runs away"),
    Row("(1 - power.trust) * (", "(", "m of a Gaussian does not depend on x"),
    Row("residual = interval.ratio * residual + defect", "residual = defect",
        "residuals add up along the way"),
    Row("j + 1 - width // 2), len(places)", "j - width // 2), len(places)",
        "interpolations are centred"),
))  # fmt: skip

ACTION = Part("action", "isdo/action.py", _tests("action"), (
    Row("(1 + waves.square()) ** float(sobolev)", "(1 + waves) ** float(sobolev)", "Sobolev's weights"),
    Row("cost / (2 * (sigma - after))", "cost / (sigma - after)", "half of the square"),
    Row("SUBSTEPS = 2", "SUBSTEPS = 1", "no fault of srk5 seen"),
))  # fmt: skip

GROUP = Part("group", "isdo/group.py", _tests("group"), (
    Row("        frequency[-1] = 0  # the Nyquist", "        pass  # the Nyquist", "the highest component"),
    Row("across, down = -(turn / 2).tan(), turn.sin()", "across, down = -(turn / 2).sin(), turn.sin()",
        "three shears are a rotation"),
    Row("torch.exp(-amounts / 2)", "torch.exp(-amounts)", "the brightness of a scale"),
    Row("LARGEST_AMOUNT = 0.5", "LARGEST_AMOUNT = 5.0", "a picture of a few pixels"),
    Row("(height**2 + width**2 - 2) / 12", "(height**2 + width**2) / 12", "pixels on average"),
))  # fmt: skip

LATENTS = Part("latents", "isdo/latents.py", _tests("latents", "invert_cli"), (
    Row("NEAR = 1e-3", "NEAR = 1e-1", "noise of another level"),
    Row('said.get("kind") != KIND or x is None', "x is None", "a file of another kind"),
    Row("or not x.isfinite().all()", "", "noise that is no number"),
    Row("if self.x.shape[1] != shape[0]:", "if False:", "noise of other channels"),
    Row('if Path(path).suffix.lower() != ".safetensors":', "if False:", "noise in a picture's name"),
))  # fmt: skip

IDENTITY = Part("identity", "isdo/identity.py", _tests("identity"), (
    Row("DEPTH = 6", "DEPTH = 2", "wrappers within wrappers"),
    Row("a is b and v == w for", "a is b for", "weights loaded into the same network"),
    Row('and getattr(model, "inner_model", None) is inner', "", "a wrapper made anew at each access"),
    Row("yield thing.__func__, None", "pass", "functions by their code"),
    Row("yield thing.__code__, None", "yield thing, None", "functions that are made anew"),
    Row("None if tensor.is_inference() else tensor._version", "tensor._version",
        "tensors made for inference"),
    Row("id(thing) in met", "False", "wrappers that hold each other"),
))  # fmt: skip

ANSWERS = Part("answers", "isdo/answers.py", _tests("answers"), (
    Row("if i % BLOCK == 0:", "if i == 0:", "more answers than one piece of memory"),
    Row("            self.seen += 1\n", "            self.seen += 2\n", "every answer is looked at"),
    Row("        if bad:\n            self._complain(bad[0])\n", "", "the last answer"),
    Row("elif not denoised.is_floating_point():", "elif False:", "whole numbers"),
    Row("elif denoised.shape != x.shape:", "elif denoised.ndim != x.ndim:", "another shape"),
))  # fmt: skip

PROCESS = Part("process", "isdo/process.py", _tests("process", "elbo"), (
    Row("limit: float = 0.999", "limit: float = 0.9", "the clip of the cosine betas"),
    Row("def _cosine(offset: float = 0.008)", "def _cosine(offset: float = 0.08)", "the offset of the cosine"),
))  # fmt: skip

# The core, a part a room. Its tests hold every rule to stored runs, and most to exact answers.
_CORE = _tests("multistep")

TUNED = Part("multistep", "isdo/multistep/tuned.py", _CORE, (
    Row("coherent: float = tuned(\n        COHERENT,", "coherent: float = tuned(\n        0.9,",
        "what has to be explained before a fit is believed"),
    Row("dim: float = tuned(\n        0.5,", "dim: float = tuned(\n        1.0,",
        "where steepness is measured and a run is near"),
    Row("gentle: float = tuned(\n        0.25,", "gentle: float = tuned(\n        0.5,",
        "the first prediction is cautious"),
    Row("stiff: float = tuned(\n        0.44,", "stiff: float = tuned(\n        0.6,", "steep steps"),
    Row("stiff_length: float = tuned(\n        0.6,", "stiff_length: float = tuned(\n        0.3,",
        "how long a step is stiff in full"),
    Row("least: float = tuned(\n        0.2,", "least: float = tuned(\n        0.1,",
        "corrections are taken in part"),
    Row("rise: float = tuned(\n        1.5,", "rise: float = tuned(\n        1.25,",
        "the response rises towards the end"),
    Row("between: float = tuned(\n        1.5,", "between: float = tuned(\n        1.0,",
        "the variable of corrections"),
    Row("reach: float = tuned(\n        3.0,", "reach: float = tuned(\n        2.0,",
        "how far the end is foreseen"),
    Row("detail: float = tuned(\n        0.15,", "detail: float = tuned(\n        0.3,",
        "how much of the noise becomes detail"),
    Row("twin: float = tuned(\n        0.05,", "twin: float = tuned(\n        0.01,",
        "levels that nearly repeat"),
))  # fmt: skip

HISTORY = Part("multistep", "isdo/multistep/history.py", _CORE, (
    Row("LEAST_STEP = 1e-5", "LEAST_STEP = 0.0", "levels that repeat but for rounding"),
    Row("zip(sigmas, sigmas[1:3], strict=False)", "zip(sigmas, sigmas[1:], strict=False)",
        "a twin is short beside the step before it"),
    Row("self.change().add_(new - before)", "pass", "nothing that led to a twin is lost"),
    Row("return self.signals[-1] == 0", "return False", "steps from pure noise are done again"),
    Row("return self.signals[-1] == 0", "return self.signals[0] == 0",
        "steps from pure noise are done again while it is known"),
    Row("out=new[:, 1]).mul_(signal / sigma**2)", "out=new[:, 1]).mul_(1 / sigma**2)", "e is a (x - a D)/s^2"),
    Row("value=-1).flatten(-2)", "value=1).flatten(-2)", "m is D less S e"),
    Row("said = said - self.change(i)[:, 0]", "said = said + self.change(i)[:, 0]", "D at an earlier node"),
    Row("values=self.values.clone()", "values=self.values", "a copy is its own"),
    Row("changes = [(self.newest - j) % self.depth", "changes = [(self.newest + j) % self.depth",
        "the ring of changes"),
    Row("(signal, *self.signals[1:])", "self.signals", "a twin has its own signal"),
))  # fmt: skip

EVIDENCE = Part("multistep", "isdo/multistep/evidence.py", _CORE, (
    Row("SECOND, FOURTH = 2.0, 4.0", "SECOND, FOURTH = 1.0, 4.0", "rules count by the inverse square"),
    Row("SECOND, FOURTH = 2.0, 4.0", "SECOND, FOURTH = 2.0, 2.0", "order 1 counts by the fourth power"),
    Row("[(None, 1)] * self.held", "[(None, 1)] * False", "order 1 in the evidence"),
    Row("for order in range(2, self.order + 1)", "for order in range(self.order, self.order + 1)",
        "lower orders in the evidence"),
    Row("tuple(1 + (row[0] if row else 0.0) for row in factors)", "tuple(1.0 for row in factors)",
        "a rule follows what the node before was lifted by"),
    Row("extrapolation_rises(sigmas[1:], sigmas[0],", "extrapolation_rises(sigmas[:-1], sigmas[0],",
        "the newest is foretold by those before it"),
    Row("tuple(-f for f in column)", "tuple(-0.5 * f for f in column)", "a miss is what a rule left out"),
    Row("best = sizes.amin(tuple(range(1, sizes.ndim)), keepdim=True)", "best = sizes.amin(-1, keepdim=True)",
        "the two hypotheses compete"),
    Row("torch.finfo(sizes.dtype).tiny ** 0.75", "1.0", "the smallest misses count, too"),
    Row("tuple(-f * unit for f in", "tuple(-f for f in", "the answer has a unit"),
    Row("+ [2.0] * len(taken) if", "+ [1.0] * len(taken) if", "the answer is believed by halves"),
    Row("        if tau is None or end == 0:\n", "        if tau is None:\n", "m is held in the step to 0"),
    Row("unit * (1.0 + row[slots[1]])", "unit * 1.0", "a mean follows what m was lifted by"),
))  # fmt: skip

STEEPNESS = Part("multistep", "isdo/multistep/steepness.py", _CORE, (
    Row("NORMAL = 2 / math.pi", "NORMAL = 1.0", "independent changes show the quotient of their sizes"),
    Row("table((2.5,), value)", "table((2.0,), value)", "the line goes through a half"),
    Row("if signal >= self.tuned.dim * sigma:", "if False:", "where the picture outweighs the noise"),
    Row("ratio = NORMAL * (signal / sigma) ** 2", "ratio = NORMAL * (signal / sigma)", "S/r^2 on a Gaussian"),
    Row("else torch.maximum(self.value, value)", "else value", "what was steep once stays so"),
    Row("tuned.stiff / stiff, tuned.least", "tuned.stiff, tuned.least", "shorter steps are less stiff"),
    Row("        if stiff == 0:\n", "        if False:\n", "a step of no length"),
))  # fmt: skip

STEP = Part("multistep", "isdo/multistep/step.py", _CORE, (
    Row("for k in range(order - 1))", "for k in range(len(sigmas) - 1))", "lower orders"),
    Row("path.signal(s) ** 2 for s", "path.signal(s) for s", "psi^2 = a^2 S + s^2"),
    Row("squares[:, 1:]).sqrt_()", "squares[:, 1:])", "psi is a root"),
    Row("if a0 == a1 == 1:", "if True:", "steps of flow models"),
    Row("torch.sub(x, mean, alpha=a0)", "torch.sub(x, mean, alpha=a1)", "the signal at the start"),
))  # fmt: skip

ENDING = Part("multistep", "isdo/multistep/ending.py", _CORE, (
    Row("min(tuned.reach * length, math.log(sigma / low))", "tuned.reach * length",
        "detail grows down to the model's smallest level"),
    Row("seen = length + (length1 if history.signals[2] else 0.0)", "seen = length + length1",
        "nothing but noise is no noise that is left"),
    Row("grown.clamp(0, tuned.detail", "grown.clamp(-1e9, tuned.detail", "detail does not go"),
    Row("made = torch.addcmul(made, growth[:, None], along, value=-1)", "pass",
        "what grew is not carried on twice"),
    Row("scale = (sigma1 - sigma) / (sigma2 - sigma1)", "scale = 1.0", "the line before it, as far as it went"),
    Row("part = agreement(window.painted(made)", "part = agreement(made", "the line looks at the painted part"),
    Row("min(tuned.reach, (sigma - low) / (sigma1 - sigma))", "tuned.reach",
        "the line ends at the model's smallest level"),
    Row("growth, noise, value=ahead)", "growth, noise, value=length)", "how far detail is carried on"),
    Row("[before, before - de1]", "[before, before]", "the noise at both earlier nodes"),
    Row("e * scales[0], older", "e, older", "n is (x - a D)/s"),
    Row("both, line = both.clamp(min=0), line + tiny", "line = line + tiny", "a line that turned back"),
    Row("(both / line).clamp(max=1) * (both / line) *", "(both / line) *", "the part by which it was foretold"),
    Row(" * (both / (size + tiny))", "", "how surely the line goes on"),
    Row("changes, noises = window.painted(changes), window.painted(noises)", "pass",
        "detail is measured in the painted part"),
    Row("(both / size.add_(tiny)).sum(1)", "(both / size.add_(tiny)).mean(1)", "both changes grew"),
))  # fmt: skip

MULTISTEP = Part("multistep", "isdo/multistep/__init__.py", _CORE, (
    Row("\nMOST = 4", "\nMOST = 5", "nodes of a correction"),
    Row('FAR, NEAR = ("sigma", "log1p"), ("sigma", "log")', 'FAR, NEAR = ("sigma", "log"), ("sigma", "log")',
        "the bold tau from noise"),
    Row('FAR, NEAR = ("sigma", "log1p"), ("sigma", "log")', 'FAR, NEAR = ("sigma", "log1p"), ("sigma", "log1p")',
        "the bold tau of runs that begin near the picture"),
    Row("return NEAR if near else FAR", "return FAR", "runs that begin near the picture"),
    Row("max(self.settings.order, self.settings.corrector)", "self.settings.order",
        "more corrections than orders"),
    Row("self.settings.corrector, len(self.starts) - 1)", "self.settings.corrector)",
        "a twin has no step of its own to do again"),
    Row("*self.starts[again:]]", "*self.starts]", "a twin takes the place of the last"),
    Row("        if again:\n            self.gap = None\n", "", "no answer of a node that is gone"),
    Row("Change(self.window.painted(self.history.change())", "Change(self.history.change()",
        "fits look at the painted part"),
    Row("self.window.painted(self.residuals)", "self.residuals", "the evidence looks at the painted part"),
    Row("min(order, nodes - 1), len(self.taus) > 1)", "min(order, nodes - 1), False)",
        "order 1 competes where variables do"),
    Row("Rules(self.taus, min(order, nodes - 1),", "Rules(self.taus, 2,", "higher orders compete"),
    Row("((0.0, 1.0) if self.taus == NEAR else (1.0, 0.0),)", "((1.0, 0.0),)",
        "runs that begin near are bold at once"),
    Row("[1 - bold, bold]", "[0 * bold, 1 + 0 * bold]", "the first prediction of steep models is cautious"),
    Row("[1 - bold, bold]", "[1 + 0 * bold, 0 * bold]", "the first prediction of gentle models is bold"),
    Row("min(self.nodes, self.settings.order + 1, MOST)", "min(self.nodes, self.settings.order, MOST)",
        "one order more in corrections"),
    Row("if steps and self.history.blind and self.nodes <= known:", "if False:",
        "all steps since pure noise are done again"),
    Row("if steps and self.history.blind and self.nodes <= known:",
        "if steps and self.nodes <= known:", "only steps since pure noise are done again"),
    Row("max(self.settings.corrector, known * self.history.blind, 1)", "max(self.settings.corrector, 1)",
        "where steps since pure noise began"),
    Row("if torch.is_tensor(taken):", "if False:", "steep models take corrections in part"),
    Row("self.unit = self.response() / signal if signal", "self.unit = self.response() if signal",
        "the answer on the flow path"),
    Row("abs(math.log(old * signal / (sigma * before)))", "abs(math.log(old / sigma))",
        "the length of a step is in log r"),
    Row("(self.history.signals[0] / self.tuned.dim) ** 2", "(self.history.signals[0] / self.tuned.dim)",
        "where the response rises"),
    Row("return min(1.0, self.settings.response *", "return (self.settings.response *",
        "no response above 1"),
    Row("if self.calls == 2 and", "if", "later corrections of steep models are answered"),
    Row("if self.calls == 2 and", "if self.calls == 0 and", "the first correction of steep models is not answered"),
    Row("else taken * self.power.doubt", "else taken", "what is trusted is not answered"),
    Row("        if end != known:\n", "        if known is None:\n", "a step that goes elsewhere than was said"),
    Row("believed = share.clamp(max=1) if end > 0 else share / 2", "believed = 0 * share + 1",
        "the answer counts by the evidence for it"),
    Row("believed = share.clamp(max=1) if end > 0", "believed = share if end > 0",
        "the answer counts once at most"),
    Row("if end > 0 else share / 2", "if end > 0 else share.clamp(max=1)",
        "the end believes the answer as far as the evidence is for it"),
    Row("torch.maximum(damped, self.power.trust)", "damped", "what a trusted fit says is taken in full"),
    Row("\nSTRETCH = 8", "\nSTRETCH = 1e9", "a step that is far longer than the next"),
    Row("newest = torch.addcmul(newest, lift * self.unit, self.gap)", "pass", "the end answers the correction"),
    Row("made[:, 0].addcmul_(lift * self.unit, self.gap)", "pass", "what is carried on to the end was answered"),
    Row("few = self.nodes < 3 or self.settings.order == 1", "few = self.nodes < 3", "order 1 foresees nothing"),
    Row("not 0 < self.low < history.sigmas[0]", "not 0 < self.low", "ends below the model's smallest level"),
    Row("rise = self.path.signal(end) - signal * shrink", "rise = self.path.signal(end)",
        "kept pixels go where a constant D leads"),
    Row("self.history.copy(), copy.copy(self.steepness)", "self.history.copy(), self.steepness",
        "a copy has its own steepness"),
))  # fmt: skip

PARTS = (
    SCHEDULES, CURVATURE, PATH, SPECTRUM, WINDOW, QUADRATURE, FIT, SRK, TABLEAU, CONTROL, REFINEMENT,
    SAMPLING, RUN, INVERSION, PENALTY, TRAJECTORY, ACTION, GROUP, LATENTS, IDENTITY, ANSWERS, PROCESS,
    TUNED, HISTORY, EVIDENCE, STEEPNESS, STEP, ENDING, MULTISTEP,
)  # fmt: skip


def changed(part, row, root=ROOT):
    """Return the text of the part's file with the row's change.

    Raises:
        ValueError: the row's text is not there, or more than once.
    """
    text = (root / part.file).read_text()
    if (count := text.count(row.old)) != 1:
        raise ValueError(
            f"{part.file}: {row.old!r} is there {count} times: give a text that is there once"
        )
    return text.replace(row.old, row.new)


class First:
    """A pytest plugin that remembers what failed first."""

    def __init__(self):
        self.failed, self.collected = None, True

    def pytest_collectreport(self, report):
        if report.failed:
            self.collected = False
            self.failed = self.failed or report.nodeid

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.failed = self.failed or report.nodeid


def _child(copy, tests, log, answer):
    """Run tests of a copy in a process of its own and say (what failed first, whether all could be
    loaded)."""
    os.setsid()
    import pytest

    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1), os.dup2(out, 2)
    os.chdir(copy)
    os.environ["PYTHONPATH"] = str(copy)
    sys.path[:0] = [str(copy)]
    first = First()
    arguments = ["-x", "-q", "--no-header", "-p", "no:cacheprovider", "--rootdir", str(copy)]
    pytest.main([*arguments, *tests], plugins=[first])
    import isdo

    at_home = Path(isdo.__file__).is_relative_to(copy)
    answer.send((first.failed, first.collected and at_home))


def run(copy, tests, timeout):
    """Return (what failed first or None, whether the tests could be loaded); the tests that took too
    long have failed as "timeout"."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=_child, args=(copy, tests, copy / "mutant.log", theirs))
    child.start()
    theirs.close()
    try:
        found = ours.recv() if ours.poll(timeout) else ("timeout", True)
        child.join(5)
    except EOFError:  # the interpreter itself went down
        found = ("crash", True)
    finally:  # Ctrl-C too: the child is in a session of its own, with what it started
        if child.is_alive():
            os.killpg(child.pid, signal.SIGKILL)
        child.join()
    return found


def copied(folder):
    """Copy what git tracks, and what is new and not ignored, into a folder."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.split("\0")  # fmt: skip
    for name in filter(None, listed):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def warm():
    """Load what tests load, once for all children; nothing of the package itself."""
    import importlib

    import torch

    for name in (
        "mpmath",
        "pytest",
        "PIL.Image",
        "safetensors.torch",
        "scipy.integrate",
        "tqdm.auto",
    ):
        importlib.import_module(name)
    torch.set_num_threads(1)
    torch.testing.assert_close(torch.zeros(1), torch.zeros(1))  # its first call loads a good deal
    assert "isdo" not in sys.modules


class Bench:
    """A copy of the repository in which one change after another is tried."""

    def __init__(self, copy, timeout):
        self.copy, self.timeout, self.sound = copy, timeout, {}

    def passes(self, test):
        """Say whether a test passes without any change."""
        if test not in self.sound:
            self.sound[test] = run(self.copy, [test], self.timeout)[0] is None
        return self.sound[test]

    def tried(self, part, row, tests):
        """Return (verdict, what noticed) of one change."""
        file = self.copy / part.file
        before = file.read_text()
        try:
            file.write_text(changed(part, row, self.copy))
            failed, loaded = run(self.copy, tests, self.timeout)
        finally:
            file.write_text(before)
        if not loaded:
            return "ERROR", f"{failed} cannot be loaded with this change"
        if failed == "timeout":
            return "TIMEOUT", f"after {self.timeout:g} s: give more"
        if failed is None:
            return "SURVIVED", ""
        if failed != "crash" and not self.passes(failed):
            return "ERROR", f"{failed} fails without the change, too"
        return "caught", failed


def main(given=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--list", action="store_true", help="say what there is and change nothing")
    parser.add_argument("--only", nargs="+", choices=sorted({part.name for part in PARTS}))
    parser.add_argument("--row", default="", help="rows whose text, file or meaning holds this")
    parser.add_argument(
        "--all-tests", action="store_true", help="not only those that ought to notice"
    )
    parser.add_argument("--timeout", type=float, default=TIMEOUT, help="of one change, in seconds")
    args = parser.parse_args(given)
    chosen = [
        (part, row) for part in PARTS if not args.only or part.name in args.only
        for row in part.rows if args.row in f"{part.file} {row.old} {row.breaks}"
    ]  # fmt: skip
    if args.list:
        for part, row in chosen:
            print(f"{part.name:12} {row.breaks}  ({part.file}: {row.old!r} -> {row.new!r})")
        return 0
    sys.dont_write_bytecode = True
    os.environ |= {"PYTHONDONTWRITEBYTECODE": "1"}
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    warm()
    verdicts = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder).resolve()
        copied(copy)
        bench = Bench(copy, args.timeout)
        for part, row in chosen:
            began = time.monotonic()
            tests = ["tests"] if args.all_tests else (row.tests or part.tests)
            verdict, by = bench.tried(part, row, list(tests))
            verdicts.append(verdict)
            took = f"{time.monotonic() - began:4.0f} s"
            print(f"{verdict:8} {took}  {part.name:12} {row.breaks}  {by}", flush=True)
    counts = {verdict: verdicts.count(verdict) for verdict in VERDICTS}
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    return 0 if counts["caught"] == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
