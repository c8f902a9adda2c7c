"""What a step costs by itself, in time and in memory: the model here returns a tensor made
beforehand."""

import statistics
import time
from contextlib import contextmanager, nullcontext
from itertools import cycle

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from .. import gallery
from ..schedules import karras
from .report import markdown
from .work_precision import SAMPLERS

SHAPES = ((1, 4, 128, 128), (1, 4, 64, 64), (1, 16, 128, 128), (8, 4, 128, 128))
COMPARED = ("isdo", "dpmpp_2m")
STEPS, REPETITIONS = 20, 7
THREADS = 2  # of a small machine; the requirement is stated for two cores
LIMITS = {"cpu": 12.0, "cuda": 1.0}  # ms a step at the first of SHAPES


class Precomputed:
    """A model that costs nothing: it returns three tensors in turn, so that every change of D is an
    ordinary one."""

    def __init__(self, shape, device, dtype=torch.float32):
        generator = torch.Generator("cpu").manual_seed(0)
        made = torch.randn(3, *shape, generator=generator, dtype=dtype, device="cpu").to(device)
        self.answers = cycle(made.unbind())
        self.on_call = lambda: None

    def __call__(self, x, sigma):
        self.on_call()
        return next(self.answers)


def _setting(shape, device, steps):
    """Return (model, x, sigmas) of a run; no 0 at the end, so that every call is followed by a
    whole step."""
    sigmas = karras(steps + 1, 0.03, 14.6)[:-1]
    x = float(sigmas[0]) * torch.randn(
        shape, generator=torch.Generator("cpu").manual_seed(1), device="cpu"
    ).to(device)
    return Precomputed(shape, device), x, sigmas.to(device)


