"""Devices that have no float64, and default devices that are not the CPU."""

import ast
from pathlib import Path

import pytest
import standin
import torch

import isdo
from isdo import (
    RefineSettings,
    Settings,
    group,
    process,
    reference,
    refine,
    sample_isdo,
    schedules,
    zoo,
)
from isdo import device as devices
from isdo.denoiser import classifier_guided
from isdo.device import beside, constants, full_precision, precision, wide
from isdo.elbo import elbo
from isdo.probe import measure_curvature

pytestmark = pytest.mark.usefixtures("no_grad", "forgetful")
PACKAGE = Path(isdo.__file__).parent
FACTORIES = {
    "zeros", "ones", "full", "tensor", "arange", "linspace", "logspace", "empty", "rand", "randn", "randint", "randperm",
    "eye", "as_tensor", "fftfreq", "rfftfreq", "Generator",
}  # fmt: skip
SETTINGS = [
    Settings(), Settings(basis="cosine"), Settings(tau="log", corrector=3), Settings(power="zero", placement=0),
    Settings(solver="srk4"), Settings(tolerance=0.03), Settings(solver="srk3", tolerance=0.03), Settings(solver="trajectory"),
    Settings(solver="trajectory", tolerance=0.03),
    Settings(curvature_penalty=1.0), Settings(draw=4),
]  # fmt: skip
REFINEMENTS = [
    RefineSettings(), RefineSettings(generators="all", iterations=4, calls=1), RefineSettings(lock=3, detail=1.0, iterations=2),
    RefineSettings(tolerance=0.5),
]  # fmt: skip


@pytest.fixture
def forgetful():
    """Forget before and after a test what is known of devices: the stand-in borrows another one's
    name."""
    caches = [v for v in vars(devices).values() if hasattr(v, "cache_clear")]
    for module in (isdo.spectrum, isdo.quadrature):
        caches += [v for v in vars(module).values() if hasattr(v, "cache_clear")]
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def model(x, sigma, **_):
    sigma = sigma.reshape(-1, *[1] * (x.ndim - 1))
    return torch.tanh(x / (1 + sigma**2))


def euler(model, x, sigmas, extra_args, callback, disable):
    for i in range(len(sigmas) - 1):
        denoised = model(x, sigmas[i] * x.new_ones(len(x)), **(extra_args or {}))
        callback({"x": x, "i": i, "sigma": sigmas[i], "denoised": denoised})
        x = x + (sigmas[i + 1] - sigmas[i]) * (x - denoised) / sigmas[i]
    return x


def calls():
    """Yield every kind of run as (name, function of a device): all of them give pictures."""
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator("cpu").manual_seed(0), device="cpu")
    half = (torch.arange(16, device="cpu") < 9).float().expand(1, 1, 16, 16)
    grids = {"ve": schedules.karras(6, 0.03, 14.6), "flow": schedules.flow(6, 3.0)}
    for path, sigmas in grids.items():
        for settings in SETTINGS:
            settings = Settings(**settings.changed() | {"path": path})
            for mask in (None, half):

                def sample(to, sigmas=sigmas, settings=settings, mask=mask):
                    mask = None if mask is None else to(mask)
                    return sample_isdo(
                        model,
                        to(x * sigmas[0]),
                        to(sigmas),
                        disable=True,
                        settings=settings,
                        mask=mask,
                    )

                yield f"sample {settings.changed()} mask {mask is not None}", sample
    for settings in REFINEMENTS:
        for mask in (None, half):

            def again(to, settings=settings, mask=mask):
                return refine(
                    model,
                    to(x),
                    disable=True,
                    settings=settings,
                    mask=None if mask is None else to(mask),
                ).x

            yield f"refine {settings.changed()} mask {mask is not None}", again

    def by_another(to):
        return refine(model, to(x), disable=True, sampler=euler, sigmas=to(grids["ve"])).x

    for name, sampler in reference.SAMPLERS.items():
        for path, sigmas in grids.items():

            def textbook(to, sampler=sampler, path=path, sigmas=sigmas):
                options = {"seeds": 3, "process": "flow" if path == "flow" else "vp linear"}
                return sampler(model, to(x * sigmas[0]), to(sigmas), **options)

            yield f"reference {name} {path}", textbook

    for name, p in process.PROCESSES.items():

        def there_and_back(to, p=p):
            u, t = (p.time(to(torch.tensor([r, 2 * r], device="cpu"))) for r in (0.5, 3.0))
            mean, std = p.posterior(to(x), p.marginal(to(x), u)[0], t, u)
            return p.score(p.to_path(mean, u)[0], std * to(x), t) + p.transition(
                0.3 * u.max().item(), t
            )[1].reshape(2, 1, 1, 1)

        yield f"process {name}", there_and_back

    def by_classifier(to):
        guided = classifier_guided(model, lambda x, sigma: -x.flatten(1).square().sum(1), 0.1)
        return guided(to(x), to(torch.ones(2, device="cpu")))

    def action(to):
        return sum(group.exp(name, 0.7, to(x)) for name in group.GENERATORS)

    yield "refine by another sampler", by_another
    yield "group", action
    yield "guidance by a classifier", by_classifier
    for name in zoo.NAMES:

        def draw(to, name=name):
            net, extra = (
                to(zoo.load(name)),
                {"labels": to(torch.tensor([2, 5], device="cpu")), "guidance": 3.0},
            )
            sigmas = schedules.schedule("flow" if name == "flow" else "karras", 3, net)
            drawn = sample_isdo(net, to(x * sigmas[0]), to(sigmas), extra, disable=True)
            return refine(
                net, drawn, extra, disable=True, settings=RefineSettings(iterations=1, calls=2)
            ).x

        yield f"zoo {name}", draw


