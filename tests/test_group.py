"""Shifts, rotations and scale: exact answers on smooth pictures, unitarity on any, and what padding
is for."""

import math

import pytest
import torch

from isdo import group
from isdo.settings import REFINE_FIELDS

SHAPES = [(2, 3, 32, 32), (2, 3, 7, 12), (1, 2, 3, 5, 8), (2, 1, 1, 1), (1, 1, 1, 9), (1, 2, 2, 2)]
ACTS = {
    "rotate": group.rotate,
    "shift": lambda x, amount, mirrored=False: group.shift(x, 3 * amount, -amount, mirrored),
    "scale": group.scale,
}
UNITARY = ("rotate", "shift")
ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 1e-1}


def blob(map_point=lambda x, y: (x, y), size=32, width=2.0):
    """A smooth picture (1, 1, size, size), off centre and longer than wide, at ``map_point`` of
    each pixel's place."""
    t = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    y, x = torch.meshgrid(t, t, indexing="ij")
    x, y = map_point(x, y)
    return torch.exp(-((x - 1) ** 2) / (2 * width**2) - (y + 0.5) ** 2 / (4.5 * width**2))[
        None, None
    ]


def turned(angle):
    return blob(
        lambda x, y: (
            x * math.cos(angle) - y * math.sin(angle),
            x * math.sin(angle) + y * math.cos(angle),
        )
    )


def difference(a, b):
    return float((a - b).abs().max())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("act", ACTS)
def test_a_transform_and_its_inverse_are_the_identity(normal, act, dtype, shape):
    x = normal(*shape).to(dtype)
    there = ACTS[act](x, 0.3)
    assert there.dtype == dtype and there.shape == x.shape
    assert difference(ACTS[act](there, -0.3), x) < ROUNDING[dtype]


@pytest.mark.parametrize("dtype, allowed", [(torch.float64, 1e-12), (torch.float32, 1e-4)])
def test_a_hundred_random_ones_lose_no_energy(normal, dtype, allowed):
    x = start = normal(2, 3, 12, 15).to(dtype)
    for angle, dy, dx in normal(100, 3):
        x = group.shift(group.rotate(x, angle.clamp(-1, 1)), dy, dx)
    assert abs(float(x.norm() / start.norm()) - 1) < allowed
    assert not torch.allclose(x, start, atol=0.5)


@pytest.mark.parametrize("size", [16, 15])
def test_shifts_add_up_exactly(normal, size):
    x = normal(1, 2, size, size + 3)
    twice = group.shift(group.shift(x, 0.3, 1.7), -1.1, 0.45)
    assert difference(twice, group.shift(x, -0.8, 2.15)) < 1e-12


def test_rotations_add_up_on_smooth_pictures_and_only_there(normal):
    twice = group.rotate(group.rotate(blob(), 0.2), 0.3)
    assert difference(twice, group.rotate(blob(), 0.5)) < 1e-6
    x = normal(1, 1, 32, 32)  # white noise reaches the highest frequency, which shears fold
    assert difference(group.rotate(group.rotate(x, 0.2), 0.3), group.rotate(x, 0.5)) > 0.1


@pytest.mark.parametrize("angle", [0.03, -0.4, 1.2])
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_rotated_blob_is_the_blob_seen_from_rotated_places(angle, mirrored):
    assert difference(group.rotate(blob(), angle, mirrored), turned(angle)) < (
        1e-3 if mirrored else 1e-6
    )


@pytest.mark.parametrize("mirrored", [False, True])
def test_shifted_and_scaled_blobs_are_where_they_belong(mirrored):
    assert (
        difference(group.shift(blob(), 0.7, -2.3, mirrored), blob(lambda x, y: (x - 2.3, y + 0.7)))
        < 1e-4
    )
    assert (
        difference(
            group.scale(blob(), 0.1, mirrored),
            blob(lambda x, y: (x * math.exp(0.1), y * math.exp(0.1))),
        )
        < 1e-4
    )


def test_positive_angles_turn_the_picture_as_the_docstring_says():
    right = torch.zeros(1, 1, 33, 33, dtype=torch.float64)
    right[..., 14:19, 26:31] = (
        1  # a spot on the right, which counterclockwise goes up: to smaller rows
    )
    found = group.rotate(right, math.pi / 2)[0, 0]
    rows, columns = (found > 0.5).nonzero().T
    assert rows.max() < 8 and (columns - 16).abs().max() <= 2


@pytest.mark.parametrize("name", group.GENERATORS)
def test_exponentials_begin_along_their_generator(name):
    """(exp(eps g) f - f) / eps tends to g f, the derivatives of f in closed form."""
    t = torch.arange(32, dtype=torch.float64) - 15.5
    y, x = torch.meshgrid(t, t, indexing="ij")
    dx, dy = -blob() * (x - 1) / 4, -blob() * (y + 0.5) / 9
    field = {"rotation": x * dy - y * dx, "shift x": dx, "shift y": dy, "scale": x * dx + y * dy}[
        name
    ]
    generator = group.GENERATORS[name]
    misses = [
        difference((generator.act(blob(), eps) - blob()) / eps, field) for eps in (1e-2, 1e-3)
    ]
    assert misses[0] < 0.05 and 5 < misses[0] / misses[1] < 20  # first order in eps


