"""Files of noise: what is written comes back, and what does not fit is said with what does."""

import json

import pytest
import torch
from safetensors.torch import save_file

from isdo import latents

ABOUT = {"Steps": 9, "Schedule type": "karras", "Model": "eps"}
SAID = {"kind": latents.KIND, "sigma": "14.6", "labels": "[]", "Steps": "9", "Schedule type": "karras"}  # fmt: skip


def written(path, x, said=None, name="x"):
    save_file({name: x}, path, SAID if said is None else said)
    return path


def test_what_is_written_comes_back_to_the_bit(tmp_path):
    x, sigma = torch.randn(2, 4, 6, 10, dtype=torch.float64), 14.614642333984375
    path = latents.check_target(tmp_path / "a.safetensors")
    latents.write(path, x.transpose(2, 3), sigma, ABOUT, ["faces", "a, b"])
    found = latents.read(path)
    assert torch.equal(found.x, x.transpose(2, 3).float())
    assert (found.sigma, found.steps, found.schedule) == (sigma, 9, "karras")
    assert found.labels == ["faces", "a, b"]
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("off", [1e-2, -1e-2, 1.0])
def test_noise_of_another_level_is_refused_and_rounding_is_none(off):
    noise = latents.Noise(torch.zeros(1, 3, 8, 8), 10.0, 5, "karras", [])
    for near in (10.0, 10.0 * (1 + 9e-4), 10.0 * (1 - 9e-4)):
        noise.check("a", near, (3, 8, 8))
    with pytest.raises(ValueError, match=r"a is of the noise level 10 and the schedule starts at"):
        noise.check("a", 10.0 * (1 + off), (3, 8, 8))


def test_noise_of_other_channels_is_refused_and_of_another_size_is_not():
    noise = latents.Noise(torch.zeros(1, 3, 8, 8), 10.0, 5, "karras", [])
    noise.check("a", 10.0, (3, 32, 16))
    with pytest.raises(ValueError, match=r"holds pictures \(3, 8, 8\), and the model's are \(4, 8"):
        noise.check("a", 10.0, (4, 8, 8))


@pytest.mark.parametrize("change", [
    {"kind": "a model"}, {"sigma": "high"}, {"labels": "["}, {"Steps": "few"}, {"Steps": None},
    {"Schedule type": None},
])  # fmt: skip
def test_a_file_that_says_something_else_holds_no_noise(tmp_path, change):
    said = {key: value for key, value in (SAID | change).items() if value is not None}
    path = written(tmp_path / "a.safetensors", torch.zeros(1, 3, 8, 8), said)
    with pytest.raises(ValueError, match="holds no noise"):
        latents.read(path)


@pytest.mark.parametrize("x", [
    torch.full((1, 3, 4, 4), float("nan")), torch.full((1, 3, 4, 4), float("inf")),
    torch.zeros(3, 4, 4), torch.zeros(0, 3, 4, 4),
])  # fmt: skip
def test_what_is_no_picture_of_numbers_is_no_noise(tmp_path, x):
    path = written(tmp_path / "a.safetensors", x)
    with pytest.raises(ValueError, match="holds no noise"):
        latents.read(path)


def test_another_name_or_no_file_at_all_is_no_noise(tmp_path):
    path = written(tmp_path / "a.safetensors", torch.zeros(1, 3, 4, 4), name="y")
    with pytest.raises(ValueError, match="holds no noise"):
        latents.read(path)
    (tmp_path / "b.safetensors").write_text(json.dumps(SAID))
    with pytest.raises(ValueError, match="holds no noise"):
        latents.read(tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match="is no file here"):
        latents.read(tmp_path / "c.safetensors")


@pytest.mark.parametrize("name", ["a.png", "a", "a.pt"])
def test_noise_is_not_written_under_the_name_of_something_else(tmp_path, name):
    with pytest.raises(ValueError, match="name it something.safetensors"):
        latents.check_target(tmp_path / name)
