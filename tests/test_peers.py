import mpmath
import pytest
import torch

from isdo.bench.peers import PEERS, deis, ipndm, k_diffusion, multistep, phi, res, unipc

pytestmark = pytest.mark.usefixtures("no_grad")

UNIFORM = 1.0
ORDERS = {  # sampler, order, power of the grid (1: equal steps in sigma)
    "euler": (PEERS["euler"].run, 1, 3.0),
    "heun": (PEERS["heun"].run, 2, 3.0),
    "dpmpp_2m": (PEERS["dpmpp_2m"].run, 2, 3.0),
    "res_2m": (PEERS["res_2m"].run, 2, 3.0),
    "res_2m, equal steps": (multistep(2, res), 2, UNIFORM),
    "ipndm_3": (PEERS["ipndm_3"].run, 3, UNIFORM),
    "ipndm_4": (PEERS["ipndm_4"].run, 4, UNIFORM),
    "ipndm_4 knows equal steps only": (multistep(4, ipndm), 2, 3.0),
    "deis": (PEERS["deis"].run, 3, 3.0),
    "deis of four nodes": (multistep(4, deis), 4, 3.0),
    "unipc_2, no lower order at the end": (multistep(2, unipc, unipc), 3, 3.0),
    "unipc_3, no lower order at the end": (multistep(3, unipc, unipc), 4, 3.0),
    "predictor of unipc_2": (multistep(2, unipc), 2, 3.0),
    "predictor of unipc_3": (multistep(3, unipc), 3, 3.0),
}


# many paths, so that no lucky sign of an error constant shows as a higher order
COEFFICIENTS = torch.linspace(-4, 4, 8, dtype=torch.float64)[:, None, None, None]


def exact(sigma):
    """Paths that start so flat that the low-order first steps of multistep methods do not show."""
    return 3 * (1 - sigma) ** 5 + COEFFICIENTS * (1 - sigma) ** 6


def denoiser(x, sigma):
    """The D of an ODE that is not linear and is solved by `exact`: dx/dsigma = exact' + sin(x - exact)."""
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
    assert observed_order(PEERS[name].run, power, 0.0) == pytest.approx(3, abs=0.25)


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize("end", [0.0, 0.05])
def test_constant_denoised_is_solved_exactly(name, end):
    clean, noise = torch.randn(2, 2, 3, 4, 4, dtype=torch.float64)
    sigmas = torch.cat([grid(7, 2.0, 0.1), torch.tensor([end], dtype=torch.float64)])
    x = PEERS[name].run(lambda x, sigma: clean, clean + noise, sigmas, disable=True)
    torch.testing.assert_close(x, clean + end * noise, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize("calls", [1, 2, 5, 6, 15])
def test_calls_are_within_the_budget_and_never_at_sigma_zero(name, calls):
    asked = []

    def model(x, sigma, gain):
        asked.append(sigma)
        return gain * x

    steps = PEERS[name].steps(calls)
    sigmas = torch.cat([grid(steps, 2.0)[:-1], torch.zeros(1, dtype=torch.float64)])
    seen = []
    x = torch.ones(2, 1, 2, 2, dtype=torch.float64)
    out = PEERS[name].run(model, x, sigmas, {"gain": 0.5}, callback=lambda info: seen.append(info["i"]), disable=True)
    assert len(asked) in (calls, calls - 1) and torch.stack(asked).shape[1:] == (2,) and torch.stack(asked).min() > 0
    assert seen == list(range(steps))
    assert torch.equal(x, torch.ones_like(x)) and out.isfinite().all()


@pytest.mark.parametrize("name", [name for name in PEERS if name not in ("ipndm_3", "ipndm_4", "deis")])
def test_last_step_to_zero_is_the_last_denoised(name):
    last = []

    def model(x, sigma):
        last[:] = [x / (1 + sigma[:, None, None, None] ** 2)]
        return last[0]

    sigmas = torch.cat([grid(6, 3.0), torch.zeros(1, dtype=torch.float64)])
    out = PEERS[name].run(model, torch.randn(2, 3, 4, 4, dtype=torch.float64), sigmas, disable=True)
    torch.testing.assert_close(out, last[0], rtol=0, atol=1e-14)


def test_one_step_of_every_exponential_peer_is_ddim():
    x, clean = torch.randn(2, 1, 3, 4, 4, dtype=torch.float64)
    sigmas = torch.tensor([1.0, 0.3], dtype=torch.float64)
    for name in ("euler", "dpmpp_2m", "res_2m", "unipc_2", "unipc_3", "deis", "ipndm_4"):
        out = PEERS[name].run(lambda x, sigma: clean, x, sigmas, disable=True)
        torch.testing.assert_close(out, clean + 0.3 * (x - clean), rtol=0, atol=1e-14)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
@pytest.mark.parametrize("z", [-1e-12, -1e-3, -0.999, -1.001, -7.0, -50.0])
def test_phi_on_both_sides_of_its_threshold(k, z):
    with mpmath.workdps(60):
        want = mpmath.nsum(lambda n: mpmath.mpf(z) ** n / mpmath.factorial(n + k), [0, mpmath.inf])
    assert phi(k, z) == pytest.approx(float(want), rel=1e-13)


def test_k_diffusion_loads_without_its_package_init():
    assert k_diffusion("sampling").to_d(torch.ones(1, 1), torch.ones(1), torch.zeros(1, 1)).item() == 1
    assert hasattr(k_diffusion("external"), "DiscreteEpsDDPMDenoiser")
    assert k_diffusion("sampling") is k_diffusion("sampling")
