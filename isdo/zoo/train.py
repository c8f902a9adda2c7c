"""Training of the zoo's models and of models of anybody's own pictures: resumable, on one device or
on several CPU processes that share the gradient."""

import contextlib
import copy
import hashlib
import json
import logging
import math
import os
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file

from ..device import precision
from ..files import replacing
from . import architecture, data, load_trunk
from .folder import Folder
from .net import EMOJI, Architecture, Net, scaled_linear, zero_terminal_snr

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Config:
    """What reproduces a model: ``python -m isdo train --model <model>``.

    The learning rate rises over ``warmup`` steps, stays, and falls to zero over the last third;
    from each of the ``restarts`` on it does so once more, which goes on where a shorter run had
    ended. From the step ``bfloat16`` on the network's matrix products are taken in that format, in
    two thirds of the time where the processor knows it. ``size``, ``width`` and ``sigma_data`` are
    the net's (`net.Architecture`); half of the pictures of a folder are mirrored if ``flip``.
    """

    model: str
    steps: int
    start: str | None = None  # the zoo model whose trunk is fine-tuned
    batch: int = 64
    rate: float = 1.5e-3
    restarts: tuple[int, ...] = ()
    warmup: int = 200
    ema: float = 0.999
    label_dropout: float = 0.15
    variants: int = 8
    held_out: float = 0.05
    seed: int = 0
    bfloat16: int | None = None
    size: int = EMOJI.size
    width: int = EMOJI.width
    sigma_data: float = EMOJI.sigma_data
    flip: bool = False

    def architecture(self, classes):
        """Return the net's Architecture for pictures of these classes."""
        return Architecture(self.size, self.width, tuple(classes), self.sigma_data)


CONFIGS = {
    config.model: config
    for config in (
        Config("eps", steps=12_600, restarts=(4_600, 9_000), bfloat16=9_000),
        Config("v", steps=1_500, start="eps", rate=7e-4, bfloat16=0),
        Config("flow", steps=1_500, start="eps", rate=7e-4, bfloat16=0),
    )
}

STEPS = 20_000  # of a model of one's own
BATCHES = {"cuda": 512}  # pictures of a batch by device: enough work for a GPU; elsewhere Config's
MOST_HELD_OUT = 256  # pictures of a folder: enough for a loss of two digits, seconds on a CPU
MAY_CHANGE = {"steps", "restarts", "bfloat16"}  # of a training that goes on


def make_net(model, architecture=EMOJI):
    """Return an untrained net of the prediction type ``model`` with its schedule."""
    with torch.device("cpu"):  # whatever device is the default
        return Net(model, None if model == "flow" else scaled_linear(), architecture)


def own_config(model, folder=None, checkpoint=None, after=None, device="cpu", half=None, **given):
    """Return the Config of a model of one's own pictures.

    Args:
        model: the prediction type.
        folder: the Folder of the pictures, None where they are not read yet: their RMS is left to
            be said.
        checkpoint: what is not given is as it was there, if the file exists.
        after: file of a model to go on from: of its width. If it is of another prediction type,
            its weights are where the training starts; else its steps count, too.
        device: where it runs: what is not said of batches and ``half`` depends on it.
        half: take matrix products in bfloat16.
        **given: fields of Config; None: not given.

    Raises:
        ValueError: no such model to go on from, or one that has made all the steps.
    """
    kind = torch.device(device).type
    config = Config(
        model,
        given.get("steps") or STEPS,
        batch=BATCHES.get(kind, Config.batch),
        flip=True,
        variants=1,
        sigma_data=EMOJI.sigma_data if folder is None else folder.rms(),
    )
    if checkpoint is not None and Path(checkpoint).exists():
        known = saved(checkpoint)["config"]
        config = replace(config, **{key: v for key, v in known.items() if key != "model"})
    elif after is not None:
        config = _after(config, after)
    if half is None:
        half = kind == "cuda" and torch.cuda.is_bf16_supported()
    given = {key: value for key, value in given.items() if value is not None}
    return replace(config, bfloat16=0 if half else None, **given)


