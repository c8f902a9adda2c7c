"""Training of the zoo's models: resumable, on one device or on several CPU processes that share the
gradient."""

import json
import logging
import math
import os
import signal
import tempfile
import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.optim.swa_utils import AveragedModel

from ..files import replacing
from . import data
from .net import CLASSES, NULL, Net, scaled_linear, zero_terminal_snr

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Config:
    """What reproduces a model: ``python -m isdo train --model <model>``.

    The learning rate rises over ``warmup`` steps, stays, and falls to zero over the last third;
    from each of the ``restarts`` on it does so once more, which goes on where a shorter run had
    ended. From the step ``bfloat16`` on the network's matrix products are taken in that format, in
    two thirds of the time where the processor knows it.
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


CONFIGS = {
    config.model: config
    for config in (
        Config("eps", steps=12_600, restarts=(4_600, 9_000), bfloat16=9_000),
        Config("v", steps=1_500, start="eps", rate=7e-4, bfloat16=0),
        Config("flow", steps=1_500, start="eps", rate=7e-4, bfloat16=0),
    )
}


def make_net(model):
    """Return an untrained net of the prediction type ``model`` with its schedule."""
    return Net(model, None if model == "flow" else scaled_linear())


def draw_times(net, count, generator, tables):
    """Draw t (count,): uniform levels for eps and v (v: half of them on the zero-terminal-SNR
    schedule); for flow the sigmoid of a normal, as Stable Diffusion 3 does, with a tenth uniform so
    that both ends are known."""
    if net.alphas_cumprod is None:
        t = torch.randn(count, generator=generator, device="cpu").sigmoid()
        uniform = torch.rand(count, generator=generator, device="cpu")
        return torch.where(
            torch.rand(count, generator=generator, device="cpu") < 0.1, uniform, t
        ).clamp(1e-3, 1)
    net.set_schedule(tables[int(torch.randint(len(tables), (), generator=generator, device="cpu"))])
    return torch.rand(count, generator=generator, device="cpu") * (len(net.alphas_cumprod) - 1)


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


def write_model(path, net, config, losses):
    """Write the model as float16 safetensors with everything that reproduces it in the metadata."""
    tensors = {name: value.half().contiguous() for name, value in net.trunk.state_dict().items()}
    metadata = {
        "prediction": config.model,
        "config": json.dumps(asdict(config)),
        "data": data.LICENCE,
        "loss_per_band": json.dumps([round(v, 6) for v in losses]),
        "classes": json.dumps(CLASSES),
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
    made = json.loads(metadata.get("config", "{}"))
    if made.get("model") != config.model:
        raise ValueError(f"{path} is no model {config.model!r}: name one that `train` has written")
    if made["steps"] not in config.restarts:
        raise ValueError(
            f"{path} was trained for {made['steps']} steps and the configuration of {config.model} starts its rate anew at "
            f"{list(config.restarts)}: add them to its restarts"
        )
    return made["steps"]


class Trainer:
    """One process of the training; process ``rank`` of ``world`` takes its share of every batch.

    Without a checkpoint it begins at the beginning, or ``after`` the model in that file, whose
    averaged weights it takes and whose steps it counts.
    """

    def __init__(self, config, emoji, checkpoint, rank=0, world=1, device="cpu", after=None):
        self.config, self.checkpoint, self.rank, self.world = config, Path(checkpoint), rank, world
        self.device = torch.device(device)
        self.train, self.held_out = emoji.split(config.held_out)
        self.odds = self.train.odds()
        torch.manual_seed(config.seed)
        self.net = make_net(config.model)
        self.step = 0
        self.history = []
        if after and not self.checkpoint.exists():
            self.net.trunk.load_state_dict(
                {name: value.float() for name, value in load_file(after).items()}
            )
            self.step = steps_behind(after, config)
        elif config.start:
            from . import load_trunk

            self.net.trunk.load_state_dict(load_trunk(config.start)[0])
        self.net.to(self.device, memory_format=torch.channels_last)
        self.average = AveragedModel(self.net, multi_avg_fn=self.blend)
        self.average.n_averaged.fill_(
            1
        )  # it is averaged from the start, not from the first step on
        table = self.net.alphas_cumprod
        self.tables = [table] if config.model != "v" else [table, zero_terminal_snr(table)]
        self.optimizer = torch.optim.AdamW(
            self.net.parameters(), lr=config.rate, betas=(0.9, 0.99), weight_decay=0.01
        )
        if self.checkpoint.exists():
            state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
            self.step, self.history = state["step"], state["history"]
            self.net.load_state_dict(state["net"])
            self.average.module.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])

    def save(self):
        """Write the resumable state; a half-written file never takes the place of a whole one."""
        state = {"net": self.net, "average": self.average.module, "optimizer": self.optimizer}
        state = {name: part.state_dict() for name, part in state.items()}
        with replacing(self.checkpoint) as part:
            torch.save({"step": self.step, "history": self.history} | state, part)

    def batch(self):
        """Return this process's (pictures, t, noise, labels) of the current step, seeded by it:
        resuming is exact."""
        config, share = self.config, self.config.batch // self.world
        generator = torch.Generator("cpu").manual_seed(
            (config.seed << 40) + (self.step << 8) + self.rank
        )
        index = torch.multinomial(self.odds, share, replacement=True, generator=generator)
        variant = torch.randint(config.variants, (share,), generator=generator, device="cpu")
        dropped = torch.rand(share, generator=generator, device="cpu") < config.label_dropout
        labels = self.train.labels[index].masked_fill(dropped, NULL)
        t = draw_times(self.net, share, generator, self.tables)
        pictures = data.to_unit(self.train.pictures[index, variant])
        noise = torch.randn(pictures.shape, generator=generator, device="cpu")
        return tuple(v.to(self.device) for v in (pictures, t, noise, labels))

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
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
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
        self.average.update_parameters(self.net)
        return loss.detach()

    def blend(self, averages, current, _):
        """Move averages towards the current values: quickly at first, in the end by 1 - ema."""
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(averages, current, 1 - decay)

    def validate(self):
        """Return the validation loss per band of the averaged net, with the true labels."""
        pictures = data.to_unit(self.held_out.pictures[:, 0]).to(self.device)
        return validation(
            self.average.module, pictures, self.held_out.labels.to(self.device), self.tables
        )

    def run(self, out, progress, every=500, seconds=math.inf):
        """Train to the end (or for ``seconds``, or until interrupted), saving every ``every`` steps
        and at the end.

        Raises:
            KeyboardInterrupt: after saving, when the first process was interrupted.
        """
        start, stop = time.monotonic(), False
        total, count = 0.0, 0
        with Interrupt() as interrupt:
            while self.step < self.config.steps and not stop:
                total, count = total + float(self.advance()), count + 1
                progress.update()
                stop = self.agree(interrupt.seen or time.monotonic() - start > seconds)
                if self.step % every == 0 or self.step == self.config.steps or stop:
                    if self.rank == 0:
                        losses = self.validate()
                        self.history.append([self.step, total / count, *losses])
                        text = " ".join(f"{loss:.4f}" for loss in losses)
                        log.info("step %d train %.4f validation %s", self.step, total / count, text)
                        self.save()
                        write_model(out, self.average.module, self.config, losses)
                    total, count = 0.0, 0

    def agree(self, flag):
        """Return whether any process wants to stop."""
        if self.world == 1:
            return flag
        votes = torch.tensor(float(flag), device="cpu")
        dist.all_reduce(votes)
        return bool(votes)


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


def _work(rank, world, config, emoji, checkpoint, out, meeting, seconds, after):
    from tqdm import tqdm

    logging.basicConfig(
        level=logging.INFO if rank == 0 else logging.WARNING, format="%(asctime)s %(message)s"
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if world > 1:
        torch.set_num_threads(1)
        # They meet in a file: a port could be taken. torchrun finds a free one, but ends the
        # processes half a minute after Ctrl-C, and theirs is to validate and save first.
        store = dist.FileStore(meeting, world)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    trainer = Trainer(config, emoji, checkpoint, rank, world, device, after)
    with tqdm(
        total=config.steps, initial=trainer.step, disable=rank > 0, mininterval=10
    ) as progress:
        trainer.run(out, progress, seconds=seconds)


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
    """Train a model and write it to ``out``; ``checkpoint`` holds the state to resume from,
    ``after`` a model to go on from.

    On a CPU one process a core (each with a share of the batch) is a good deal faster than one
    process with all cores.
    """
    import torch.multiprocessing as mp

    emoji = data.load_emoji(config.variants, config.seed, font, groups)
    world = processes or (1 if torch.cuda.is_available() else max(1, min(os.cpu_count() or 1, 8)))
    Path(checkpoint).parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        meeting = os.path.join(folder, "meeting")
        arguments = world, config, emoji, checkpoint, out, meeting, seconds, after
        if world == 1:
            _work(0, *arguments)
        else:
            with Interrupt():  # the processes save and end by themselves
                mp.spawn(_work, arguments, nprocs=world)
