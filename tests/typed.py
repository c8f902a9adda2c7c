"""The public surface as a type checker sees it: `make lint` checks this file, nobody runs it.

What is right must pass and keep its type. What is wrong stands behind an ignore; mypy says so when
there is nothing to ignore any more.
"""

from typing import Any

import torch
from torch import Tensor
from typing_extensions import assert_type

import isdo
from isdo.action import action
from isdo.curvature import Curvature
from isdo.denoiser import Denoiser, guided
from isdo.path import VE
from isdo.probe import measure_curvature
from isdo.process import PROCESSES
from isdo.protocols import Model
from isdo.quantity import convert
from isdo.spectrum import Spectrum
from isdo.tableau import RK4

x, sigmas = torch.zeros(2, 3, 8, 8), isdo.schedules.karras(4, 0.1, 10.0)


def plain(x: Tensor, sigma: Tensor) -> Tensor:
    return x


def with_class(x: Tensor, sigma: Tensor, labels: Tensor, strength: float = 1.0) -> Tensor:
    return x


class Network(torch.nn.Module):
    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return x


def not_a_model(x: Tensor) -> Tensor:
    return x


def seen(state: dict[str, Tensor]) -> None:
    pass


zoo_model = isdo.zoo.load("eps")
assert_type(zoo_model, Denoiser)
models: list[Model] = [plain, with_class, Network(), zoo_model, guided(plain, plain, 2.0)]

for model in models:
    assert_type(isdo.sample_isdo(model, x, sigmas), Tensor)
isdo.sample_isdo(plain, x, [10.0, 1.0, 0.0], {"labels": None}, seen, True, seeds=[1, 2])
isdo.sample_isdo(plain, x, sigmas, settings=isdo.Settings(solver="srk4", order=2), seeds=3)
isdo.sample_isdo(not_a_model, x, sigmas)  # type: ignore[arg-type]
isdo.sample_isdo(plain, x, sigmas, settings=isdo.RefineSettings())  # type: ignore[arg-type]
isdo.sample_isdo(plain, x, sigmas, mask=True)  # type: ignore[arg-type]
isdo.sample_isdo(plain, x)  # type: ignore[call-arg]
isdo.sampel_isdo  # type: ignore[attr-defined]  # noqa: B018

assert_type(isdo.invert(plain, x, sigmas), Tensor)
refined = isdo.refine(
    plain, x, settings=isdo.RefineSettings(generators="all"), sampler=isdo.reference.ddim
)
assert_type(refined, isdo.Refined)
assert_type(refined.x, Tensor)
isdo.refine(plain, x, sampler=isdo.Settings())
isdo.refine(plain, x, sampler="euler")  # type: ignore[arg-type]
isdo.refine(plain, x, settings=isdo.Settings())  # type: ignore[arg-type]

settings = isdo.Settings.from_dict({"order": 2})
assert_type(settings, isdo.Settings)
assert_type(settings.order, int)
assert_type(settings.placement, float)
isdo.Settings(solver="srk6")  # type: ignore[arg-type]
isdo.Settings(order="two")  # type: ignore[arg-type]
isdo.Settings(ordr=2)  # type: ignore[call-arg]
isdo.RefineSettings(generators="spin")  # type: ignore[arg-type]
settings.order = 3  # type: ignore[misc]

assert_type(action(plain, [x, x], sigmas), Tensor)
assert_type(isdo.reference.ode(plain, x, sigmas, method="rk4"), Tensor)
isdo.reference.langevin(plain, x, sigmas, beta="fast")  # type: ignore[arg-type]
assert_type(measure_curvature(plain, x, sigmas), Curvature)
isdo.schedules.curvature_sigmas(5, 0.1, 10.0, measure_curvature(plain, x, sigmas), VE)
isdo.schedules.karras(4, 0.1)  # type: ignore[call-arg]

vp = PROCESSES["vp linear"]
assert_type(vp.sigma(0.5), float)
assert_type(vp.sigma(x), Tensor)
assert_type(vp.to_path(x, 0.5), tuple[Tensor, float])
assert_type(vp.marginal(1.0, 0.5), tuple[float, float])
assert_type(vp.posterior(x, x, 0.5, 0.1), tuple[Tensor, Tensor])
assert_type(convert(x, "eps", "v", x, 0.5, 2.0), Tensor)
assert_type(convert(1.0, "eps", "v", 1.0, 0.5, 2.0), float)
assert_type(VE.signal(1.0), float)
assert_type(VE.signal(x), Tensor)
vp.sigma("late")  # type: ignore[type-var]
assert_type(Spectrum(8, 8, "cpu").forward(x), Tensor)
assert_type(RK4.step(lambda t, y: y, 0.0, x, 0.1).slopes, list[Any])
