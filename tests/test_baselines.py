import mpmath
import pytest
import torch

from isdo.bench.baselines import (
    BASELINES,
    FURTHER,
    cab,
    deis,
    ipndm,
    k_diffusion,
    multistep,
    phi,
    reab,
    res,
    unipc,
)
from isdo.path import FLOW, PATHS, VE

pytestmark = pytest.mark.usefixtures("no_grad")

UNIFORM = 1.0
EVERY = BASELINES | FURTHER
CARRIED_ON = ("ipndm_3", "ipndm_4", "deis", "cab_2", "cab_3")  # to 0, by their own formula
ORDERS = {  # sampler, order, power of the grid (1: equal steps in sigma)
    "euler": (BASELINES["euler"].run, 1, 3.0),
    "heun": (BASELINES["heun"].run, 2, 3.0),
    "dpmpp_2m": (BASELINES["dpmpp_2m"].run, 2, 3.0),
    "res_2m": (BASELINES["res_2m"].run, 2, 3.0),
    "res_2m, equal steps": (multistep(2, res), 2, UNIFORM),
    "ipndm_3": (BASELINES["ipndm_3"].run, 3, UNIFORM),
    "ipndm_4": (BASELINES["ipndm_4"].run, 4, UNIFORM),
    "ipndm_4 knows equal steps only": (multistep(4, ipndm), 2, 3.0),
    "deis": (BASELINES["deis"].run, 3, 3.0),
    "deis of four nodes": (multistep(4, deis), 4, 3.0),
    "unipc_2, no lower order at the end": (multistep(2, unipc, unipc), 3, 3.0),
    "unipc_3, no lower order at the end": (multistep(3, unipc, unipc), 4, 3.0),
    "predictor of unipc_2": (multistep(2, unipc), 2, 3.0),
    "predictor of unipc_3": (multistep(3, unipc), 3, 3.0),
    "rk4": (FURTHER["rk4"].run, 4, UNIFORM),
    "cab_2": (FURTHER["cab_2"].run, 2, 3.0),
    "cab_3": (FURTHER["cab_3"].run, 2, 3.0),  # the correction has order 2, whatever it corrects
    "cab_3, uncorrected": (multistep(3, cab(3, theta=0.0)), 3, 3.0),
    "f_ddim": (FURTHER["f_ddim"].run, 1, 3.0),
    "reab": (FURTHER["reab"].run, 2, 3.0),
    "reab of three nodes": (multistep(3, reab), 3, 3.0),
}


# many paths, so that no lucky sign of an error constant shows as a higher order
COEFFICIENTS = torch.linspace(-4, 4, 8, dtype=torch.float64)[:, None, None, None]


def exact(sigma):
    """Paths that start so flat that the low-order first steps of multistep methods do not show."""
    return 3 * (1 - sigma) ** 5 + COEFFICIENTS * (1 - sigma) ** 6


def denoiser(x, sigma):
    """The D of an ODE that is not linear and is solved by `exact`: dx/dsigma = exact' + sin(x -
    exact)."""
    sigma = sigma[:, None, None, None]
    slope = -15 * (1 - sigma) ** 4 - 6 * COEFFICIENTS * (1 - sigma) ** 5
    return x - sigma * (slope + torch.sin(x - exact(sigma)))


def grid(steps, power, end=0.2):
    return torch.linspace(1, end ** (1 / power), steps + 1, dtype=torch.float64) ** power


def observed_order(sample, power, end):
    errors, counts = [], torch.tensor([48.0, 68, 96, 136, 192])
    for steps in counts.int().tolist():
        x = sample(denoiser, exact(1.0), grid(steps, power, end), disable=True)
        errors.append((x - exact(end)).square().mean().sqrt())
    h = counts.double().log()
    h, e = h - h.mean(), torch.stack(errors).log()
    return -(h @ e / (h @ h)).item()


@pytest.mark.parametrize("name", ORDERS)
def test_order_of_convergence(name):
    sample, order, power = ORDERS[name]
    assert observed_order(sample, power, 0.2) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("name, power", [("deis", 2.0), ("ipndm_3", UNIFORM)])
def test_polynomials_in_sigma_keep_their_order_down_to_zero(name, power):
    assert observed_order(BASELINES[name].run, power, 0.0) == pytest.approx(3, abs=0.25)


