"""What `info --elbo` prints, on a page of pictures and without one."""

import re

import pytest
import torch
from commandline import run

from isdo import gallery, zoo
from isdo.zoo import data, likelihood

LINE = re.compile(r"  (\w+) +([\d.]+) +([\d.]+) +([\d.]+)   ([\d.]+) \+- ([\d.]+)")


@pytest.fixture
def page(tmp_path):
    """A file with the emoji-like page that `sample` would write, and its pictures."""
    pictures = data.to_unit(torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)) / 4
    file = tmp_path / "page.png"
    gallery.write_png(
        gallery.grid(pictures, zoom=1), file, "no class\nBatch size: 2, Version: isdo 0"
    )
    return file


def test_the_bounds_of_a_page(capsys, monkeypatch, page):
    monkeypatch.setattr(likelihood, "STRATA", 3)
    status, printed, error = run(capsys, "info", "--elbo", "--pictures", page)
    assert status == 0, error
    assert f"of 2 pictures of {page}" in printed
    rows = {name: [float(v) for v in rest] for name, *rest in LINE.findall(printed)}
    assert list(rows) == list(zoo.NAMES)
    for prior, steps, last, bits, error in rows.values():
        assert (
            bits == pytest.approx((prior + steps + last) / 3072 / 0.693147, abs=2e-3) and error > 0
        )
    assert len({row[0] for row in rows.values()}) == 1  # one chain for all: the same prior


def test_without_a_font_the_zoo_draws_its_own(monkeypatch):
    def missing(*_):
        raise FileNotFoundError("no font")

    monkeypatch.setattr(data, "load_emoji", missing)
    monkeypatch.setattr(likelihood.drawn, "__defaults__", (2, 2))
    x0, what = likelihood.pictures()
    assert "drawn by the model eps" in what and x0.shape == (2, 3, 32, 32)
    assert torch.equal(
        x0, data.to_unit(((x0 + 1) * 127.5).round().to(torch.uint8))
    )  # in 256 levels


def test_held_out_emoji_are_preferred(monkeypatch):
    pictures = torch.arange(40, dtype=torch.uint8).view(40, 1, 1, 1, 1).expand(40, 1, 3, 32, 32)
    emoji = data.Emoji(pictures, torch.zeros(40), torch.arange(40))
    monkeypatch.setattr(data, "load_emoji", lambda: emoji)
    monkeypatch.setattr(data.Emoji, "split", lambda self: (None, self))
    x0, what = likelihood.pictures()
    assert what == "held-out emoji" and ((x0[:, 0, 0, 0] + 1) * 127.5).round().tolist() == [
        0,
        5,
        10,
        15,
        20,
        25,
        30,
        35,
    ]


def test_pictures_are_of_the_bound(capsys):
    status, _, error = run(capsys, "info", "--pictures", "a.png")
    assert status == 2 and "give both" in error