def _after(config, after):
    """Return a Config that goes on from the model in the file ``after``."""
    _, metadata = load_trunk(after)
    theirs = architecture(metadata)
    config = replace(config, width=theirs.width, sigma_data=theirs.sigma_data)
    if metadata["prediction"] != config.model:
        return replace(config, start=os.fspath(after))
    made = json.loads(metadata["config"])
    restarts = (*made["restarts"], steps_made(metadata))
    if config.steps <= restarts[-1]:
        raise ValueError(
            f"{after} was trained for {restarts[-1]} steps: give --steps, how many they are to be altogether"
        )
    return replace(config, restarts=restarts, start=made["start"])


def saved(checkpoint, device="cpu"):
    """Return the state that a training left in the file ``checkpoint``; "config" is {} in those of
    the zoo's own models of long ago.

    Raises:
        ValueError: another file.
    """
    try:
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        return {"config": {}, "key": None} | {k: state[k] for k in STATE} | state
    except (OSError, MemoryError):
        raise
    except Exception as error:  # torch.load fails in any way on what it did not write
        raise ValueError(
            f"{checkpoint} is no state of a training ({str(error).splitlines()[0]}): name another by --checkpoint, or remove it"
        ) from None


STATE = ("step", "history", "net", "average", "optimizer")


def draw_times(net, count, generator, tables, host=None):
    """Draw t (count,): uniform levels for eps and v (v: half of them on the zero-terminal-SNR
    schedule); for flow the sigmoid of a normal, as Stable Diffusion 3 does, with a tenth uniform so
    that both ends are known. ``host``: a generator of the CPU, where ``generator`` is none."""
    device = generator.device
    if net.alphas_cumprod is None:
        t = torch.randn(count, generator=generator, device=device).sigmoid()
        uniform = torch.rand(count, generator=generator, device=device)
        return torch.where(
            torch.rand(count, generator=generator, device=device) < 0.1, uniform, t
        ).clamp(1e-3, 1)
    choice = generator if host is None else host
    net.set_schedule(tables[int(torch.randint(len(tables), (), generator=choice, device="cpu"))])
    return torch.rand(count, generator=generator, device=device) * (len(net.alphas_cumprod) - 1)


def loss_per_picture(net, pictures, t, noise, labels):
    """Return the squared error of the network's output (B,), which is lambda(sigma) |denoised -
    x0|^2."""
    prediction = net.prediction
    sigma = net.sigma(t)[:, None, None, None]
    x = prediction.path.signal(sigma) * pictures + sigma * noise
    output = net(x * prediction.c_in(sigma), t, labels)
    return (output - prediction.target(pictures, x, sigma)).square().flatten(1).mean(1)


@torch.no_grad()
def validation(net, pictures, labels, tables, bands=10, repeats=4):
    """Return the mean squared error of the output in ``bands`` equal slices of t, on fixed
    noise."""
    generator = torch.Generator("cpu").manual_seed(1)
    net.eval()
    losses = []
    net.set_schedule(tables[0])
    top = 1.0 if tables[0] is None else 999.0
    for band in range(bands):
        total = 0.0
        for _ in range(repeats):
            t = (band + torch.rand(len(pictures), generator=generator, device="cpu")) / bands * top
            noise = torch.randn(pictures.shape, generator=generator, device="cpu")
            t, noise = t.to(pictures.device).clamp(min=1e-3), noise.to(pictures.device)
            total += float(loss_per_picture(net, pictures, t, noise, labels).mean())
        losses.append(total / repeats)
    net.train()
    return losses


def rate_at(config, step):
    """Return the learning rate at a step."""
    start, end = next(
        stage for stage in pairwise([0, *config.restarts, config.steps]) if step < stage[1]
    )
    rise, fall = (step - start) / config.warmup, (end - step) / ((end - start) / 3)
    return config.rate * max(0.0, min(1.0, rise, fall))


def write_model(path, net, config, losses, licence=data.LICENCE, step=None):
    """Write the model as float16 safetensors with everything that reproduces it in the metadata;
    ``step``: how far it is trained, where that is not to the end."""
    tensors = {name: value.half().contiguous() for name, value in net.trunk.state_dict().items()}
    metadata = {
        "prediction": config.model,
        "config": json.dumps(asdict(config)),
        "data": licence,
        "loss_per_band": json.dumps([round(v, 6) for v in losses]),
        "classes": json.dumps(net.architecture.classes),
        "step": json.dumps(config.steps if step is None else step),
    }
    with replacing(path) as part:
        save_file(tensors, part, metadata)