@pytest.mark.parametrize("name", [name for name in EVERY if name != "reab"])
@pytest.mark.parametrize("end", [0.0, 0.05])
def test_constant_denoised_is_solved_exactly(name, end):
    clean, noise = torch.randn(2, 2, 3, 4, 4, dtype=torch.float64)
    sigmas = torch.cat([grid(7, 2.0, 0.1), torch.tensor([end], dtype=torch.float64)])
    x = EVERY[name].run(lambda x, sigma: clean, clean + noise, sigmas, disable=True)
    torch.testing.assert_close(x, clean + end * noise, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("calls", [1, 2, 5, 6, 15])
def test_calls_are_within_the_budget_and_never_at_sigma_zero(name, calls):
    asked = []

    def model(x, sigma, gain):
        asked.append(sigma)
        return gain * x

    steps = EVERY[name].steps(calls)
    sigmas = torch.cat([grid(steps, 2.0)[:-1], torch.zeros(1, dtype=torch.float64)])
    seen = []
    x = torch.ones(2, 1, 2, 2, dtype=torch.float64)
    out = EVERY[name].run(
        model, x, sigmas, {"gain": 0.5}, callback=lambda info: seen.append(info["i"]), disable=True
    )
    assert calls - (3 if name == "rk4" else 1) <= len(asked) <= calls
    assert torch.stack(asked).shape[1:] == (2,) and torch.stack(asked).min() > 0
    assert seen == list(range(steps))
    assert torch.equal(x, torch.ones_like(x)) and out.isfinite().all()


@pytest.mark.parametrize("name", [name for name in EVERY if name not in CARRIED_ON])
def test_last_step_to_zero_is_the_last_denoised(name):
    last = []

    def model(x, sigma):
        last[:] = [x / (1 + sigma[:, None, None, None] ** 2)]
        return last[0]

    sigmas = torch.cat([grid(6, 3.0), torch.zeros(1, dtype=torch.float64)])
    out = EVERY[name].run(model, torch.randn(2, 3, 4, 4, dtype=torch.float64), sigmas, disable=True)
    torch.testing.assert_close(out, last[0], rtol=0, atol=1e-14)


def test_one_step_of_every_exponential_baseline_is_ddim():
    x, clean = torch.randn(2, 1, 3, 4, 4, dtype=torch.float64)
    sigmas = torch.tensor([1.0, 0.3], dtype=torch.float64)
    for name in ("euler", "dpmpp_2m", "res_2m", "unipc_2", "unipc_3", "deis", "ipndm_4"):
        out = BASELINES[name].run(lambda x, sigma: clean, x, sigmas, disable=True)
        torch.testing.assert_close(out, clean + 0.3 * (x - clean), rtol=0, atol=1e-14)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
@pytest.mark.parametrize("z", [-1e-12, -1e-3, -0.999, -1.001, -7.0, -50.0])
def test_phi_on_both_sides_of_its_threshold(k, z):
    with mpmath.workdps(60):
        want = mpmath.nsum(lambda n: mpmath.mpf(z) ** n / mpmath.factorial(n + k), [0, mpmath.inf])
    assert phi(k, z) == pytest.approx(float(want), rel=1e-13)


def test_k_diffusion_loads_without_its_package_init():
    assert (
        k_diffusion("sampling").to_d(torch.ones(1, 1), torch.ones(1), torch.zeros(1, 1)).item() == 1
    )
    assert hasattr(k_diffusion("external"), "DiscreteEpsDDPMDenoiser")
    assert k_diffusion("sampling") is k_diffusion("sampling")


def wiener(path, power=1.0):
    """D of pixels N(0, power) on a path."""

    def model(x, sigma):
        a = path.signal(sigma[:, None, None, None])
        return a * power / (a**2 * power + sigma[:, None, None, None] ** 2) * x

    model.path = path
    return model


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("name", ["cab_2", "cab_3", "reab", "f_ddim", "rk4"])
def test_what_is_further_converges_on_both_paths_from_pure_noise(name, path):
    """To the exact ODE of a Gaussian: x keeps its number of standard deviations."""
    high = 1.0 if path is FLOW else 10.0
    x = torch.randn(2, 1, 2, 2, dtype=torch.float64)
    errors = []
    for steps in (40, 80):
        sigmas = high * grid(steps, 3.0, 0.01)
        start, end = ((path.signal(s) ** 2 * 0.5 + s**2) ** 0.5 for s in (high, 0.01 * high))
        out = FURTHER[name].run(wiener(path, 0.5), x * start, sigmas)
        errors.append((out - x * end).abs().max().item())
    assert errors[1] < 0.7 * errors[0] < 0.05


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_reab_is_exact_for_a_gaussian_of_variance_one(path):
    x, sigmas = (
        torch.randn(2, 1, 2, 2, dtype=torch.float64),
        torch.tensor([1.0, 0.7, 0.2, 0.05], dtype=torch.float64),
    )
    out = FURTHER["reab"].run(wiener(path), x, sigmas)
    scale = [(path.signal(s) ** 2 + s**2) ** 0.5 for s in (1.0, 0.05)]
    torch.testing.assert_close(out, x * scale[1] / scale[0], rtol=1e-13, atol=0)


def test_the_leading_error_of_f_ddim_is_that_of_ddim_with_the_other_sign():
    sigmas = grid(400, 3.0)
    first, second = (
        EVERY[name].run(denoiser, exact(1.0), sigmas) - exact(0.2) for name in ("euler", "f_ddim")
    )
    assert (first.flatten() @ second.flatten() / first.square().sum()).item() == pytest.approx(
        -1, abs=0.05
    )


def test_cab_with_theta_zero_and_two_nodes_is_adams_bashforth():
    """On `ve` CAB-2 without its correction is tAB-DEIS of two nodes."""
    x = torch.randn(2, 1, 4, 4, dtype=torch.float64)
    plain, theirs = (
        multistep(order, rule)(wiener(VE), x, grid(9, 3.0))
        for order, rule in ((3, cab(2, 0.0)), (2, deis))
    )
    torch.testing.assert_close(plain, theirs, rtol=1e-12, atol=1e-13)
