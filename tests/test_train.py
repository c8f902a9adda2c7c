"""Training: what a model is said to come from is what the training does, and nothing is lost on the
way."""

import os
import signal
import sys
from dataclasses import replace

import pytest
import torch

from isdo.zoo import data, train
from isdo.zoo.train import CONFIGS, Interrupt, Trainer, rate_at

TINY = replace(CONFIGS["eps"], steps=6, restarts=(), warmup=2, batch=4, variants=1, held_out=0.25)


@pytest.fixture
def emoji():
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (16, 1, 3, data.SIZE, data.SIZE), generator=generator).to(
        torch.uint8
    )
    return data.Emoji(pictures, torch.arange(16) % 9, torch.arange(16))


class Bar:
    """A progress bar that calls back at a step."""

    def __init__(self, at=None, action=None):
        self.at, self.action, self.count = at, action, 0

    def update(self):
        self.count += 1
        if self.count == self.at:
            self.action()


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.net.parameters()])


def test_the_rate_rises_stays_falls_and_does_so_again_after_a_restart():
    config = replace(CONFIGS["eps"], steps=450, restarts=(150, 300), warmup=10, rate=2.0)
    rates = [rate_at(config, step) for step in range(450)]
    assert rates[:150] == rates[150:300] == rates[300:]
    assert (rates[0], rates[5], rates[10], rates[99]) == (0.0, 1.0, 2.0, 2.0)
    assert rates[125] == pytest.approx(1.0) and rates[149] == pytest.approx(0.04)
    shorter = replace(config, steps=150, restarts=())
    assert [rate_at(shorter, step) for step in range(150)] == rates[:150]


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_an_interrupt_saves_and_the_rest_goes_on_to_the_bit(emoji, tmp_path):
    whole = Trainer(TINY, emoji, tmp_path / "whole.pt")
    whole.run(tmp_path / "whole.safetensors", Bar())
    broken = Trainer(TINY, emoji, tmp_path / "broken.pt")
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        broken.run(
            tmp_path / "broken.safetensors", Bar(2, lambda: os.kill(os.getpid(), signal.SIGINT))
        )
    assert signal.getsignal(signal.SIGINT) is before
    resumed = Trainer(TINY, emoji, tmp_path / "broken.pt")
    assert resumed.step == 2
    resumed.run(tmp_path / "broken.safetensors", Bar())
    assert resumed.step == whole.step == TINY.steps
    assert torch.equal(weights(resumed), weights(whole))
    names = ["broken.pt", "broken.safetensors", "whole.pt", "whole.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_an_error_while_interrupted_is_not_swallowed():
    with pytest.raises(KeyboardInterrupt) as caught, Interrupt():
        os.kill(os.getpid(), signal.SIGINT)
        raise ValueError("first")
    assert isinstance(caught.value.__context__, ValueError)


def test_fine_tuning_starts_from_the_other_model(emoji, tmp_path, monkeypatch):
    base = Trainer(TINY, emoji, tmp_path / "eps.pt")
    train.write_model(tmp_path / "eps.safetensors", base.net, TINY, [0.5])
    monkeypatch.setattr("isdo.zoo.FOLDER", tmp_path)
    tuned = Trainer(replace(TINY, model="flow", start="eps"), emoji, tmp_path / "flow.pt")
    assert torch.equal(weights(tuned), weights(base).half().float())


def test_training_goes_on_after_a_model_that_was_written(emoji, tmp_path):
    first, model = Trainer(TINY, emoji, tmp_path / "first.pt"), tmp_path / "first.safetensors"
    first.run(model, Bar())
    longer = replace(TINY, steps=12, restarts=(TINY.steps,))
    second = Trainer(longer, emoji, tmp_path / "second.pt", after=model)
    average = torch.cat([p.detach().flatten() for p in first.average.parameters()])
    assert second.step == TINY.steps and torch.equal(weights(second), average.half().float())
    second.run(model, Bar())
    assert (
        second.step == 12
        and train.steps_behind(model, replace(longer, steps=18, restarts=(6, 12))) == 12
    )
    assert (
        Trainer(longer, emoji, tmp_path / "second.pt", after=tmp_path / "none").step == 12
    )  # the checkpoint goes first
    with pytest.raises(ValueError, match=r"12 steps and .* at \[6\]"):
        Trainer(replace(longer, steps=18), emoji, tmp_path / "third.pt", after=model)
    with pytest.raises(ValueError, match="is no model 'flow'"):
        Trainer(replace(longer, model="flow"), emoji, tmp_path / "third.pt", after=model)


def test_from_its_step_on_training_takes_products_in_bfloat16(emoji, tmp_path):
    plain, mixed = (
        Trainer(replace(TINY, bfloat16=start), emoji, tmp_path / f"{start}.pt")
        for start in (None, 1)
    )
    losses = [[float(trainer.advance()) for _ in range(3)] for trainer in (plain, mixed)]
    assert losses[0][:1] == losses[1][:1] and losses[0] == pytest.approx(losses[1], rel=0.02)
    assert not torch.equal(weights(plain), weights(mixed)) and weights(mixed).dtype == torch.float32