def steps_behind(path, config):
    """Return how many steps the model in the file ``path`` was trained for, from its metadata.

    Raises:
        ValueError: a file that is no model of the zoo, or whose configuration's rate had not come
            down by then.
    """
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    if json.loads(metadata.get("config", "{}")).get("model") != config.model:
        raise ValueError(f"{path} is no model {config.model!r}: name one that `train` has written")
    if (made := steps_made(metadata)) not in config.restarts:
        raise ValueError(
            f"{path} was trained for {made} steps and the configuration of {config.model} starts its rate anew at "
            f"{list(config.restarts)}: add them to its restarts"
        )
    return made


def steps_made(metadata):
    """Return how many steps a model's metadata say that it was trained for."""
    return json.loads(metadata.get("step", "null")) or json.loads(metadata["config"])["steps"]


def mixed(*numbers):
    """Return a seed that no other numbers have, but by chance: a generator of the CPU looks at its
    low 32 bits alone, into which sums of several would not fit."""
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:4], "big")


def _sent(tensor, device):
    """Return a tensor of the CPU on a device, without waiting until a GPU has it."""
    if device.type == "cuda" and not tensor.is_cuda:
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class Draws:
    """Batches of emoji, drawn so that every concept counts alike, each with its variants.

    Args:
        pictures: data.Pictures.
        config, rank, world, device: the Trainer's.
    """

    def __init__(self, pictures, config, rank, world, device):
        self.config, self.rank, self.share, self.device = (
            config,
            rank,
            config.batch // world,
            device,
        )
        self.train, self.held_out = pictures.split(config.held_out)
        self.odds = self.train.odds()

    def batch(self, step, net, tables):
        """Return this process's (pictures, t, noise, labels) of a step, seeded by it."""
        config, share = self.config, self.share
        generator = torch.Generator("cpu").manual_seed(
            (config.seed << 40) + (step << 8) + self.rank
        )
        index = torch.multinomial(self.odds, share, replacement=True, generator=generator)
        variant = torch.randint(config.variants, (share,), generator=generator, device="cpu")
        dropped = torch.rand(share, generator=generator, device="cpu") < config.label_dropout
        labels = self.train.labels[index].masked_fill(dropped, net.null)
        t = draw_times(net, share, generator, tables)
        pictures = data.to_unit(self.train.pictures[index, variant])
        noise = torch.randn(pictures.shape, generator=generator, device="cpu")
        return tuple(v.to(self.device) for v in (pictures, t, noise, labels))


