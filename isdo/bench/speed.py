"""What a sampler costs by itself in a step: operations, kernel launches, time, memory. The model's
answers are recorded beforehand, so that the model costs nothing."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch.utils.benchmark import set_torch_threads, timer

from .. import gallery
from ..refinement import refine
from ..sampling import sample_isdo
from ..schedules import karras
from ..settings import Settings
from . import counters
from .baselines import BASELINES
from .report import markdown

SMALL, MAIN, LARGE = (1, 4, 64, 64), (1, 4, 128, 128), (1, 16, 256, 256)
SHAPES = (MAIN, SMALL, (1, 16, 128, 128), LARGE, (8, 4, 128, 128))
STEPS, REPETITIONS = 20, 5
SLOW = 0.5  # s: a sampler whose run takes longer is timed twice only
THREADS = 2  # of a small machine; the limit is stated for two cores
SIGMAS = 0.03, 14.6
PENALTY = 1.0

BATCHES = (1, 4, 8)
BATCH_SHAPE, BATCH_STEPS = (4, 64, 64), 6
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Sampler:
    """A row of the table.

    Args:
        label: what the page calls it.
        run: ``run(model, x, sigmas, mask) -> x``.
        finished: it is handed finished pictures instead of noise, and its step is a model call.
        masked: it has a mask: half of the picture is painted.
        costly: it is measured at the first shape only.
    """

    label: str
    run: Callable
    finished: bool = False
    masked: bool = False
    costly: bool = False


def _isdo(model, x, sigmas, mask, **settings):
    return sample_isdo(model, x, sigmas, disable=True, settings=Settings(**settings), mask=mask)


def _refine(model, x, sigmas, mask, seeds=0):
    return refine(model, x, disable=True, seeds=seeds).x


def _baseline(name, model, x, sigmas, mask):
    return BASELINES[name].run(model, x, sigmas, disable=True)


SAMPLERS = {
    "isdo": Sampler("ISDO", _isdo),
    "isdo_mask": Sampler("ISDO, with a mask", _isdo, masked=True),
    "isdo_penalty": Sampler("ISDO, curvature penalty", partial(_isdo, curvature_penalty=PENALTY)),
    "srk3": Sampler("ISDO, srk3", partial(_isdo, solver="srk3")),
    "srk4": Sampler("ISDO, srk4", partial(_isdo, solver="srk4")),
    "srk5": Sampler("ISDO, srk5", partial(_isdo, solver="srk5")),
    "trajectory": Sampler("ISDO, trajectory", partial(_isdo, solver="trajectory"), costly=True),
    "refine": Sampler("refinement", _refine, finished=True),
    **{
        name: Sampler(BASELINES[name].label, partial(_baseline, name))
        for name in ("dpmpp_2m", "unipc_2")
    },
}
PROVEN = tuple(name for name in SAMPLERS if name not in BASELINES)  # whose batches are looked at


@dataclass(frozen=True)
class Limit:
    """At most so much of the ``key`` of a row, for these samplers at that shape."""

    key: str
    most: float
    unit: str
    samplers: tuple
    shape: tuple = MAIN
    devices: tuple = ("cpu", "cuda")


OURS = ("isdo", "refine")
LIMITS = (
    Limit("operations", 60, "operations a step", OURS),
    Limit("operations", 90, "operations a step", ("isdo_mask",)),
    Limit("operations", 90, "operations a step", OURS, LARGE),
    Limit("ms", 4, "ms a step", OURS, devices=("cpu",)),
    Limit("ms", 1, "ms a step", OURS, devices=("cuda",)),
    Limit("held", 20, "latents held", OURS),
    Limit("peak", 30, "latents at the peak", OURS),
)


class Soft:
    """A denoiser of a few exact operations, so that each picture's answer has the same bits in any
    batch: D = y/(1 + |y|), y = 2 x/(1 + sigma^2)."""

    sigma_min, sigma_max = SIGMAS

    def __call__(self, x, sigma):
        sigma = sigma.reshape(-1, *[1] * (x.ndim - 1)).float()
        y = 2 * x.float() / (1 + sigma * sigma)
        return (y / (1 + y.abs())).to(x.dtype)


class Recorder:
    """Asks a model and keeps the answers."""

    def __init__(self, model):
        self.model, self.answers = model, []
        self.sigma_min, self.sigma_max = model.sigma_min, model.sigma_max

    def __call__(self, x, sigma):
        self.answers.append(self.model(x, sigma))
        return self.answers[-1]


class Replay:
    """Gives what a Recorder kept, in turn: to a sampler that asks the same a model that costs
    nothing.

    ``on_call`` is called before every answer.
    """

    sigma_min, sigma_max = SIGMAS

    def __init__(self, answers):
        self.answers, self.asked, self.on_call = answers, 0, lambda: None

    def __call__(self, x, sigma):
        self.on_call()
        if self.asked == len(self.answers) or self.answers[self.asked].shape != x.shape:
            raise RuntimeError(f"call {self.asked + 1} is not as in the run before")
        self.asked += 1
        return self.answers[self.asked - 1]


class Work:
    """One sampler's run at one shape, again and again: calling it is a run.

    Args:
        sampler: a name of SAMPLERS.
        shape: of x.
        device: where.
        steps: of the run; a refinement takes its own.
        dtype: of x.

    ``calls`` are the model calls of a run, ``steps`` what its cost is shared by: the calls of a
    refinement, else the schedule's steps. Tables that are made once a process are made here.
    """

    def __init__(self, sampler, shape, device="cpu", steps=STEPS, dtype=torch.float32):
        self.row = SAMPLERS[sampler]
        self.sigmas = karras(steps, *SIGMAS).to(device)
        self.x = started(noise(shape), self.row, self.sigmas[0]).to(device, dtype)
        self.mask, recorder = half(self.x) if self.row.masked else None, Recorder(Soft())
        self.row.run(recorder, self.x, self.sigmas, self.mask)
        self.model, self.calls = Replay(recorder.answers), len(recorder.answers)
        self.steps = self.calls if self.row.finished else steps

    def __call__(self):
        self.model.asked = 0
        return self.row.run(self.model, self.x, self.sigmas, self.mask)


def noise(shape):
    """Return normal noise, each picture of its own seed."""
    return gallery.noise(range(shape[0]), shape[1:])


def started(noise, row, sigma):
    """Return what a Sampler is handed."""
    return noise if row.finished else sigma.cpu() * noise


def half(x):
    """Return a mask (B, 1, H, W) under which the right half of x (B, C, H, W) is painted."""
    mask = torch.zeros_like(x[:, :1])
    mask[..., x.shape[-1] // 2 :] = 1
    return mask


def operations(sampler, shape, device="cpu", steps=STEPS):
    """Return the tensor operations that a sampler dispatches a step, the run's own share included;
    views do not count, nor does the model.

    Args:
        sampler: a name of SAMPLERS; a step of "refine" is a model call.
        shape: of x, float32.
        device: where.
        steps: of the run.
    """
    return _operations(Work(sampler, shape, device, steps))


def _operations(work):
    with counters.Operations() as counted:
        work()
    return counted.total / work.steps


def memory(sampler, shape, device="cpu", steps=STEPS):
    """Return the memory of a run as (held, peak), in latents: multiples of the bytes of x in
    float32.

    ``held`` is what is alive when the model is called, the x it is handed included: the sampler's
    history. ``peak`` includes what comes and goes within a step. Neither includes the first x and
    what the model returns, nor the tables of a picture size, which are made once a process.
    """
    return _memory(Work(sampler, shape, device, steps))


def _memory(work):
    held = []
    with counters.LiveStorage() as storage:
        work.model.on_call = lambda: held.append(storage.live)
        work()
    work.model.on_call = lambda: None
    latent = work.x.numel() * work.x.element_size()
    return max(held) / latent, storage.peak / latent


def step_times(works, repetitions=REPETITIONS):
    """Return {sampler: [milliseconds a step, for each repetition]}, the samplers taking turns.

    The clock, which waits for the GPU on both sides, and the number of threads are those of
    torch.utils.benchmark. Its Timer is not: it warms up by two runs before every measurement, so
    that turns of one run each would take three times as long.

    Args:
        works: {sampler: Work}; each has run once.
        repetitions: runs of each; two of one that takes longer than SLOW.
    """
    times = {name: [] for name in works}
    with set_torch_threads(THREADS):
        for repetition in range(repetitions):
            for name, work in works.items():
                if repetition > 1 and times[name][0] * work.steps > 1e3 * SLOW:
                    continue
                begun = timer()
                work()
                times[name].append(1e3 * (timer() - begun) / work.steps)
    return times


def call_time(given, repetitions=REPETITIONS):
    """Return the median milliseconds of a call of a model, a `models.Given`, for one picture; the
    first is not timed."""
    model, times = given.model, []
    x = (model.sigma_max * gallery.noise([0], given.shape)).to(given.device)
    sigma, extra = x.new_full((1,), model.sigma_max), given.extra_args(given.classes([0]))
    with torch.no_grad():
        for _ in range(repetitions + 1):
            begun = timer()
            model(x, sigma, **extra)
            times.append(1e3 * (timer() - begun))
    return statistics.median(times[1:])


def of_gpu(sampler, work):
    """Return what only a GPU can say of a step: kernels, copies, and how often it is waited for.

    What waits once a run, where the schedule is read, is none of a step's: a run of half the steps
    waits for it just as often. A refinement's steps are its own: each is counted in full.
    """
    kernels, copies = counters.launches(work)
    waits, steps = counters.synchronisations(work), work.steps
    if not work.row.finished:
        shorter = Work(sampler, work.x.shape, work.x.device, work.steps // 2)
        waits, steps = waits - counters.synchronisations(shorter), steps - shorter.steps
    return {
        "launches": kernels / work.steps,
        "copies": copies / work.steps,
        "synchronisations": waits / steps,
    }


def batches_differ(sampler, dtype, device="cpu"):
    """Return the sizes of BATCHES in which some picture comes out otherwise than by itself, in any
    bit; NaN and another dtype count, too."""
    row, sigmas = SAMPLERS[sampler], karras(BATCH_STEPS, *SIGMAS).to(device)
    x = started(noise((max(BATCHES), *BATCH_SHAPE)), row, sigmas[0]).to(device, dtype)

    def run(start, end):
        # the noise that a refinement adds is of seeds: the next picture has the next
        seeded = {"seeds": start} if row.finished else {}
        part = x[start:end]
        return row.run(Soft(), part, sigmas, half(part) if row.masked else None, **seeded)

    single = torch.cat([run(i, i + 1) for i in range(len(x))])
    sound = single.dtype == dtype and bool(single.isfinite().all())
    return [n for n in BATCHES if not (sound and torch.equal(run(0, n), single[:n]))]


def run_with(given, repetitions=REPETITIONS, **options):
    """Measure as `run` does, for pictures of a model, a `models.Given`, and beside it a call of the
    model itself."""
    device = torch.device(given.device).type
    rows = run(((1, *given.shape),), (device,), repetitions, dtypes=(), **options)
    milliseconds = call_time(given, repetitions)
    return [row | {"model": given.title, "ms_model": milliseconds} for row in rows]


def run(
    shapes=SHAPES,
    devices=("cpu",),
    repetitions=REPETITIONS,
    *,
    samplers=tuple(SAMPLERS),
    dtypes=DTYPES,
    progress=iter,
):
    """Measure what every sampler costs a step, in one process, taking turns; and whether batches
    are what single pictures are.

    Args:
        shapes: of x.
        devices: of torch; the CPU runs with two threads.
        repetitions: timed runs of STEPS steps.

    Rarely needed:
        samplers: names of SAMPLERS.
        dtypes: of x, in which batches are looked at.
        progress: wraps the list of things to do, such as tqdm.

    Returns:
        Rows: one for each device, shape and sampler with ``calls`` (of the model), ``operations``,
        ``launches``, ``copies`` and ``synchronisations`` (None where there is no GPU), ``ms``
        (median) and ``ms_lowest``, all of a step, ``held`` and ``peak`` in latents; and one for
        each device, sampler and dtype with ``differ``, as of `batches_differ`.
    """
    some = [name for name in samplers if not SAMPLERS[name].costly]
    jobs = [
        partial(_cost, device, shape, some if i else samplers, repetitions)
        for device in devices for i, shape in enumerate(shapes)
    ]  # fmt: skip
    jobs += [
        partial(_equality, device, dtype, name)
        for device in devices for dtype in dtypes for name in samplers if name in PROVEN
    ]  # fmt: skip
    return [row for job in progress(jobs) for row in job()]


def _cost(device, shape, samplers, repetitions):
    works = {name: Work(name, shape, device) for name in samplers}
    times = step_times(works, repetitions)
    for name, work in works.items():
        held, peak = _memory(work)
        gpu = of_gpu(name, work) if work.x.device.type == "cuda" else {}
        yield {
            "bench": "speed", "part": "cost", "device": device, "shape": list(shape), "sampler": name,
            "label": work.row.label, "steps": work.steps, "calls": work.calls / work.steps,
            "operations": _operations(work),
            **dict.fromkeys(("launches", "copies", "synchronisations")), **gpu,
            "ms": statistics.median(times[name]), "ms_lowest": min(times[name]), "held": held, "peak": peak,
        }  # fmt: skip


def _equality(device, dtype, sampler):
    yield {
        "bench": "speed", "part": "batches", "device": device, "sampler": sampler,
        "label": SAMPLERS[sampler].label, "dtype": str(dtype).removeprefix("torch."),
        "differ": batches_differ(sampler, dtype, device),
    }  # fmt: skip


def verdicts(rows):
    """Return the lines that say whether the LIMITS are kept, and whether batches are what single
    pictures are."""
    lines, costs = [], [row for row in rows if row["part"] == "cost"]
    for limit in LIMITS:
        for row in costs:
            if (
                row["sampler"] in limit.samplers
                and row["shape"] == list(limit.shape)
                and row["device"].partition(":")[0] in limit.devices
            ):
                word = "kept" if row[limit.key] <= limit.most else "NOT kept"
                lines.append(
                    f"{row['device']}, {row['label']}, {size(row)}: {row[limit.key]:.2f} {limit.unit}, "
                    f"at most {limit.most:g} asked for: {word}"
                )
    for row in costs:
        waits = row["synchronisations"]
        if row["sampler"] not in BASELINES and waits is not None and row["shape"] == list(MAIN):
            lines.append(
                f"{row['device']}, {row['label']}, {size(row)}: waits for the GPU {waits:.2f} times a step, "
                f"never is asked for: {'NOT kept' if waits else 'kept'}"
            )
    for row in rows:
        if row["part"] == "batches":
            sizes = ", ".join(map(str, row["differ"]))
            word = f"NOT kept, of {sizes}" if sizes else "kept"
            lines.append(
                f"{row['device']}, {row['label']}, {row['dtype']}: batches equal single pictures bit for bit: {word}"
            )
    return lines


def size(row):
    """Return the shape of a row as text."""
    return "x".join(map(str, row["shape"]))


def table(rows):
    """Return the markdown table of what a step costs."""
    columns = {
        "calls": ".1f", "operations": ".0f", "launches": ".0f", "copies": ".1f", "ms": ".2f", "ms_lowest": ".2f",
        "held": ".1f", "peak": ".1f",
    }  # fmt: skip
    head = [
        "device", "latent", "sampler", "model calls a step", "operations", "launches", "copies", "ms", "lowest",
        "latents held", "at the peak",
    ]  # fmt: skip
    body = [
        [row["device"], size(row), row["label"]]
        + ["-" if row[key] is None else format(row[key], form) for key, form in columns.items()]
        for row in rows
        if row["part"] == "cost"
    ]
    return markdown(head, body)


def page(rows, flags=None):
    """Return the page of the docs: verdicts, the table, how it was measured, how to do it again
    with the ``flags``."""
    first, lines = rows[0], "\n".join(f"* {line}" for line in verdicts(rows))
    model = (
        f"\n\nA call of {first['model']} for one picture takes {first['ms_model']:.2f} ms."
        if "model" in first
        else ""
    )
    devices = dict.fromkeys(row["device"] for row in rows)
    asked = "".join(f" --device {device}" for device in devices if device != "cpu")
    batches = ", ".join(map(str, BATCHES))
    return f"""# What a step costs

