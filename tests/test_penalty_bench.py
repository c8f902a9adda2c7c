"""The bench of the curvature penalty: what lies between modes, what is compared, what the page
says."""

import pytest
import torch

from isdo.bench import penalty, report
from isdo.bench.kept import by_key, merged
from isdo.models import Given
from isdo.path import FLOW, VE

pytestmark = pytest.mark.usefixtures("no_grad")


@pytest.fixture(scope="module")
def rows():
    with torch.no_grad():
        return list(penalty.on_task("grid", limit=48)) + list(
            penalty.on_task("mixture of pictures", limit=8)
        )


def test_what_lies_between_modes_is_told_and_what_lies_at_them(generator):
    truth = penalty.grid()
    at = truth.means[:, :, None, None].repeat(4, 1, 1, 1)
    found = penalty.between(truth, at)
    assert found == pytest.approx({"far": 0, "undecided": 0, "between": 0, "width": 0, "uneven": 0})
    halfway = at + torch.tensor([0.25, 0.0]).view(2, 1, 1)
    found = penalty.between(truth, torch.cat([at, halfway]))
    # the last row of the grid has nobody beyond it: far, and not undecided
    assert found["far"] == found["between"] == 50 and found["undecided"] == pytest.approx(40)
    one = penalty.between(truth, at[:1])
    assert one["uneven"] == pytest.approx(96)  # all at one of 25
    assert penalty.between(truth, at * float("nan"))["between"] == 100
    own = penalty.between(truth, truth.sample(20_000, generator))
    assert own["far"] == pytest.approx(100 * 2.718281828**-4.5, abs=0.25) and own[
        "width"
    ] == pytest.approx(0.98, abs=0.02)
    wide = penalty.between(
        truth,
        truth.sample(5000, generator) + 0.05 * torch.randn(5000, 2, 1, 1, generator=generator),
    )
    assert wide["width"] > 1.2


@pytest.mark.parametrize("path", [VE, FLOW], ids=["ve", "flow"])
def test_pictures_of_the_mixture_itself_lie_at_its_components(path, generator):
    truth = penalty.Pictures(path, generator)
    found = penalty.between(truth, truth.sample(200, generator))
    assert found["between"] < 2 and found["width"] == pytest.approx(1, abs=0.01)
    assert penalty.between(truth, 100 * truth.sample(4, generator))["far"] == 100


@pytest.mark.parametrize("path", [VE, FLOW], ids=["ve", "flow"])
def test_the_denoiser_of_points_is_the_mean_of_the_posterior(path, generator):
    """By Monte Carlo over the mixture: D = E[x0 w]/E[w]."""
    points = penalty.scattered(path)
    x0 = points.sample(400_000, generator)
    x, sigma = torch.tensor([0.2, -0.3], dtype=torch.float64).view(1, 2, 1, 1), 0.4
    weight = (-(x - path.signal(sigma) * x0).square().sum((1, 2, 3)) / (2 * sigma**2)).exp()
    mean = (weight[:, None, None, None] * x0).sum(0) / weight.sum()
    found = points(x, torch.tensor([sigma]))
    torch.testing.assert_close(found[0], mean, rtol=0, atol=0.01)


def test_each_weight_is_held_against_as_many_steps_and_as_many_calls():
    pairs = penalty.plan((8,))
    assert pairs == [(8, 0.0), *((8, w) for w in penalty.WEIGHTS), (24, 0.0)]


def test_rows_say_what_was_run(rows):
    grid = [row for row in rows if row["task"] == "grid"]
    assert [(row["steps"], row["weight"]) for row in grid] == [
        (0, 0.0),
        *penalty.plan(penalty.STEPS),
    ]
    assert all(row["calls"] == (3 if row["weight"] else 1) * row["steps"] for row in rows)
    assert {row["images"] for row in grid} == {48}


def test_the_penalty_leaves_fewer_between(generator):
    model, noise = penalty.grid(), torch.randn(400, 2, 1, 1, generator=generator)
    sigmas = penalty.levels(model, 12)
    plain, much = (
        penalty.drawn(model, float(sigmas[0]) * noise, sigmas, weight)[0] for weight in (0.0, 1.0)
    )
    assert penalty.between(model, much)["far"] < 0.6 * penalty.between(model, plain)["far"]


def test_a_small_network_learns_and_is_the_same_each_time():
    points = penalty.grid()
    first, again, other = (penalty.Learned(points, steps=300, seed=seed) for seed in (1, 1, 2))
    for a, b, c in zip(first.parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b) and not torch.equal(a, c) and not a.requires_grad
    x = points.sample(500, torch.Generator().manual_seed(0)).float()
    noise, sigma = (
        torch.randn(500, 2, 1, 1, generator=torch.Generator().manual_seed(1)),
        torch.full((500,), 0.1),
    )
    missed, at_first = (
        (net(x + 0.1 * noise, sigma) - x).square().mean()
        for net in (first, penalty.Learned(points, steps=0))
    )
    assert points(x + 0.1 * noise, sigma).sub(x).square().mean() < missed < 0.8 * at_first