@pytest.mark.parametrize("name", group.GENERATORS)
def test_amounts_of_exp_are_pixels(name):
    height, width = 24, 16
    y, x = torch.meshgrid(torch.arange(height) - 11.5, torch.arange(width) - 7.5, indexing="ij")
    one, zero = torch.ones_like(x), torch.zeros_like(x)
    fields = {"rotation": (-y, x), "shift x": (one, zero), "shift y": (zero, one), "scale": (x, y)}[
        name
    ]
    moved = sum(v.square().mean() for v in fields).sqrt()
    assert group.GENERATORS[name].reach(height, width) == pytest.approx(float(moved))
    picture = blob()
    by_hand = group.GENERATORS[name].act(picture, 0.3 / group.GENERATORS[name].reach(32, 32), True)
    assert torch.equal(group.exp(name, 0.3, picture), by_hand)


def test_tiny_pictures_are_not_spun(normal):
    one = normal(1, 2, 1, 1)
    assert all(torch.equal(group.exp(name, 5.0, one), one) for name in ("rotation", "scale"))
    x = normal(1, 1, 2, 3)
    assert torch.equal(group.exp("rotation", 50.0, x), group.rotate(x, group.LARGEST_AMOUNT, True))


def test_the_highest_component_of_an_even_length_is_left_alone():
    stripes = torch.tensor([1.0, -1.0]).repeat(4).expand(1, 1, 8, 8).double()
    assert difference(group.shift(stripes, 0.0, 0.4), stripes) < 1e-14
    assert (
        difference(group.rotate(stripes, 0.2), stripes) < 1
    )  # other axis: it is sheared, and comes back below
    assert difference(group.rotate(group.rotate(stripes, 0.2), -0.2), stripes) < 1e-13


def test_whole_pixels_are_a_roll_where_no_highest_component_is(normal):
    x = normal(1, 2, 9, 15)  # odd lengths have none
    assert difference(group.shift(x, 2, -3), x.roll((-2, 3), (-2, -1))) < 1e-12


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("mirrored", [False, True])
def test_every_picture_may_have_its_own_amount_and_ignores_its_neighbours(normal, act, mirrored):
    x, amounts = normal(3, 2, 8, 11).float(), torch.tensor([0.1, -0.2, 0.05])
    together = ACTS[act](x, amounts, mirrored)
    for i in range(3):
        assert torch.equal(together[i : i + 1], ACTS[act](x[i : i + 1], amounts[i], mirrored))


@pytest.mark.parametrize("name", group.GENERATORS)
def test_nothing_comes_round_the_edge_of_a_mirrored_picture(name):
    left = torch.zeros(1, 1, 32, 32, dtype=torch.float64)
    left[..., :4] = 1
    far = group.exp(name, 1.0, left)[..., 20:]
    wrapped = group.exp(name, 1.0, left, mirrored=False)[..., 20:]
    assert far.abs().max() < 0.06  # the tail of the band-limited step
    if name in ("rotation", "shift x"):  # a scale goes out at all sides at once
        assert wrapped.abs().max() > 0.5


@pytest.mark.parametrize("name", group.GENERATORS)
def test_flat_pictures_stay_flat(name):
    flat = torch.full((1, 2, 10, 7), 0.7, dtype=torch.float64)
    assert difference(group.exp(name, 0.5, flat), flat) < 1e-14


@pytest.mark.parametrize("act", ACTS)
def test_devices_without_complex_fft_get_the_same(monkeypatch, normal, act):
    x = normal(2, 1, 6, 5)
    expected = ACTS[act](x, 0.2, True)
    monkeypatch.setattr(group, "has_complex_fft", lambda device: False)
    assert torch.equal(ACTS[act](x, 0.2, True), expected)


def test_the_sets_of_generators_are_the_choices_of_the_setting():
    field = next(field for field in REFINE_FIELDS if field.key == "generators")
    assert tuple(group.SETS) == field.choices
    assert set().union(*group.SETS.values()) == set(group.GENERATORS)


def test_what_makes_no_sense_is_refused_in_words(normal):
    x = normal(2, 1, 4, 4)
    with pytest.raises(ValueError, match=r"2, one for each picture"):
        group.shift(x, torch.zeros(3), 0)
    with pytest.raises(ValueError, match="angle is up to 2.*rot90"):
        group.rotate(x, 2.0)
    with pytest.raises(ValueError, match="no generator 'spin'.*rotation"):
        group.exp("spin", 1.0, x)