This page is written by the bench; run it again with

    python -m isdo bench --suite speed{flags and f" {flags}" or ""}{asked} --doc docs/speed.md

{lines}{model}

{table(rows)}

## How it was measured

All samplers in one process, torch {torch.__version__}, float32. A step is the {STEPS}th part of a run of {STEPS} steps on
Karras's schedule from sigma {SIGMAS[1]:g} to {SIGMAS[0]:g} and 0, settings by default; of a refinement it is one of its model
calls. What happens once a run is shared by its steps. The model is left out of everything: its answers are recorded in a run
that is not measured, and given again in every other. With a mask half of the picture is painted; the penalty is {PENALTY:g}.

* operations: tensor operations that torch dispatches. Views (reshape, slice, expand and the like: an argument's storage seen
  otherwise, nothing written) do not count.
* model calls: of the solver trajectory each is a call for many noise levels at once; it is measured at one size only.
* launches: kernels, and copies and fills, that torch's profiler finds on the GPU ("-" without one).
* ms: median and lowest of {REPETITIONS} runs (two of a run that takes longer than {SLOW:g} s), the samplers taking turns; on
  the CPU with {THREADS} threads, on a GPU between two waits for it.
* latents: multiples of the bytes of x. Held is what is alive when the model is called, the peak the most after any operation;
  the first x and what the model returns do not count. Memory does not grow with the steps, but with the solver trajectory.
* batches: {batches} pictures of {"x".join(map(str, BATCH_SHAPE))} in one run, each compared with its own run."""
