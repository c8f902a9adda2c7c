"""What a step costs: the counters count right, and memory does not grow with the steps. No timing
is asserted."""

import pytest
import torch

from isdo.bench import speed

SHAPE = (1, 4, 24, 40)


def test_live_storage_counts_what_is_alive_and_what_was():
    x = torch.zeros(1000)
    with speed.LiveStorage() as storage:
        kept = x + 1
        assert storage.live == 4000
        view = kept.view(10, 100)[2:5]
        assert storage.live == 4000  # a view of it takes nothing
        del kept
        assert storage.live == 4000  # and keeps it alive
        assert (view + (view + 1)).sum() > 0
        assert storage.peak >= 4000 + 2 * 1200
        view.mul_(2)
        assert storage.live == 4000  # nor does an operation in place
        del view
        assert storage.live == 0
    assert storage.peak < 8000


@pytest.mark.parametrize("sampler", speed.COMPARED)
def test_the_number_of_latents_held_does_not_depend_on_the_number_of_steps(sampler):
    few, many = (speed.memory(sampler, SHAPE, steps=steps) for steps in (8, 40))
    flags = 40 / (4 * 4 * 24 * 40)  # a byte a step: whether the model's answer was finite
    assert many == pytest.approx(few, abs=flags)
    assert few[0] < few[1] < 60


def test_memory_is_proportional_to_the_batch():
    one, four = (speed.memory("isdo", (count, *SHAPE[1:]), steps=8) for count in (1, 4))
    assert four == pytest.approx(one, rel=0.05)


def test_the_report_has_a_row_for_each_shape_and_sampler_and_says_whether_the_limit_is_kept():
    rows, text = speed.run(shapes=(speed.SHAPES[0], SHAPE), devices=["cpu"], repetitions=1)
    assert [(tuple(row["shape"]), row["sampler"]) for row in rows] == [
        (shape, name) for shape in (speed.SHAPES[0], SHAPE) for name in speed.COMPARED
    ]
    assert all(0 < row["ms_lowest"] <= row["ms"] and 0 < row["held"] < row["peak"] for row in rows)
    assert ("NOT kept" in text) == (rows[0]["ms"] > 12)
    assert "1x4x128x128 | ISDO" in text


def test_measuring_leaves_the_number_of_threads_as_it_was():
    before = torch.get_num_threads()
    with pytest.raises(KeyError), speed.threads(before + 1):
        speed.step_times(SHAPE, samplers=("no such sampler",))
    assert torch.get_num_threads() == before
