"""Training: what a model is said to come from is what the training does, and nothing is lost on the
way."""

import os
import signal
import sys
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open

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


def gradients(trainer):
    return torch.cat([p.grad.flatten() for p in trainer.net.parameters()])


def test_gradients_are_the_mean_over_the_processes(emoji, tmp_path, monkeypatch):
    trainer = Trainer(TINY, emoji, tmp_path / "a.pt", rank=0, world=4)
    shapes = [p.shape for p in trainer.net.parameters()]
    for p in trainer.net.parameters():
        p.grad = torch.randn(p.shape).to(memory_format=torch.contiguous_format)
    own, others = gradients(trainer), torch.randn(3, len(gradients(trainer)))
    monkeypatch.setattr(train.dist, "all_reduce", lambda flat: flat.add_(others.sum(0)))
    trainer.share_gradients()
    torch.testing.assert_close(gradients(trainer), torch.cat([own[None], others]).mean(0))
    assert [p.grad.shape for p in trainer.net.parameters()] == shapes


def test_processes_draw_shares_of_the_batch_that_are_not_the_same(emoji, tmp_path):
    config = replace(TINY, batch=8)
    shares = [Trainer(config, emoji, tmp_path / "a.pt", rank, world=2).batch() for rank in (0, 1)]
    for pictures, t, noise, labels in shares:
        assert len(pictures) == len(t) == len(noise) == len(labels) == 4
    assert not torch.equal(shares[0][2], shares[1][2]) and not torch.equal(
        shares[0][1], shares[1][1]
    )


def test_one_process_that_wants_to_stop_stops_all(emoji, tmp_path, monkeypatch):
    trainer = Trainer(TINY, emoji, tmp_path / "a.pt", world=2)
    for others, own, wanted in ((0, False, False), (1, False, True), (0, True, True)):
        monkeypatch.setattr(
            train.dist, "all_reduce", lambda votes, others=others: votes.add_(others)
        )
        assert trainer.agree(own) is wanted


@pytest.fixture
def pictures_at_hand(emoji, monkeypatch):
    """Training reads these pictures in place of the machine's; says what it asked for."""
    asked = []

    def load(*arguments):
        asked.append(arguments)
        return emoji

    monkeypatch.setattr(data, "load_emoji", load)
    return asked


def test_training_in_this_process_writes_the_model_that_its_trainer_makes(
    emoji, tmp_path, pictures_at_hand
):
    config = replace(TINY, steps=2, seed=4)
    out, checkpoint = tmp_path / "a.safetensors", tmp_path / "deeper" / "a.pt"
    train.train(config, out, checkpoint, processes=1, font="a font", groups="a list")
    assert pictures_at_hand == [(1, 4, "a font", "a list")]
    same = Trainer(config, emoji, tmp_path / "b.pt")
    same.run(tmp_path / "b.safetensors", Bar())
    with safe_open(out, "pt") as one, safe_open(tmp_path / "b.safetensors", "pt") as other:
        assert one.metadata() == other.metadata() and one.keys() == other.keys()
        assert all(torch.equal(one.get_tensor(k), other.get_tensor(k)) for k in one.keys())
    assert Trainer(config, emoji, checkpoint).step == 2


def test_training_stops_when_its_time_is_up_and_goes_on_from_there(tmp_path, pictures_at_hand):
    out, checkpoint = tmp_path / "a.safetensors", tmp_path / "a.pt"
    config = replace(TINY, steps=2)
    train.train(config, out, checkpoint, processes=1, seconds=0)
    assert torch.load(checkpoint, weights_only=True)["step"] == 1
    train.train(config, out, checkpoint, processes=1)
    state = torch.load(checkpoint, weights_only=True)
    assert state["step"] == 2 and [row[0] for row in state["history"]] == [1, 2]


@pytest.mark.skipif(sys.platform == "win32", reason="gloo between processes of POSIX")
def test_two_processes_make_the_steps_of_both_shares_together(
    emoji, tmp_path, pictures_at_hand, monkeypatch
):
    """Held against two trainers in one process whose gradients are put together by hand."""
    config, out = replace(TINY, steps=2), tmp_path / "a.safetensors"
    train.train(config, out, tmp_path / "a.pt", processes=2)
    both = [Trainer(config, emoji, tmp_path / "none.pt", rank, world=2) for rank in (0, 1)]
    for _ in range(config.steps):
        found = []
        for each in both:
            each.net.zero_grad()
            train.loss_per_picture(each.net, *each.batch()).mean().backward()
            found.append(gradients(each))
        monkeypatch.setattr(
            train.dist, "all_reduce", lambda flat, found=found: flat.copy_(sum(found))
        )
        for each in both:
            each.advance()
    assert torch.equal(weights(both[0]), weights(both[1]))
    written = Trainer(config, emoji, tmp_path / "a.pt")
    assert written.step == config.steps
    torch.testing.assert_close(weights(written), weights(both[0]), rtol=1e-4, atol=1e-5)
