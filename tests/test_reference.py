"""The textbook's samplers on Gaussians of known spectrum, against each other, against k-diffusion,
and at the edges."""

import math
from functools import partial

import pytest
import torch

from isdo.bench.baselines import k_diffusion
from isdo.path import FLOW, PATHS, VE
from isdo.process import PROCESSES
from isdo.reference import METHODS, SAMPLERS, ddim, ddpm, edm, langevin, ode, reverse_sde, seeded

BOTH = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
POWERS = torch.tensor([0.05, 0.4, 1.0, 3.0], dtype=torch.float64)
MEAN = torch.tensor([0.3, -1.0, 0.0, 2.0], dtype=torch.float64)
EVERY = {
    "ddpm": ddpm, "ddim": ddim, "ddim, eta 1/2": partial(ddim, eta=0.5), "ddim, eta 1": partial(ddim, eta=1.0),
    "euler": partial(ode, method="euler"), "heun": partial(ode, method="heun"), "rk4": partial(ode, method="rk4"),
    "edm": edm, "edm, churned": partial(edm, s_churn=5.0), "reverse_sde": reverse_sde,
    "langevin": langevin, "langevin, 3": partial(langevin, beta=3.0),
}  # fmt: skip
ALL = pytest.mark.parametrize("sample", EVERY.values(), ids=EVERY)


class Spectrum:
    """D of a Gaussian whose modes are the pixels of the last axis: means MEAN, variances POWERS."""

    def __init__(self, path):
        self.path = path

    def __call__(self, x, sigma):
        sigma = sigma.view(-1, 1, 1, 1).double()
        a = self.path.signal(sigma)
        gain = a * POWERS / (a**2 * POWERS + sigma**2)
        return (MEAN + gain * (x.double() - a * MEAN)).to(x.dtype)


def grid(path, steps, high=0.9, end=0.1):
    """Even steps in the root of sigma: a smooth map, so that steps shrink alike."""
    return torch.linspace(high**0.5, end**0.5, steps + 1, dtype=torch.float64) ** 2


def law(path, sigma):
    """Return mean and variance of x at ``sigma``."""
    a = path.signal(sigma)
    return a * MEAN, a**2 * POWERS + sigma**2


def moments(sample, path, sigmas, process=None):
    """Return mean and variance of x at the end, exactly: a linear denoiser answers each unit of
    noise by itself.

    Picture 0 is the mean, picture 1 begins a standard deviation off, picture j + 2 hears the j-th
    noise alone.
    """
    count, drawn = 3 + len(sigmas), [0]

    def noise(like):
        out = torch.zeros_like(like)
        out[2 + drawn[0]] = 1
        drawn[0] += 1
        return out

    p = PROCESSES[process] if process else None
    mean, variance = law(path, float(sigmas[0]))
    x = mean.expand(count, 1, 1, -1).clone()
    x[1] += variance.sqrt()
    if p is not None:
        ratio = path.noise_to_signal(sigmas[[0, -1]])
        first, last = p.time(ratio).tolist()
        x = p.from_path(x, first)
    out = sample(Spectrum(path), x, sigmas, noise=noise, process=process)
    out = out if p is None else p.to_path(out, last)[0]
    return out[0, 0, 0], (out - out[:1]).square().sum(0)[0, 0]


# sampler, process, order of the error of the variance
ORDERS = {
    "ddpm": (ddpm, None, 1), "ddim": (ddim, None, 1), "ddim, eta 1/2": (EVERY["ddim, eta 1/2"], None, 1),
    "langevin": (langevin, None, 1), "langevin, 3": (EVERY["langevin, 3"], None, 1),
    "reverse SDE": (reverse_sde, None, 1), "reverse SDE, VP": (reverse_sde, "vp linear", 1),
    "reverse SDE, VE": (reverse_sde, "ve", 1), "reverse SDE, cosine": (reverse_sde, "vp cosine", 1),
    "euler": (EVERY["euler"], None, 1), "euler, VP": (EVERY["euler"], "vp linear", 1),
    "heun": (EVERY["heun"], None, 2), "heun, VP": (EVERY["heun"], "vp linear", 2),
    "rk4": (EVERY["rk4"], None, 4), "rk4, VP": (EVERY["rk4"], "vp linear", 4), "edm, churned": (EVERY["edm, churned"], None, 2),
}  # fmt: skip


@pytest.mark.parametrize(
    "name, path", [(name, path) for name in ORDERS for path in PATHS.values() if path is VE or ORDERS[name][1] is None],
    ids=lambda v: getattr(v, "name", v),
)  # fmt: skip
def test_the_moments_converge_to_the_gaussian_with_the_weak_order(name, path):
    sample, process, order = ORDERS[name]
    mean, variance = law(path, 0.1)
    counts, errors = (20, 28, 40, 56) if order > 3 else (64, 90, 128, 180), []
    for steps in counts:
        found = moments(sample, path, grid(path, steps), process)
        torch.testing.assert_close(found[0], mean, rtol=0, atol=0.1)
        errors.append((found[1] - variance).norm().item())
    logs = torch.tensor([[math.log(n), math.log(e)] for n, e in zip(counts, errors, strict=True)])
    logs = logs - logs.mean(0)
    slope = -(logs[:, 0] @ logs[:, 1] / (logs[:, 0] @ logs[:, 0])).item()
    assert slope == pytest.approx(order, abs=0.25) and errors[-1] < 0.05 * variance.norm()