every_call = pytest.mark.parametrize(
    "call", [pytest.param(call, id=name) for name, call in calls()]
)


@every_call
def test_a_device_without_float64_gives_the_same_pictures(call):
    want = call(lambda v: v)
    with standin.device() as name:
        got = call(lambda v: v.to(name))
        assert isinstance(got, standin.OnDevice) and got.dtype == torch.float32
    # its coefficients are computed in single precision
    torch.testing.assert_close(got.held, want, rtol=2e-3, atol=2e-3)


@every_call
def test_another_default_device_changes_nothing(call):
    want = call(lambda v: v)
    with torch.device("meta"):
        got = call(lambda v: v)
    assert got.device.type == "cpu" and torch.equal(got, want)


def test_schedules_and_probes_take_tables_from_such_devices():
    table, grid = torch.linspace(0.001, 1, 1000), schedules.karras(12, 0.03, 14.6)
    x = torch.randn(2, 3, 8, 8)

    def made(to):
        given = [
            f(4, to(table)) for f in (schedules.simple, schedules.uniform, schedules.sgm_uniform)
        ]
        given += [schedules.rest(to(grid), 1.0, 3), schedules.curvature_sigmas(4, 0.03, 14.6)]
        return [*given, torch.tensor(measure_curvature(model, to(14.6 * x), to(grid)).values)]

    want = made(lambda v: v)
    with standin.device() as name:
        for got, expected in zip(made(lambda v: v.to(name)), want, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-3, atol=0)


def test_the_bound_is_the_same_from_such_devices():
    x, levels = torch.rand(2, 3, 8, 8) * 2 - 1, torch.logspace(1, -2, 9)
    want = elbo(model, x, levels, groups=[3, 3, 2])
    with standin.device() as name:
        got = elbo(model, x.to(name), levels.to(name), groups=[3, 3, 2])
    for term in ("prior", "steps", "data", "bits"):
        torch.testing.assert_close(getattr(got, term), getattr(want, term), rtol=1e-4, atol=1e-4)


def test_the_stand_in_bites():
    with standin.device() as name:
        there = torch.ones(2, 2).to(name)
        for wrong in (
            lambda: there.double(), lambda: there.to("cpu", torch.float64), lambda: torch.ones(2, 2).double().to(name),
            lambda: torch.zeros(2, dtype=torch.float64, device=name),
        ):  # fmt: skip
            with pytest.raises(TypeError, match="float64"):
                wrong()
        with pytest.raises(RuntimeError, match="same device"):
            there + torch.ones(2, 2)
        assert (
            wide(there).dtype == torch.float64
            and wide(there).sum() == 4
            and precision(name) == torch.float32
        )
        assert torch.equal(beside(torch.ones(1, dtype=torch.float64), there).held, torch.ones(1))


def test_constants_go_to_a_gpu_from_the_cpu_whatever_the_default():
    class Like:
        dtype, device, is_cuda = torch.float32, torch.device("meta"), True

    with torch.device("meta"):
        assert constants([[1.0, 2.0]], Like).shape == (1, 2)


@pytest.mark.parametrize("settings", [Settings(), Settings(basis="cosine")])
def test_autocast_on_the_cpu_changes_nothing(settings):
    x = torch.randn(2, 4, 8, 8)

    def draw():
        out = sample_isdo(
            model, 14.6 * x, schedules.karras(6, 0.03, 14.6), disable=True, settings=settings
        )
        return refine(model, out, disable=True, settings=RefineSettings(generators="all", lock=3)).x

    want = draw()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(draw(), want)


def test_full_precision_asks_old_torch_in_its_own_words(monkeypatch):
    class Before24:
        def __getattr__(self, name):
            return getattr(torch, name)

        def is_autocast_enabled(self):  # of CUDA
            return False

    monkeypatch.setattr(devices, "torch", Before24())
    one, factor = torch.ones(1, 1), torch.tensor([[1 + 2**-12]])
    with torch.autocast("cpu", torch.bfloat16):
        with full_precision(torch.device("cpu")):
            assert one @ factor == factor
        with full_precision(torch.device("mps")):
            assert one @ factor == 1


def test_every_tensor_that_the_package_makes_names_its_device():
    missing = []
    for file in PACKAGE.rglob("*.py"):
        for call in ast.walk(ast.parse(file.read_text())):
            if (
                not isinstance(call, ast.Call)
                or not isinstance(call.func, ast.Attribute)
                or call.func.attr not in FACTORIES
            ):
                continue
            named = any(keyword.arg in ("device", None) for keyword in call.keywords)
            if (
                ast.unparse(call.func).startswith("torch.")
                and not named
                and not (call.func.attr == "Generator" and call.args)
            ):
                missing.append(f"{file.relative_to(PACKAGE)}:{call.lineno} {ast.unparse(call)}")
    assert not missing
