"""The zoo's wrapper against k-diffusion's own wrappers round the same net, and against the
formulas."""

import json

import pytest
import torch

from isdo import zoo
from isdo.bench.baselines import k_diffusion
from isdo.zoo.net import CLASSES, NULL, Net, scaled_linear, zero_terminal_snr


def small_net(name, zero_snr=False):
    """A net with random weights: it depends on x, t and the label, and needs no file."""
    torch.manual_seed(1)
    table = None if name == "flow" else scaled_linear()
    net = Net(name, zero_terminal_snr(table) if zero_snr else table).eval().requires_grad_(False)
    for weight in net.parameters():
        weight.add_(0.05 * torch.randn_like(weight))
    return net


def theirs_of(net):
    """k-diffusion's wrapper in float64 round the float32 net: the wrappers are compared, not their
    rounding."""
    wrappers = {"eps": "DiscreteEpsDDPMDenoiser", "v": "DiscreteVDDPMDenoiser"}
    wrapper = getattr(k_diffusion("external"), wrappers[net.prediction.name])
    return wrapper(
        lambda x, t, labels: net(x.float(), t, labels), net.alphas_cumprod, quantize=False
    )


def noised(model, sigma, dtype=torch.float32):
    """Something like a picture at each sigma: (B, 3, 16, 16)."""
    generator = torch.Generator().manual_seed(2)
    x0, n = torch.randn(2, len(sigma), 3, 16, 16, generator=generator, dtype=torch.float64)
    level = sigma.double()[:, None, None, None]
    return (model.path.signal(level) * x0 + level * n).to(dtype)


@pytest.mark.parametrize("name, zero_snr", [("eps", False), ("v", False), ("v", True)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_k_diffusion(name, zero_snr, dtype):
    net = small_net(name, zero_snr)
    model, theirs = zoo.denoiser(net), theirs_of(net)
    table = model.sigmas
    inside = [
        float(table[0]),
        float(table[1]),
        0.1,
        0.7,
        3.3,
        14.0,
        float(table[500]),
        float(table[-1]),
    ]
    outside = [0.5 * float(table[0]), 2 * float(table[-1])]
    sigma = torch.tensor(inside + outside, dtype=torch.float64)
    labels = torch.arange(len(sigma)) % (NULL + 1)
    x = noised(model, sigma, torch.float64)
    expected = theirs(x, sigma, labels=labels)
    scale = expected.abs().amax((1, 2, 3))
    error = (model(x.to(dtype), sigma.to(dtype), labels) - expected).abs().amax((1, 2, 3))
    # float32 rounding of x (size sigma) passes into denoised = x - sigma eps; the factor is the
    # net's own
    rounding = torch.finfo(torch.float32).eps * (sigma if name == "eps" else 1)
    assert (error <= 50 * (rounding + torch.finfo(torch.float32).eps * scale)).all(), error
    assert model.sigma_max == pytest.approx(4518.8 if zero_snr else 14.61, abs=0.1)


def test_fractional_times_are_those_of_k_diffusion():
    net = small_net("v", zero_snr=True)
    model, theirs = zoo.denoiser(net), theirs_of(net)
    sigma = torch.cat([torch.logspace(-3, 4, 200, dtype=torch.float64), model.sigmas])
    t = model.time(sigma)
    torch.testing.assert_close(t, theirs.sigma_to_t(sigma), rtol=1e-12, atol=1e-9)
    assert t.min() == 0 and t.max() == 999
    torch.testing.assert_close(
        t[200:], torch.arange(1000.0, dtype=torch.float64), rtol=0, atol=1e-9
    )


def test_flow_is_x_minus_sigma_times_velocity():
    net = small_net("flow")
    model = zoo.denoiser(net)
    sigma = torch.tensor([1e-3, 0.2, 0.731, 1.0])
    x, labels = noised(model, sigma), torch.tensor([0, 3, 8, 9])
    velocity = net(x, sigma, labels)
    torch.testing.assert_close(
        model(x, sigma, labels), x - sigma[:, None, None, None] * velocity, rtol=1e-5, atol=1e-6
    )
    assert (model.path.name, model.sigma_min, model.sigma_max) == ("flow", 0.001, 1.0)


@pytest.mark.parametrize("name", zoo.NAMES)
def test_guidance_moves_along_the_line_from_no_class(name):
    model = zoo.denoiser(small_net(name))
    sigma, labels = torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0, 4, 8])
    x = noised(model, sigma)
    c, u = model(x, sigma, labels), model(x, sigma)
    assert not torch.allclose(c, u, atol=1e-3)
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(model(x, sigma, torch.full((3,), NULL)), u, **close)
    torch.testing.assert_close(model(x, sigma, labels, 4.0), u + 4 * (c - u), **close)
    torch.testing.assert_close(model(x, sigma, labels, 0.0), u, **close)
    each = torch.tensor([1.0, 2.5, 7.0])
    torch.testing.assert_close(
        model(x, sigma, labels, each), u + each[:, None, None, None] * (c - u), **close
    )


def test_guidance_costs_one_evaluation_more_in_the_same_batch():
    net = small_net("eps")
    batches = []
    net.register_forward_pre_hook(lambda module, arguments: batches.append(len(arguments[0])))
    model, x, labels = zoo.denoiser(net), torch.randn(2, 3, 8, 8), torch.tensor([0, 1])
    model(x, 1.0, labels)
    model(x, 1.0, labels, guidance=1)
    model(x, 1.0, guidance=7.0)  # no class to guide by
    model(x, 1.0, labels, guidance=7.0)
    assert batches == [2, 2, 2, 4]


