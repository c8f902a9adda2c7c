"""The bench's baselines and the textbook's samplers are those of diffusers, on the same levels and
the same denoiser.

Diffusers' multistep schedulers live on the variance-preserving scale x/sqrt(1 + sigma^2), the
others on x itself. Levels, timesteps and, of DDPM and DDIM, alpha_bar are put in by hand in
float64. Where the scheduler rounds its sample to float32 in every step, equality can hold to that
rounding only.
"""

import math

import pytest
import torch

from isdo.bench.baselines import BASELINES, STOCHASTIC, deis, multistep, res
from isdo.path import FLOW
from isdo.process import PROCESSES
from isdo.reference import ddim, ddpm, edm, ode

diffusers = pytest.importorskip("diffusers", reason="the development extra diffusers is missing")
pytestmark = [
    pytest.mark.usefixtures("no_grad"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

ROUNDED = 2e-6  # a dozen roundings of x to float32
EXACT = 1e-11  # float64; their phi functions cancel some digits in short steps
SCHEDULES = {
    "to zero": [14.6, 9.1, 5.2, 3.3, 1.7, 1.1, 0.62, 0.31, 0.12, 0.03, 0.0],
    "to a level above": [14.6, 8.0, 5.5, 2.4, 1.3, 0.5, 0.21, 0.1],
    "long": [*torch.linspace(3, -3, 19, dtype=torch.float64).exp().tolist(), 0.0],
    "one step": [5.0, 0.0],
    "two steps": [5.0, 0.8, 0.0],
}
FLOW_LEVELS = [1.0, 0.92, 0.8, 0.55, 0.31, 0.12, 0.04, 0.0]


def whole(x, sigma):
    return x


def preserving(x, sigma):
    return x / math.sqrt(1 + sigma**2)


def prepared(scheduler, sigmas):
    """Put the levels into a scheduler; its times are their indices."""
    steps = len(sigmas) - 1
    scheduler.set_timesteps(max(steps, 2))
    scheduler.num_inference_steps = steps
    scheduler.timesteps = torch.arange(steps, dtype=torch.float64)
    scheduler.sigmas = torch.tensor(sigmas, dtype=torch.float64)
    scheduler.is_scale_input_called = True  # what the model is asked is scaled here
    scheduler._step_index = None
    scheduler.set_begin_index(0)
    return scheduler


def theirs(scheduler, model, x, sigmas, scaled=whole, output=lambda x, d, sigma: d, **step):
    """Run a scheduler over the levels: ``scaled(x, sigma)`` is its sample, ``output`` what it takes
    the model's answer to be."""
    scheduler, sample = prepared(scheduler, sigmas), scaled(x, sigmas[0])
    for t, sigma in zip(scheduler.timesteps, sigmas, strict=False):
        now = sample / scaled(torch.ones((), dtype=x.dtype), sigma)
        denoised = model(now, torch.full((len(x),), sigma, dtype=x.dtype))
        extra = {name: value(denoised) for name, value in step.items()}
        sample = scheduler.step(output(now, denoised, sigma), t, sample, **extra).prev_sample
    return sample / scaled(torch.ones((), dtype=x.dtype), sigmas[-1])


def ours(run, model, x, sigmas, **extra):
    return run(model, x, torch.tensor(sigmas, dtype=torch.float64), disable=True, **extra)


def noise(sigma, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return sigma * torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64)


def velocity(x, denoised, sigma):
    return (x - denoised) / sigma


VP = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
DATA = {**VP, "prediction_type": "sample"}


def dpm(**more):
    return diffusers.DPMSolverMultistepScheduler(**DATA, **more)


def unipc(order):
    return diffusers.UniPCMultistepScheduler(**DATA, solver_order=order, solver_type="bh2")


# ours, theirs, the scale of their sample, tolerance
EQUAL = {
    "euler": (
        BASELINES["euler"].run,
        lambda: diffusers.EulerDiscreteScheduler(**DATA),
        whole,
        ROUNDED,
    ),
    # k-diffusion's DPM++ 2M takes D in the step to 0 and the midpoint form everywhere else
    "dpmpp_2m": (
        BASELINES["dpmpp_2m"].run,
        lambda: dpm(solver_order=2, solver_type="midpoint", lower_order_final=False),
        preserving,
        ROUNDED,
    ),
    # the other form of order 2, exact phi weights, is RES 2M
    "res_2m": (
        multistep(2, res),
        lambda: dpm(solver_order=2, solver_type="heun", lower_order_final=False),
        preserving,
        ROUNDED,
    ),
    "unipc_2": (BASELINES["unipc_2"].run, lambda: unipc(2), preserving, EXACT),
    "unipc_3": (BASELINES["unipc_3"].run, lambda: unipc(3), preserving, EXACT),
}


# diffusers' DPM-Solver++ falls to order 1 in its last step wherever that ends
PAIRS = [
    (name, levels)
    for name in EQUAL
    for levels in SCHEDULES
    if name not in ("dpmpp_2m", "res_2m") or SCHEDULES[levels][-1] == 0
]


@pytest.mark.parametrize("name, levels", PAIRS)
def test_a_baseline_is_the_scheduler_of_diffusers(name, levels, pixel_mixture):
    run, scheduler, scaled, rounding = EQUAL[name]
    sigmas, model = SCHEDULES[levels], pixel_mixture("ve")
    x = noise(sigmas[0])
    found = ours(run, model, x, sigmas)
    wanted = theirs(scheduler(), model, x, sigmas, scaled)
    torch.testing.assert_close(found, wanted, rtol=rounding, atol=rounding)


@pytest.mark.parametrize("name", ["dpmpp_2m", "res_2m"])
def test_dpm_solver_ends_above_zero_as_long_as_its_last_step_is_of_order_two(name, pixel_mixture):
    """One more level, whose step is not looked at, keeps diffusers' from being the last."""
    run, scheduler, scaled, rounding = EQUAL[name]
    sigmas, model = SCHEDULES["to a level above"], pixel_mixture("ve")
    x, seen = noise(sigmas[0]), []

    def watched(x, sigma):
        seen.append(x)
        return model(x, sigma)

    theirs(scheduler(), watched, x, [*sigmas, 0.0], scaled)
    torch.testing.assert_close(
        ours(run, model, x, sigmas), seen[len(sigmas) - 1], rtol=rounding, atol=rounding
    )


@pytest.mark.parametrize("levels", ["to zero", "to a level above", "long"])
@pytest.mark.parametrize("order, name", [(3, "deis"), (4, "deis of four nodes")])
def test_deis_in_sigma_is_linear_multistep(order, name, levels, pixel_mixture):
    """tAB-DEIS of the path ve integrates Lagrange's polynomials in sigma, as k-diffusion's LMS does
    by quadrature; diffusers' DEIS interpolates in log sigma and is another method."""
    run = BASELINES["deis"].run if name == "deis" else multistep(4, deis, to_zero=True)
    sigmas, model = SCHEDULES[levels], pixel_mixture("ve")
    x = noise(sigmas[0])
    scheduler = diffusers.LMSDiscreteScheduler(**DATA)
    wanted = theirs(scheduler, model, x, sigmas, order=lambda _: order)
    torch.testing.assert_close(ours(run, model, x, sigmas), wanted, rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("levels", ["to zero", "to a level above", "long", "one step"])
def test_ipndm_is_the_scheduler_of_diffusers(levels, pixel_mixture):
    """Its times are those of a sine; alpha and sigma of the levels are put in, and its blend of
    Adams and Bashforth is seen on the eps that the model means."""
    sigmas, model = SCHEDULES[levels], pixel_mixture("ve")
    x, scheduler = noise(sigmas[0]), diffusers.IPNDMScheduler()
    scheduler.set_timesteps(len(sigmas) - 1)
    grid = torch.tensor(sigmas, dtype=torch.float64)
    scheduler.alphas, scheduler.betas = 1 / (1 + grid**2).sqrt(), grid / (1 + grid**2).sqrt()
    scheduler.timesteps = torch.arange(len(sigmas) - 1, dtype=torch.float64)
    scheduler.set_begin_index(0)
    sample = x * scheduler.alphas[0]
    for i, sigma in enumerate(sigmas[:-1]):
        now = sample / scheduler.alphas[i]
        eps = velocity(now, model(now, torch.full((len(x),), sigma, dtype=x.dtype)), sigma)
        output = (eps - scheduler.betas[i] * sample) / scheduler.alphas[i]  # v of the angle
        sample = scheduler.step(output, scheduler.timesteps[i], sample).prev_sample
    wanted = sample / scheduler.alphas[-1]
    found = ours(BASELINES["ipndm_4"].run, model, x, sigmas)
    torch.testing.assert_close(found, wanted, rtol=EXACT, atol=EXACT)


HEUN = {
    "heun of the bench": BASELINES["heun"].run,
    "ode": lambda *a, **k: ode(*a, method="heun", **k),
    "edm without churn": edm,
}


@pytest.mark.parametrize("levels", ["to zero", "to a level above", "one step"])
@pytest.mark.parametrize("name", HEUN)
def test_heun_is_the_scheduler_of_diffusers(name, levels, pixel_mixture):
    """Its sigmas are there twice but for the ends; the step to 0 is Euler's."""
    sigmas, model = SCHEDULES[levels], pixel_mixture("ve")
    x = noise(sigmas[0])
    twice = [sigmas[0], *(s for s in sigmas[1:] if s > 0 for _ in (0, 1))]
    twice += [0.0] if sigmas[-1] == 0 else []
    # at index i the model is asked at level i, whether that ends a step or begins one
    wanted = theirs(diffusers.HeunDiscreteScheduler(**DATA), model, x, twice)
    torch.testing.assert_close(ours(HEUN[name], model, x, sigmas), wanted, rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("levels", ["to zero", "to a level above", "long"])
def test_edm_schedulers_are_euler_and_dpmpp_2m(levels, pixel_mixture):
    """On the EDM preconditioning: the network's output is what D leaves of x beside c_skip x."""
    sigmas, model = SCHEDULES[levels], pixel_mixture("ve")
    x, data = noise(sigmas[0]), 0.5

    def output(x, denoised, sigma):
        total = sigma**2 + data**2
        return (denoised - data**2 / total * x) * math.sqrt(total) / (sigma * data)

    for name, scheduler in {
        "euler": diffusers.EDMEulerScheduler(sigma_data=data),
        "dpmpp_2m": diffusers.EDMDPMSolverMultistepScheduler(
            sigma_data=data, lower_order_final=False
        ),
    }.items():
        if name == "dpmpp_2m" and sigmas[-1] > 0:
            continue  # its last step is of order 1 wherever it ends
        wanted = theirs(scheduler, model, x, sigmas, output=output)
        found = ours(BASELINES[name].run, model, x, sigmas)
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_flow_matching_is_euler_and_heun_on_the_path_flow(pixel_mixture):
    model, x = pixel_mixture("flow"), noise(1.0)
    model.path = FLOW
    for run, scheduler, sigmas in (
        (BASELINES["euler"].run, diffusers.FlowMatchEulerDiscreteScheduler(), FLOW_LEVELS),
        (
            BASELINES["heun"].run,
            diffusers.FlowMatchHeunDiscreteScheduler(),
            [1.0, *(s for s in FLOW_LEVELS[1:-1] for _ in (0, 1)), 0.0],
        ),
        (
            lambda *a, **k: ode(*a, method="euler", **k),
            diffusers.FlowMatchEulerDiscreteScheduler(),
            FLOW_LEVELS,
        ),
    ):
        wanted = theirs(scheduler, model, x, sigmas, output=velocity)
        torch.testing.assert_close(
            ours(run, model, x, FLOW_LEVELS), wanted, rtol=ROUNDED, atol=ROUNDED
        )


def drawn(like):
    return torch.randn(like.shape, dtype=torch.float64)


@pytest.mark.parametrize("levels", ["to zero", "long", "two steps"])
def test_samplers_with_noise_are_those_of_diffusers(levels, pixel_mixture):
    """Euler a and DPM++ 2M SDE, with the same draws of torch's own generator.

    DPM++ 3M SDE is left out: diffusers' has the opposite sign before one of its two 1/2, so that
    its third term does not vanish with the step.
    """
    sigmas, model = SCHEDULES[levels], pixel_mixture("ve")
    x = noise(sigmas[0])
    sde = {"algorithm_type": "sde-dpmsolver++", "lower_order_final": False, "solver_order": 2}
    rows = {
        "euler_a": (
            diffusers.EulerAncestralDiscreteScheduler(**VP, prediction_type="epsilon"),
            {"output": velocity},
        ),
        "dpmpp_2m_sde": (
            dpm(solver_type="midpoint", **sde),
            {"scaled": preserving, "variance_noise": drawn},
        ),
    }
    for name, (scheduler, how) in rows.items():
        torch.manual_seed(11)
        wanted = theirs(scheduler, model, x, sigmas, **how)
        torch.manual_seed(11)
        found = ours(STOCHASTIC[name].run, model, x, sigmas)
        torch.testing.assert_close(found, wanted, rtol=ROUNDED, atol=ROUNDED)


def discrete(kind, count=9):
    """Return a scheduler of DDPM's own betas in float64 and the levels of its times."""
    scheduler = kind(beta_start=1e-4, beta_end=0.02, clip_sample=False, prediction_type="sample")
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    scheduler.alphas_cumprod = (1 - betas).cumprod(0)
    scheduler.set_timesteps(count)
    alpha = scheduler.alphas_cumprod[scheduler.timesteps]
    return scheduler, [*((1 - alpha) / alpha).sqrt().tolist(), 0.0]


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ddim_is_the_scheduler_of_diffusers(eta, pixel_mixture):
    scheduler, sigmas = discrete(diffusers.DDIMScheduler)
    model, process = pixel_mixture("ve"), PROCESSES["ddpm"]
    x = preserving(noise(sigmas[0]), sigmas[0])
    torch.manual_seed(5)
    sample = x
    for t, sigma in zip(scheduler.timesteps.tolist(), sigmas, strict=False):
        denoised = model(
            sample * math.sqrt(1 + sigma**2), torch.full((2,), sigma, dtype=torch.float64)
        )
        sample = scheduler.step(denoised, t, sample, eta=eta).prev_sample
    torch.manual_seed(5)
    found = ours(ddim, model, x, sigmas, eta=eta, process=process, noise=drawn)
    # the levels of the process are those of its table to its own precision
    torch.testing.assert_close(found, sample, rtol=1e-9, atol=1e-9)


def test_ddpm_is_the_scheduler_of_diffusers(pixel_mixture):
    scheduler, sigmas = discrete(diffusers.DDPMScheduler, 12)
    model, process = pixel_mixture("ve"), PROCESSES["ddpm"]
    x = preserving(noise(sigmas[0]), sigmas[0])
    torch.manual_seed(5)
    sample = x
    for t, sigma in zip(scheduler.timesteps.tolist(), sigmas, strict=False):
        denoised = model(
            sample * math.sqrt(1 + sigma**2), torch.full((2,), sigma, dtype=torch.float64)
        )
        sample = scheduler.step(denoised, t, sample).prev_sample
    torch.manual_seed(5)
    found = ours(ddpm, model, x, sigmas, process=process, noise=drawn)
    torch.testing.assert_close(found, sample, rtol=1e-9, atol=1e-9)


def test_the_baselines_are_far_enough_apart_for_that_to_mean_something(pixel_mixture):
    """Any two of them differ by a thousand tolerances on the problem that they are compared on."""
    sigmas, model = SCHEDULES["to zero"], pixel_mixture("ve")
    x = noise(sigmas[0])
    found = {name: ours(BASELINES[name].run, model, x, sigmas) for name in BASELINES}
    names = sorted(found)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            assert (found[one] - found[other]).abs().max() > 1e3 * ROUNDED, (one, other)