@BOTH
@ALL
def test_samples_have_the_mean_and_the_variance_of_the_data(sample, path):
    """2,000 pictures, 40 steps from noise to 0: within 5 standard errors of the exact moments of
    that run."""
    high = 1.0 if path is FLOW else 20.0
    sigmas = torch.cat(
        [torch.linspace(high**0.25, 0.02**0.25, 40, dtype=torch.float64) ** 4, torch.zeros(1)]
    )
    mean, variance = law(path, high)
    x = mean + variance.sqrt() * torch.randn(2000, 1, 1, 4, dtype=torch.float64)
    out = sample(Spectrum(path), x, sigmas, seeds=100)[:, 0, 0]
    bias_mean, bias_var = (
        found - want
        for found, want in zip(moments(sample, path, sigmas), (MEAN, POWERS), strict=True)
    )
    assert ((out.mean(0) - MEAN - bias_mean) / (POWERS / 2000).sqrt()).abs().max() < 5
    assert ((out.var(0) - bias_var) / POWERS - 1).abs().max() < 5 * (2 / 2000) ** 0.5
    assert bias_mean.abs().max() < 0.2 and (bias_var / POWERS).abs().max() < 0.5


@pytest.mark.parametrize("process", [None, "flow", "vp linear", "ddpm", "vp cosine", "ve"])
def test_ddim_with_eta_1_is_ddpm(process, normal):
    path = FLOW if process == "flow" else VE
    x, sigmas = normal(3, 1, 2, 4), [0.9, 0.6, 0.3, 0.05, 0.0]
    one = ddpm(Spectrum(path), x, sigmas, seeds=4, process=process)
    other = ddim(Spectrum(path), x, sigmas, eta=1.0, seeds=4, process=process)
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    third = langevin(Spectrum(path), x, sigmas, seeds=4, process=process)
    torch.testing.assert_close(one, third, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["ddpm", "ddim, eta 1/2", "langevin, 3"])
@pytest.mark.parametrize("process", ["vp linear", "vp cosine", "vp discrete", "ddpm"])
def test_the_scale_of_the_process_does_not_matter(name, process, normal):
    """x/s of a variance-preserving process goes the way of x on the path."""
    sample = EVERY[name]
    p, x, sigmas = PROCESSES[process], normal(3, 1, 2, 4), [3.0, 1.0, 0.3, 0.05]
    plain = sample(Spectrum(VE), x, sigmas, seeds=4)
    first, last = p.time(sigmas[0]), p.time(sigmas[-1])
    scaled = sample(Spectrum(VE), p.from_path(x, first), sigmas, seeds=4, process=process)
    torch.testing.assert_close(p.to_path(scaled, last)[0], plain, rtol=1e-9, atol=1e-9)