@pytest.mark.parametrize("name", zoo.NAMES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_dtype_comes_back_as_it_went_in(name, dtype):
    model = zoo.denoiser(small_net(name))
    sigma = torch.tensor([0.25, 0.75])
    x = noised(model, sigma).to(dtype)
    before = x.clone()
    out = model(x, sigma)
    assert out.dtype == dtype and torch.equal(x, before)
    torch.testing.assert_close(out, model(x.float(), sigma).to(dtype), rtol=1e-5, atol=1e-5)


def test_sigma_may_be_a_number_and_a_neighbour_changes_nothing():
    model = zoo.denoiser(small_net("eps"))
    sigma, labels = torch.full((4,), 2.0), torch.tensor([1, 2, 3, 9])
    x = noised(model, sigma)
    together = model(x, sigma, labels)
    for one in (2.0, torch.tensor(2.0), torch.tensor(2.0, dtype=torch.float64)):
        torch.testing.assert_close(model(x, one, labels), together)
    torch.testing.assert_close(
        model(x[1:2], sigma[1:2], labels[1:2]), together[1:2], rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(
        model(x, 2.0, 3)[2], together[2], rtol=1e-4, atol=1e-5
    )  # one label for all


@pytest.mark.parametrize("arguments, says", [
    ((torch.zeros(3, 8, 8), 1.0), "B, C, H, W"),
    ((torch.zeros(1, 3, 12, 8), 1.0), "multiples of 8"),
    ((torch.zeros(1, 3, 8, 8).long(), 1.0), "floating-point"),
    ((torch.zeros(2, 3, 8, 8), torch.ones(3)), "sigma must be"),
    ((torch.zeros(2, 3, 8, 8), 1.0, torch.zeros(1, 2).long()), "labels must be"),
    ((torch.zeros(2, 3, 8, 8), 1.0, torch.tensor([0, NULL + 1])), "labels must lie in 0..9"),
    ((torch.zeros(2, 3, 8, 8), 1.0, torch.zeros(2)), "integers"),
    ((torch.zeros(2, 3, 8, 8), 1.0, torch.tensor([0, 1]), torch.ones(3)), "guidance must be"),
])  # fmt: skip
def test_bad_input_is_named(arguments, says):
    with pytest.raises(ValueError, match=says):
        zoo.denoiser(small_net("eps"))(*arguments)


def test_unknown_extra_arguments_are_not_swallowed():
    with pytest.raises(TypeError, match="cond"):
        zoo.denoiser(small_net("eps"))(torch.zeros(1, 3, 8, 8), 1.0, cond=None)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A zoo whose weights are random, written as the training writes them."""
    from isdo.zoo.train import CONFIGS, write_model

    for name in zoo.NAMES:
        write_model(tmp_path / f"{name}.safetensors", small_net(name), CONFIGS[name], [0.5, 0.25])
    monkeypatch.setattr(zoo, "FOLDER", tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", zoo.NAMES)
def test_load_reads_what_the_training_wrote(folder, name):
    model = zoo.load(name)
    sigma = torch.tensor([0.5, 1.0])
    x = noised(model, sigma)
    expected = zoo.denoiser(small_net(name))(x, sigma)
    torch.testing.assert_close(
        model(x, sigma), expected, rtol=0.02, atol=0.02
    )  # the file holds float16
    assert not model.net.training and not any(p.requires_grad for p in model.net.parameters())
    assert model.prediction.name == name
    assert (model.sigmas.diff() > 0).all() and len(model.sigmas) == 1000
    about = zoo.info(name)
    assert (
        about["prediction"] == name
        and about["losses"] == [0.5, 0.25]
        and about["config"]["model"] == name
    )
    assert "Open Font License" in about["licence"] and tuple(about["classes"]) == CLASSES
    json.dumps(about)


def test_load_names_what_is_wrong(folder):
    with pytest.raises(ValueError, match="'sdxl'.*eps, v, flow"):
        zoo.load("sdxl")
    for name in ("eps", "flow"):
        with pytest.raises(ValueError, match="zero_terminal_snr"):
            zoo.load(name, zero_terminal_snr=True)
    (folder / "v.safetensors").unlink()
    with pytest.raises(ValueError, match="train --model v"):
        zoo.info("v")
    with pytest.raises(ValueError, match="train --model v"):
        zoo.load("v")


def test_zero_terminal_snr_reaches_4518(folder):
    assert zoo.load("v").sigma_max == pytest.approx(14.61, abs=0.01)
    model = zoo.load("v", zero_terminal_snr=True)
    assert model.sigma_max == pytest.approx(4518.8, abs=0.1)
    x = model.sigma_max * torch.randn(2, 3, 16, 16)
    assert model(x, model.sigma_max).abs().max() < 100


@pytest.mark.parametrize("name", zoo.NAMES)
def test_the_packaged_model_is_small_and_removes_noise(name):
    assert (zoo.FOLDER / f"{name}.safetensors").stat().st_size <= 4 * 2**20
    model = zoo.load(name)
    sigma = torch.tensor([0.05, 0.2])
    flat = torch.full((2, 3, 32, 32), 0.9)
    noise = torch.randn(flat.shape, generator=torch.Generator().manual_seed(0))
    level = sigma[:, None, None, None]
    left = model(model.path.signal(level) * flat + level * noise, sigma) - flat
    assert (left.square().mean((1, 2, 3)).sqrt() < 0.5 * sigma).all()
    assert zoo.info(name)["prediction"] == name