def test_on_flow_it_is_the_same_model(generator):
    model, x = penalty.grid(), torch.randn(5, 2, 1, 1, generator=generator, dtype=torch.float64)
    flow = penalty.OnFlow(model)
    sigma = torch.full((5,), 0.2, dtype=torch.float64)
    torch.testing.assert_close(flow(0.8 * x, sigma), model(x, sigma / 0.8))
    assert flow.sigma_max == pytest.approx(10 / 11) and flow.path is FLOW


class Toy:
    """A denoiser of two grey pictures."""

    path, sigma_min, sigma_max = VE, 0.05, 5.0
    sigmas = torch.linspace(0.05, 5.0, 20)

    def __call__(self, x, sigma):
        return torch.tanh(
            x.mean((1, 2, 3), keepdim=True) * 16 / sigma[:, None, None, None] ** 2
        ).expand(x.shape)


def test_sets_of_pictures_are_held_against_each_other_and_against_real_ones():
    real = torch.ones(3, 1, 4, 4)
    made = list(penalty.on_set(Given("toy", Toy(), shape=(1, 4, 4)), None, 6, real=real))
    assert [(row["steps"], row["weight"], row["calls"]) for row in made] == [
        (8, 0.0, 8), *((8, w, 24) for w in penalty.WEIGHTS), (24, 0.0, 24),
    ]  # fmt: skip
    assert made[0]["moved"] is None and made[-1]["moved"] is None and made[1]["moved"] is not None
    assert all(row["nearest"] >= 0 for row in made)
    known = by_key([row | {"nearest": -1.0} for row in made], penalty.KEY)
    assert all(
        row["nearest"] == -1
        for row in penalty.on_set(Given("toy", Toy(), shape=(1, 4, 4)), None, 6, known=known)
    )


def test_distance_from_the_nearest():
    others = torch.tensor([[0.0, 0.0], [3.0, 4.0]])[:, :, None, None]
    found = penalty.nearest(torch.tensor([[3.0, 3.0], [0.0, 0.0]])[:, :, None, None], others)
    torch.testing.assert_close(found, torch.tensor([0.5**0.5, 0.0], dtype=torch.float64))


def test_rows_of_an_earlier_run_are_not_measured_again(rows, monkeypatch):
    saved = []
    monkeypatch.setattr(penalty, "drawn", None)
    monkeypatch.setattr(penalty, "TASKS", {"grid": penalty.TASKS["grid"]})
    again = penalty.run(
        only="grid", limit=48, reuse=rows, save=lambda rows: saved.append(len(rows))
    )
    assert again == [row for row in rows if row["task"] == "grid"] and saved == list(
        range(1, len(again) + 1)
    )
    assert merged(rows, again[:2], penalty.KEY) == rows[2:] + rows[:2]


def test_without_the_emoji_the_zoo_is_left_out_and_says_so(caplog):
    def missing():
        raise FileNotFoundError("the font is missing")

    assert penalty.run(only="zoo", emoji=missing) == []
    assert "left out: the font is missing" in caplog.text


def test_the_page_and_the_plot_show_all(rows, tmp_path):
    of_set = {
        "bench": "penalty",
        "task": "photographs",
        "images": 4,
        "seed": 0,
        "steps": 8,
        "fingerprint": "",
    }
    of_set |= {"contrast": 0.4, "accuracy": 0.5, "frechet": 6.0, "kernel": 15.0}
    sets = [
        of_set | {"weight": w, "calls": c, "moved": m}
        for w, c, m in ((0.0, 8, None), (1.0, 24, 0.1))
    ]
    text = penalty.page([*rows, *sets])
    assert (
        "## grid, 48 samples" in text
        and "## photographs" in text
        and "nan" not in text
        and "KID x 1000" in text
    )
    assert "| 36 | 12 | 10 |" in text and " of 4 |" in text and "of the truth" in text
    penalty.plot([*rows, *sets], tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 10_000
    report.write_json(rows, tmp_path / "a.json")
    assert report.read_json(tmp_path / "a.json") == rows


def test_gains_are_told_at_equal_steps_and_at_equal_calls():
    task = {"bench": "penalty", "task": "t", "images": 1, "seed": 0, "fingerprint": "", "calls": 0}
    cells = {(8, 0.0): 9, (8, 1.0): 8, (24, 0.0): 7, (12, 0.0): 5.0, (12, 1.0): 3.0, (36, 0.0): 4.0}
    found = penalty.gains(
        [task | {"steps": n, "weight": w, "between": v} for (n, w), v in cells.items()]
    )
    assert found == {("t", 8, 1.0): (8, 9, 7), ("t", 12, 1.0): (3.0, 5.0, 4.0)}
