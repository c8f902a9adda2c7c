"""What a model may answer, and how soon a bad answer is noticed."""

import itertools

import pytest
import torch

from isdo import RefineSettings, refine, sample_isdo, schedules
from isdo.answers import Answers, Checked, NotFinite

pytestmark = pytest.mark.usefixtures("no_grad")
SIGMAS = schedules.karras(30, 0.03, 14.6)


def good(x, sigma):
    return x / (1 + sigma.reshape(-1, *[1] * (x.ndim - 1)) ** 2)


WRONG = {
    "a tuple": (lambda x: (x,), "a tuple"),
    "None": (lambda x: None, "a NoneType"),
    "a number": (lambda x: 0.5, "a float"),
    "a mapping": (lambda x: {"sample": x}, "a dict"),
    "another batch": (lambda x: x[:1], r"a tensor \(1, 3, 8, 8\) for x \(2, 3, 8, 8\)"),
    "twice the batch": (
        lambda x: torch.cat([x, x]),
        r"a tensor \(4, 3, 8, 8\) for x \(2, 3, 8, 8\)",
    ),
    "one channel": (lambda x: x[:, :1], r"a tensor \(2, 1, 8, 8\)"),
    "half the size": (lambda x: x[..., ::2, ::2], r"a tensor \(2, 3, 4, 4\)"),
    "no batch": (lambda x: x[0], r"a tensor \(3, 8, 8\)"),
    "whole numbers": (lambda x: x.long(), "numbers of torch.int64"),
    "complex numbers": (lambda x: x + 0j, "numbers of torch.complex64"),
}


def by_euler(model, x, sigmas, extra_args=None, callback=None, disable=None):
    for sigma, after in itertools.pairwise(sigmas):
        denoised = model(x, sigma * x.new_ones(len(x)), **(extra_args or {}))
        callback({"x": x, "i": 0, "sigma": sigma, "denoised": denoised})
        x = x + (after - sigma) * (x - denoised) / sigma
    return x


HALF = (torch.arange(8) < 5).float().expand(1, 1, 8, 8)
RUNS = {
    "sample": lambda model, x: sample_isdo(model, 14.6 * x, SIGMAS, disable=True),
    "sample under a mask": lambda model, x: sample_isdo(
        model, 14.6 * x, SIGMAS, disable=True, mask=HALF
    ),
    "refine": lambda model, x: refine(model, x, disable=True, settings=RefineSettings(calls=30)).x,
    "refine under a mask": lambda model, x: (
        refine(model, x, disable=True, settings=RefineSettings(calls=30), mask=HALF).x
    ),
    "refine by another": lambda model, x: (
        refine(
            model,
            x,
            disable=True,
            settings=RefineSettings(calls=30),
            sampler=by_euler,
            sigmas=SIGMAS,
        ).x
    ),
}
every_run = pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)


@every_run
@pytest.mark.parametrize("answer, says", WRONG.values(), ids=WRONG)
def test_what_is_no_picture_like_the_one_asked_about_is_named(run, answer, says):
    with pytest.raises(RuntimeError, match=f"the model returned {says}.*it must return denoised"):
        run(lambda x, sigma: answer(x), torch.randn(2, 3, 8, 8))


@every_run
@pytest.mark.parametrize("bad", [1, 2, 17])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_ends_the_run_before_the_next_call(run, bad, value):
    calls = itertools.count(1)

    def model(x, sigma):
        assert (call := next(calls)) <= bad
        out = good(x, sigma)
        out[1, 0, 2, 1] = value if call == bad else out[1, 0, 2, 1]
        return out

    with pytest.raises(
        NotFinite, match=rf"NaN or infinity at step {bad} of 30, sigma [0-9.]+: try full precision"
    ):
        run(model, torch.randn(2, 3, 8, 8))


@every_run
def test_nan_at_the_last_call_is_found_too(run):
    seen = itertools.count(1)

    def model(x, sigma):
        return good(x, sigma) * (float("nan") if next(seen) == 30 else 1)

    with pytest.raises(NotFinite, match="step 30 of 30"):
        run(model, torch.randn(2, 3, 8, 8))


class Event:
    """A GPU's event: whether the work before it is done is asked, never waited for."""

    done = 0

    def __init__(self):
        self.number = Event.made = getattr(Event, "made", 0) + 1

    def record(self, stream):
        pass

    def query(self):
        return self.number <= Event.done

    def synchronize(self):
        Event.done = self.number


def test_a_gpu_is_asked_and_not_waited_for(monkeypatch):
    """A stand-in: findings arrive in the host's memory, and are read once the event behind them has
    come."""
    monkeypatch.setattr(Event, "made", 0, raising=False)
    monkeypatch.setattr(Event, "done", 0)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    zeros = torch.zeros
    monkeypatch.setattr(
        torch, "zeros", lambda *size, pin_memory=False, **kind: zeros(*size, **kind)
    )
    answers, x = Answers(torch.device("cuda"), 200), torch.zeros(1, 1, 2, 2)
    for i in range(150):
        answers.look()  # nothing has come yet
        answers.take(x * float("nan") if i in (70, 90) else x, x, 5.0)
    Event.done = 70
    answers.look()
    Event.done = 71
    with pytest.raises(NotFinite, match="step 71 of 200, sigma 5:"):
        answers.look()
    with pytest.raises(NotFinite, match="step 71 of 200"):
        answers.settle()
    assert Event.done == 150  # that one waits, after the run


def test_a_checked_model_is_the_model_in_all_else():
    class Wrapper:
        inner_model, sigmas = "inside", [1.0]

        def __call__(self, x, sigma, scale):
            return scale * x

    checked = Checked(Wrapper(), torch.device("cpu"), 1)
    assert checked.inner_model == "inside" and checked.sigmas == [1.0]
    assert checked(torch.ones(1, 1, 2, 2), torch.ones(1), scale=3.0).sum() == 12


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("who", ["model", "callback"])
@pytest.mark.parametrize("run", [
    lambda model, x, callback: sample_isdo(model, x, [3.0, 1.0, 0.3, 0.0], disable=True, callback=callback),
    lambda model, x, callback: sample_isdo(model, x, [3.0, 0.0], disable=True, callback=callback, mask=HALF),
    lambda model, x, callback: refine(model, x, disable=True, callback=callback).x,
    lambda model, x, callback: refine(model, x, disable=True, call_callback=callback, mask=HALF).x,
    lambda model, x, callback: refine(model, x, disable=True, callback=callback, settings=RefineSettings(noise=0)).x,
])  # fmt: skip
def test_an_edit_of_x_reaches_neither_the_caller_nor_the_run(run, who, dtype):
    x = torch.randn(2, 3, 8, 8).to(dtype)
    given = x.clone()

    def model(x, sigma):
        out = good(x, sigma)
        if who == "model":
            x.zero_()
        return out

    def callback(info):
        if who == "callback":
            info["x"].zero_()

    want = run(good, x, None)
    assert torch.equal(run(model, x, callback), want) and torch.equal(x, given)