@contextmanager
def threads(count):
    """Run with ``count`` CPU threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _milliseconds_cpu(work):
    wall, busy = time.perf_counter(), time.process_time()
    work()
    return 1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - busy)


def _milliseconds_cuda(work):
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    busy = time.process_time()
    first.record()
    work()
    last.record()
    busy = (
        time.process_time() - busy
    )  # the processor is free from here, whatever the GPU has still to do
    torch.cuda.synchronize()
    return first.elapsed_time(last), 1e3 * busy


CLOCKS = {"cpu": _milliseconds_cpu, "cuda": _milliseconds_cuda}


def step_times(shape, device="cpu", samplers=COMPARED, steps=STEPS, repetitions=REPETITIONS):
    """Return {sampler: [(elapsed, processor) milliseconds a step, for each repetition]}, the
    samplers taking turns.

    The processor's time is that of all threads; other programs on the machine do not lengthen it.

    Args:
        shape: of x, float32.
        device: "cpu" or "cuda"; on CUDA the time between two events of the stream, idle gaps
            included.
        samplers: names of `work_precision.SAMPLERS`.
        steps: of a run; the first run of each sampler is not timed.
        repetitions: runs of each sampler.
    """
    model, x, sigmas = _setting(shape, device, steps)
    clock = CLOCKS[torch.device(device).type]
    times = {name: [] for name in samplers}
    for repetition in range(repetitions + 1):
        for name in samplers:
            elapsed = clock(lambda run=SAMPLERS[name].run: run(model, x, sigmas, disable=True))
            if repetition:
                times[name].append(tuple(part / steps for part in elapsed))
    return times


class LiveStorage(TorchDispatchMode):
    """Counts the bytes of all storages that torch operations made inside it and that are still
    alive.

    ``live`` is now, ``peak`` the most there was after any operation; what a kernel needs while it
    runs is not seen.
    """

    def __init__(self):
        super().__init__()
        self.peak = 0
        self._made = {}  # storage: bytes; a reference of torch's, because Python's can die before the storage in torch 2.1

    @property
    def live(self):
        self._made = {
            storage: size for storage, size in self._made.items() if not storage.expired()
        }
        return sum(self._made.values())

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        given = {
            t.untyped_storage().data_ptr()
            for t in tree_flatten((args, kwargs))[0]
            if isinstance(t, torch.Tensor)
        }
        for tensor in tree_flatten(out)[0]:
            if (
                isinstance(tensor, torch.Tensor)
                and tensor.untyped_storage().data_ptr() not in given
            ):
                storage = tensor.untyped_storage()
                self._made.setdefault(StorageWeakRef(storage), storage.nbytes())
        self.peak = max(self.peak, self.live)
        return out


def memory(sampler, shape, device="cpu", steps=STEPS):
    """Return the memory of a run as (held, peak), in latents: multiples of the bytes of x in
    float32.

    ``held`` is what is alive when the model is called, the x it is handed included: the sampler's
    history. ``peak`` includes what comes and goes within a step. Neither includes the first x and
    the model's own tensors, nor the tables of a picture size, which are made once a process.
    """
    model, x, sigmas = _setting(shape, device, steps)
    run = SAMPLERS[sampler].run
    run(model, x, sigmas[:4], disable=True)  # the tables
    held = []
    with LiveStorage() as storage:
        model.on_call = lambda: held.append(storage.live)
        run(model, x, sigmas, disable=True)
    latent = x.numel() * x.element_size()
    return max(held) / latent, storage.peak / latent


def call_time(given, repetitions=REPETITIONS):
    """Return the median milliseconds of a call of a model, a `models.Given`, for one picture; the
    first is not timed."""
    model, clock = given.model, CLOCKS[torch.device(given.device).type]
    x = (model.sigma_max * gallery.noise([0], given.shape)).to(given.device)
    sigma, extra = x.new_full((1,), model.sigma_max), given.extra_args(given.classes([0]))
    with torch.no_grad():
        times = [clock(lambda: model(x, sigma, **extra))[0] for _ in range(repetitions + 1)]
    return statistics.median(times[1:])


def run_with(given, repetitions=REPETITIONS):
    """Measure as `run` does, for pictures of a model, a `models.Given`, and beside it a call of the
    model itself."""
    kind = torch.device(given.device).type
    if kind not in CLOCKS:
        raise ValueError(f"no clock for the device {given.device}: take one of {', '.join(CLOCKS)}")
    rows, text = run(((1, *given.shape),), [kind], repetitions)
    milliseconds = call_time(given, repetitions)
    rows = [row | {"model": given.title, "ms_model": milliseconds} for row in rows]
    return rows, f"a call of {given.title} for one picture takes {milliseconds:.2f} ms\n{text}"


def run(shapes=SHAPES, devices=None, repetitions=REPETITIONS):
    """Measure time and memory of ISDO and DPM++ 2M in the same process, taking turns.

    Args:
        shapes: of x.
        devices: names; None for the CPU (two threads) and CUDA where there is one.
        repetitions: timed runs of STEPS steps.

    Returns:
        rows (one dict for each device, shape and sampler: ``ms`` median and ``ms_lowest`` of a
            step,
        ``ms_processor`` the median of the processor's time, ``held`` and ``peak`` in latents) and a
        text to print.
    """
    devices = devices or ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    rows = []
    for device in devices:
        with threads(THREADS) if device == "cpu" else nullcontext():
            for shape in shapes:
                for name, times in step_times(shape, device, repetitions=repetitions).items():
                    elapsed, busy = zip(*times, strict=True)
                    held, peak = memory(name, shape, device)
                    rows.append(
                        {"suite": "speed", "device": device, "shape": list(shape), "sampler": name}
                        | {
                            "label": SAMPLERS[name].label,
                            "ms": statistics.median(elapsed),
                            "ms_lowest": min(elapsed),
                        }
                        | {"ms_processor": statistics.median(busy)}
                        | {"held": held, "peak": peak}
                    )
    return rows, _text(rows)


def _text(rows):
    head = [
        "device",
        "latent",
        "sampler",
        "ms a step",
        "lowest",
        "processor",
        "latents held",
        "at the peak",
    ]
    body = [
        [row["device"], "x".join(map(str, row["shape"])), row["label"]]
        + [f"{row['ms']:.2f}", f"{row['ms_lowest']:.2f}", f"{row['ms_processor']:.2f}"]
        + [f"{row['held']:.1f}", f"{row['peak']:.1f}"]
        for row in rows
    ]
    return "\n".join([_verdict(rows), "", markdown(head, body)])


def _verdict(rows):
    """Say for each device whether ISDO keeps its limit at the first shape."""
    lines = [
        "own cost of a step, float32, the model's time not counted; memory is the same for any number of steps"
    ]
    for device, limit in LIMITS.items():
        for row in rows:
            if (
                row["device"] == device
                and row["sampler"] == "isdo"
                and row["shape"] == list(SHAPES[0])
            ):
                word = "kept" if row["ms"] <= limit else "NOT kept"
                lines.append(
                    f"{device}: {row['ms']:.2f} ms a step, at most {limit:g} asked for: {word}"
                )
    return "\n".join(lines)