class Passes:
    """Whole batches of a folder's pictures, in an order of each pass's own; what is left over of a
    pass is dropped.

    The pictures lie where the network is, if they take no more than half of its free memory, and
    everything else of a batch is drawn there: no step waits for the CPU. Else the CPU gathers each
    batch as bytes while the network is at the one before.

    Args:
        pictures: a Folder.
        config, rank, world, device: the Trainer's.
    """

    def __init__(self, pictures, config, rank, world, device):
        self.config, self.rank, self.device = config, rank, device
        part = min(config.held_out, MOST_HELD_OUT / len(pictures))
        self.train, self.held_out = pictures.split(part)
        self.share = min(config.batch, len(self.train)) // world
        if not self.share:
            raise ValueError(
                f"{len(self.train)} pictures in batches of {config.batch} are not one for each of {world} processes: "
                "give fewer --processes"
            )
        self.whole = self.share * world
        self.classes = pictures.classes
        pixels = self.train.pictures[:, 0]
        self.pictures = pixels.to(device) if fits(pixels, device) else pixels
        self.labels = self.train.labels.to(self.pictures.device)
        self.current, self.order = None, None

    def rows(self, step):
        """Return which pictures are this process's share of a step's batch, (share,)."""
        turn, place = divmod(step, len(self.train) // self.whole)
        if turn != self.current:
            generator = torch.Generator("cpu").manual_seed(mixed(self.config.seed, turn))
            order = torch.randperm(len(self.train), generator=generator, device="cpu")
            self.current, self.order = turn, _sent(order, self.pictures.device)
        start = place * self.whole + self.rank * self.share
        return self.order[start : start + self.share]

    def batch(self, step, net, tables):
        """Return this process's (pictures, t, noise, labels) of a step, seeded by it."""
        config, share, device = self.config, self.share, self.device
        host, there = (
            torch.Generator(where).manual_seed(mixed(config.seed, step, self.rank))
            for where in ("cpu", device)
        )
        rows = self.rows(step)
        pictures, labels = (_sent(v, device) for v in (self.pictures[rows], self.labels[rows]))
        pictures = data.to_unit(pictures)
        if config.flip:
            mirrored = torch.rand((share, 1, 1, 1), generator=there, device=device) < 0.5
            pictures = torch.where(mirrored, pictures.flip(3), pictures)
        dropped = torch.rand(share, generator=there, device=device) < config.label_dropout
        labels = labels.masked_fill(dropped, net.null) if self.classes else labels.fill_(net.null)
        t = draw_times(net, share, there, tables, host)
        noise = torch.randn(pictures.shape, generator=there, device=device)
        return pictures, t, noise, labels


def fits(pixels, device):
    """Say whether pictures may lie on a device as a whole."""
    if device.type != "cuda":
        return True  # memory is one, or the CPU's
    free, _ = torch.cuda.mem_get_info(device)
    return pixels.numel() <= free // 2


SOURCES = {data.Emoji: Draws, Folder: Passes}


class Trainer:
    """One process of the training; process ``rank`` of ``world`` takes its share of every batch.

    Without a checkpoint it begins at the beginning, or ``after`` the model in that file, whose
    averaged weights it takes and whose steps it counts.
    """

    def __init__(self, config, pictures, checkpoint, rank=0, world=1, device="cpu", after=None):
        self.config, self.checkpoint, self.rank, self.world = config, Path(checkpoint), rank, world
        self.device, self.pictures = torch.device(device), pictures
        self.source = SOURCES[type(pictures)](pictures, config, rank, world, self.device)
        torch.manual_seed(config.seed)
        self.net = make_net(config.model, config.architecture(pictures.classes))
        self.step = 0
        self.history = []
        if not self.checkpoint.exists() and (first := after or config.start):
            self.begin(first)
            self.step = steps_behind(after, config) if after else 0
        self.net.to(self.device, memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.net).requires_grad_(False)
        table = self.net.alphas_cumprod
        tables = [table] if config.model != "v" else [table, zero_terminal_snr(table)]
        # where the network is: a step waits for no table
        wide = precision(self.device)
        self.tables = [None if t is None else t.to(wide).to(self.device) for t in tables]
        self.optimizer = torch.optim.AdamW(
            self.net.parameters(), lr=config.rate, betas=(0.9, 0.99), weight_decay=0.01,
            fused=self.device.type == "cuda",
        )  # fmt: skip
        if self.checkpoint.exists():
            self.go_on(saved(self.checkpoint, self.device))

    def begin(self, model):
        """Take the weights of a model, by name or file.

        Raises:
            ValueError: they are of another net.
        """
        try:
            self.net.trunk.load_state_dict(load_trunk(model)[0])
        except RuntimeError:
            raise ValueError(
                f"{model} has another width or other classes than {self.net.architecture}: train a model of its own"
            ) from None

    def go_on(self, state):
        """Take the state that a training left.

        Raises:
            ValueError: it is of another training, or of other pictures.
        """
        mine, key = asdict(self.config), getattr(self.pictures, "key", None)
        for name, value in state["config"].items():
            value = tuple(value) if isinstance(value, list) else value
            if name in mine and name not in MAY_CHANGE and value != mine[name]:
                raise ValueError(
                    f"{self.checkpoint} is the state of a training with {name} {value}, not {mine[name]}: go on with that, or "
                    "begin another by --out or --checkpoint"
                )
        if state["key"] != key:
            raise ValueError(
                f"{self.checkpoint} is the state of a training on other pictures: to go on with these, begin another by "
                "--out, --after the model as it is"
            )
        self.step, self.history = state["step"], state["history"]
        self.net.load_state_dict(state["net"])
        self.average.load_state_dict(state["average"])
        for group in state["optimizer"]["param_groups"]:  # it may come from another device
            group["fused"] = self.device.type == "cuda"
        self.optimizer.load_state_dict(state["optimizer"])

    def save(self):
        """Write the resumable state; a half-written file never takes the place of a whole one."""
        state = {"net": self.net, "average": self.average, "optimizer": self.optimizer}
        state = {name: part.state_dict() for name, part in state.items()}
        key = getattr(self.pictures, "key", None)
        about = {"step": self.step, "history": self.history, "config": asdict(self.config)}
        with replacing(self.checkpoint) as part:
            torch.save(about | {"key": key} | state, part)

    def batch(self):
        """Return this process's (pictures, t, noise, labels) of the current step, seeded by it:
        resuming is exact."""
        return self.source.batch(self.step, self.net, self.tables)

    def share_gradients(self):
        """Average the gradients over the processes."""
        grads = [p.grad for p in self.net.parameters()]
        flat = torch.cat([g.flatten() for g in grads])
        dist.all_reduce(flat)
        flat /= self.world
        for grad, part in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
            grad.copy_(part.view_as(grad))

    def advance(self):
        """Make one step and return its loss."""
        half = self.config.bfloat16 is not None and self.step >= self.config.bfloat16
        kind = self.device.type
        with torch.autocast(kind, torch.bfloat16) if half else contextlib.nullcontext():
            loss = loss_per_picture(self.net, *self.batch()).mean()
        self.optimizer.zero_grad()
        loss.backward()
        if self.world > 1:
            self.share_gradients()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = rate_at(self.config, self.step)
        self.optimizer.step()
        self.step += 1
        self.blend()
        return loss.detach()

    @torch.no_grad()
    def blend(self):
        """Move the averages towards the current weights: quickly at first, in the end by 1 -
        ema."""
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        averages, current = (list(net.parameters()) for net in (self.average, self.net))
        torch._foreach_lerp_(averages, current, 1 - decay)

    def validate(self):
        """Return the validation loss per band of the averaged net, with the true labels."""
        held_out = self.source.held_out
        pictures = data.to_unit(held_out.pictures[:, 0]).to(self.device)
        labels = held_out.labels.clamp(max=self.net.null).to(self.device)
        return validation(self.average, pictures, labels, self.tables)

    def run(self, out, progress, every=500, seconds=math.inf, minutes=math.inf):
        """Train to the end (or for ``seconds``, or until interrupted), saving every ``every`` steps,
        every ``minutes``, and at the end.

        Returns:
            Pictures a second, what saving takes left out.

        Raises:
            KeyboardInterrupt: after saving, when the first process was interrupted.
        """
        start, stop, pace = time.monotonic(), False, Pace(self.source.share * self.world)
        with Interrupt() as interrupt:
            while self.step < self.config.steps and not stop:
                pace.add(self.advance())
                progress.update()
                stop = self.agree(interrupt.seen or time.monotonic() - start > seconds)
                due = self.step % every == 0 or pace.since() > 60 * minutes
                if due or self.step == self.config.steps or stop:
                    loss = pace.stop()
                    if self.rank == 0:
                        self.keep(out, loss, pace.rate)
                    pace.start()
        return pace.rate

    def keep(self, out, loss, rate):
        """Measure, tell and write model and state; ``loss`` is that of the steps since the last
        time."""
        losses = self.validate()
        self.history.append([self.step, loss, *losses])
        text = " ".join(f"{loss:.4f}" for loss in losses)
        log.info("step %d train %.4f validation %s, %.0f images/s", self.step, loss, text, rate)
        self.save()
        write_model(out, self.average, self.config, losses, self.pictures.licence, self.step)

    def agree(self, flag):
        """Return whether any process wants to stop."""
        if self.world == 1:
            return flag
        votes = torch.tensor(float(flag), device="cpu")
        dist.all_reduce(votes)
        return bool(votes)


class Pace:
    """The mean loss of some steps, and how fast they are; the device is waited for at `stop`
    alone.

    Args:
        batch: pictures of a step.
    """

    def __init__(self, batch):
        self.batch, self.steps, self.spent, self.rate = batch, 0, 0.0, 0.0
        self.start()

    def start(self):
        """Begin a new mean; the time between `stop` and here does not count."""
        self.total, self.count, self.begun = 0.0, 0, time.monotonic()

    def add(self, loss):
        """Count a step and its loss, a tensor."""
        self.total, self.count = self.total + loss, self.count + 1

    def since(self):
        """Return the seconds since `start`."""
        return time.monotonic() - self.begun

    def stop(self):
        """Return the mean loss since `start`, and set the rate: pictures a second of all steps."""
        loss = float(self.total) / self.count
        self.steps, self.spent = self.steps + self.count, self.spent + self.since()
        self.rate = self.steps * self.batch / max(self.spent, 1e-9)
        return loss


class Interrupt:
    """Ctrl-C, noted while the block runs and raised at its end: every process of a training hears
    it, the first decides."""

    def __init__(self):
        self.seen = False

    def __enter__(self):
        self.before = signal.signal(signal.SIGINT, self.note)
        return self

    def note(self, *_):
        """Take note."""
        self.seen = True

    def __exit__(self, *_):
        signal.signal(signal.SIGINT, self.before)
        if self.seen:
            raise KeyboardInterrupt


def _work(rank, world, config, pictures, checkpoint, out, meeting, device, after, run):
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    logging.basicConfig(
        level=logging.INFO if rank == 0 else logging.WARNING, format="%(asctime)s %(message)s"
    )
    if rank == 0:
        log.setLevel(logging.INFO)
    torch.backends.cudnn.benchmark = True  # batches are of one shape
    with contextlib.ExitStack() as at_end:
        if world > 1:
            torch.set_num_threads(1)
            # They meet in a file: a port could be taken. torchrun finds a free one, but ends the
            # processes half a minute after Ctrl-C, and theirs is to validate and save first.
            store = dist.FileStore(meeting, world)
            dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
            # a process that ends while the group's threads run is at times aborted
            at_end.callback(dist.destroy_process_group)
        trainer = Trainer(config, pictures, checkpoint, rank, world, device, after)
        if trainer.step >= config.steps:
            log.info("all %d steps are done: for more, give --steps", config.steps)
        bar = dict(
            total=config.steps, initial=trainer.step, disable=rank > 0, mininterval=10,
            unit=" images", unit_scale=trainer.source.share * world,
        )  # fmt: skip
        with logging_redirect_tqdm(), tqdm(**bar) as progress:
            trainer.run(out, progress, **run)


def train(
    config,
    out,
    checkpoint,
    processes=None,
    seconds=math.inf,
    font=data.FONT,
    groups=data.GROUPS,
    after=None,
):
    """Train a model of the zoo and write it to ``out``; ``checkpoint`` holds the state to resume
    from, ``after`` a model to go on from.

    On a CPU one process a core (each with a share of the batch) is a good deal faster than one
    process with all cores.
    """
    emoji = data.load_emoji(config.variants, config.seed, font, groups)
    _start(config, emoji, out, checkpoint, processes, None, after, seconds=seconds)


def train_own(
    config,
    folder,
    out,
    checkpoint,
    processes=None,
    seconds=math.inf,
    after=None,
    device=None,
    minutes=10.0,
):
    """Train a model of one's own pictures and write it to ``out``.

    Args:
        config: of `own_config`.
        folder: a Folder.
        out, checkpoint: files of the model, and of the state to resume from.
        processes: on a CPU; None: one a core.
        seconds: when to stop; the state goes on from there.
        after: file of a model of the same prediction type whose steps count.
        device: None: a GPU if there is one.
        minutes: between two times that model and state are written.
    """
    run = {"seconds": seconds, "minutes": minutes, "every": sys.maxsize}
    _start(config, folder, out, checkpoint, processes, device, after, **run)


def _start(config, pictures, out, checkpoint, processes, device, after, **run):
    import torch.multiprocessing as mp

    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    cores = min(os.cpu_count() or 1, 8, len(pictures) // 2)
    world = processes or (1 if device.type != "cpu" else max(1, cores))
    if world > 1 and device.type != "cpu":
        raise ValueError(f"--processes is for the CPU, not for {device}: leave it out")
    Path(checkpoint).parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        meeting = os.path.join(folder, "meeting")
        arguments = world, config, pictures, checkpoint, out, meeting, device, after, run
        if world == 1:
            _work(0, *arguments)
        else:
            # what is wrong is said here, not by the end of a process
            Trainer(config, pictures, checkpoint, 0, world, device, after)
            with Interrupt():  # the processes save and end by themselves
                mp.spawn(_work, arguments, nprocs=world)