THEIRS = {
    "euler": (partial(ode, method="euler"), "sample_euler", {}),
    "heun": (ode, "sample_heun", {}),
    "ddim": (ddim, "sample_euler", {}),
    "ddpm": (ddpm, "sample_euler_ancestral", {}),
    "ddim, eta 0.4": (partial(ddim, eta=0.4), "sample_euler_ancestral", {"eta": 0.4}),
    "edm": (edm, "sample_heun", {}),
    "edm, churned": (partial(edm, s_churn=3.0), "sample_heun", {"s_churn": 3.0}),
    "edm, churned between": (
        partial(edm, s_churn=9.0, s_tmin=0.5, s_tmax=5.0, s_noise=1.01), "sample_heun",
        {"s_churn": 9.0, "s_tmin": 0.5, "s_tmax": 5.0, "s_noise": 1.01},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", THEIRS)
@pytest.mark.parametrize("end", [0.0, 0.03])
def test_where_k_diffusion_has_the_sampler_it_is_the_same(name, end, pixel_mixture, normal):
    ours, theirs, options = THEIRS[name]
    x, sigmas = (
        10 * normal(2, 3, 4, 4),
        torch.tensor([10.0, 4.0, 1.5, 0.6, 0.2, 0.05, end], dtype=torch.float64),
    )
    torch.manual_seed(7)
    want = getattr(k_diffusion("sampling"), theirs)(
        pixel_mixture("ve"), x, sigmas, disable=True, **options
    )
    torch.manual_seed(7)
    torch.testing.assert_close(ours(pixel_mixture("ve"), x, sigmas), want, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", ["euler", "heun"])
def test_on_flow_the_ode_is_k_diffusions_too(name, pixel_mixture, normal):
    x, sigmas = normal(2, 3, 4, 4), torch.tensor([1.0, 0.8, 0.5, 0.2, 0.0], dtype=torch.float64)
    want = getattr(k_diffusion("sampling"), f"sample_{name}")(
        pixel_mixture("flow"), x, sigmas, disable=True
    )
    torch.testing.assert_close(
        ode(pixel_mixture("flow"), x, sigmas, method=name), want, rtol=1e-11, atol=1e-11
    )


@BOTH
@ALL
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_edges(sample, path, dtype):
    """One step, no step, an end above 0; x is not touched, dtype comes back, calls are not at 0,
    callbacks once a step."""
    high = 1.0 if path is FLOW else 10.0
    x = (high * torch.randn(2, 1, 2, 4)).to(dtype)
    before, asked, seen = x.clone(), [], []

    def model(x, sigma, shift):
        asked.append(sigma)
        assert x.dtype == dtype and sigma.shape == (2,)
        return Spectrum(path)(x, sigma) + shift

    model.path = path
    out = sample(model, x, torch.tensor([high, 0.0]), {"shift": 1.0}, seen.append)
    torch.testing.assert_close(out, Spectrum(path)(seen[0]["x"], asked[0]) + 1)
    for end in (0.0, 0.1):
        seen.clear()
        out = sample(
            model, x, [high, 0.6, 0.6, 0.3, end], {"shift": 0.0}, seen.append, True, seeds=[3, 4]
        )
        assert (
            out.dtype == dtype
            and out.shape == x.shape
            and out.isfinite().all()
            and torch.equal(x, before)
        )
        assert [state["i"] for state in seen] == [0, 1, 2, 3]
        assert [round(state["sigma"].item(), 4) for state in seen] == [high, 0.6, 0.6, 0.3]
        assert all(set(state) == {"x", "i", "sigma", "sigma_hat", "denoised"} for state in seen)
    assert torch.stack(asked).min() > 0
    same = sample(model, x, [high], {"shift": 0.0})
    assert torch.equal(same, x) and same is not x


@ALL
def test_a_picture_is_the_same_in_any_batch_bit_by_bit(sample, rational):
    x, sigmas = 5 * torch.randn(3, 2, 4, 4), [5.0, 2.0, 0.7, 0.2, 0.0]
    many = sample(rational, x, sigmas, seeds=[8, 3, 5])
    assert torch.equal(many[1:2], sample(rational, x[1:2], sigmas, seeds=3))
    assert torch.equal(many, sample(rational, x, sigmas, seeds=[8, 3, 5]))


def test_what_makes_no_sense_is_refused(rational):
    x, sigmas = torch.randn(2, 1, 4, 4), [1.0, 0.0]
    for call, says in (
        (partial(ddim, eta=1.5), "eta is 1.5: give 0"),
        (partial(langevin, beta=-1.0), "beta is -1.0: give a rate"),
        (partial(ode, method="rk5"), "no method 'rk5': choose one of euler, heun, rk4"),
        (partial(edm, s_churn=-1.0), "s_churn is -1.0"),
        (partial(ddpm, seeds=[1]), "give the first picture's seed, or 2"),
        (partial(ddpm, process="sde"), "no process 'sde'"),
        (partial(ddpm, process="flow"), None),
    ):
        if says is None:
            assert (
                call(rational, x, sigmas).isfinite().all()
            )  # a function that says nothing is on the path it is told
        else:
            with pytest.raises(ValueError, match=says):
                call(rational, x, sigmas)
    with pytest.raises(
        ValueError, match="the model is on the path flow and the process 'edm' is not"
    ):
        ddpm(Spectrum(FLOW), torch.randn(1, 1, 1, 4), sigmas, process="edm")
    with pytest.raises(ValueError, match="sigmas must fall"):
        ddpm(rational, x, [0.1, 1.0])
    with pytest.raises(ValueError, match="that of the process 'vp linear' goes from"):
        ddpm(rational, x, [1000.0, 1.0], process="vp linear")


@ALL
def test_a_model_that_fails_is_named(sample):
    with pytest.raises(RuntimeError, match="returned NaN or infinity at step 1 of"):
        sample(lambda x, sigma: x * math.nan, torch.ones(1, 1, 2, 2), [2.0, 1.0, 0.0])
    with pytest.raises(RuntimeError, match="the model returned a tensor"):
        sample(lambda x, sigma: x[:, :, :1], torch.ones(1, 1, 2, 2), [2.0, 1.0, 0.0])


def test_the_tables_name_what_there_is():
    assert list(METHODS) == ["euler", "heun", "rk4"]
    assert list(SAMPLERS) == ["ddpm", "ddim", "rk4", "edm", "reverse_sde", "langevin"]
    assert seeded(ddpm, range(3)).keywords == {"seeds": [0, 1, 2]} and seeded(len, range(3)) is len
