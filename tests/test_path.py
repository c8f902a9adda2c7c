"""The two paths, and how a model tells which one it is on."""

from types import SimpleNamespace as Box

import pytest
import torch

from isdo import zoo
from isdo.path import FLOW, PATHS, VE, detect_path, noise_levels, smallest_sigma

TABLE_VE = torch.tensor([0.03, 1.0, 14.6])
TABLE_FLOW = torch.tensor([0.001, 0.5, 1.0])


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_noise_to_signal_and_back(path):
    sigma = torch.logspace(-3, -0.01, 50, dtype=torch.float64)
    torch.testing.assert_close(
        path.from_noise_to_signal(path.noise_to_signal(sigma)), sigma, rtol=1e-12, atol=0
    )
    torch.testing.assert_close(
        path.noise_to_signal(sigma), sigma / path.signal(sigma), rtol=0, atol=0
    )


def test_flow_fades_out_linearly_and_ve_never():
    assert [FLOW.signal(s) for s in (0.0, 0.25, 1.0)] == [1.0, 0.75, 0.0]
    assert [VE.signal(s) for s in (0.0, 0.25, 4518.0)] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("model", "path"),
    [
        (
            Box(path=FLOW, inner_model=Box(sigmas=TABLE_VE)),
            FLOW,
        ),  # what the model says itself comes first
        (Box(inner_model=Box(predictor=Box(prediction_type="const"), sigmas=TABLE_VE)), FLOW),
        (Box(inner_model=Box(predictor=Box(prediction_type="epsilon"), sigmas=TABLE_FLOW)), VE),
        (Box(inner_model=Box(predictor=Box(prediction_type="v_prediction"))), VE),
        # Stable Diffusion 3 in AUTOMATIC1111 says that it is an eps-model
        (
            Box(
                inner_model=Box(
                    inner_model=Box(add_noise_to_latent=len, parameterization="eps"),
                    sigmas=TABLE_VE,
                )
            ),
            FLOW,
        ),
        (Box(inner_model=Box(sigmas=TABLE_FLOW)), FLOW),
        (Box(inner_model=Box(sigmas=TABLE_VE)), VE),
        (Box(inner_model=Box(sigmas=[])), VE),
        # falling tables, with a 0 or without, as diffusers' schedulers hold them
        (Box(inner_model=Box(sigmas=TABLE_VE.flip(0))), VE),
        (Box(inner_model=Box(sigmas=torch.cat([TABLE_VE.flip(0), torch.zeros(1)]))), VE),
        (Box(inner_model=Box(sigmas=[14.6, 1.0, 0.03, 0.0])), VE),
        (Box(inner_model=Box(sigmas=torch.cat([TABLE_FLOW.flip(0), torch.zeros(1)]))), FLOW),
        (Box(inner_model=Box(sigmas=torch.zeros(3))), VE),
        # the end of a table that was computed in float32
        (Box(inner_model=Box(sigmas=torch.tensor([0.001, 1 + 2**-23]))), FLOW),
        (Box(inner_model=Box(sigmas=torch.tensor([0.001, 1.001]))), VE),
        (Box(inner_model=Box(sigmas=lambda steps: TABLE_FLOW)), VE),  # a method of that name
        (Box(path="flow"), VE),  # a word by that name is no Path
        (lambda x, sigma: x, VE),
    ],
)
def test_the_path_is_told_by_capability(model, path):
    assert detect_path(model) is path


@pytest.mark.parametrize("order", ["rising", "falling", "with a 0", "falling to 0", "a list"])
def test_the_smallest_level_is_the_smallest_positive_of_any_table(order):
    table = torch.linspace(0.03, 14.6, 100)
    given = {
        "rising": table, "falling": table.flip(0), "with a 0": torch.cat([torch.zeros(1), table]),
        "falling to 0": torch.cat([table.flip(0), torch.zeros(1)]), "a list": table.tolist(),
    }[order]  # fmt: skip
    for holder in (Box(sigmas=given), Box(inner_model=Box(sigmas=given))):
        assert smallest_sigma(holder) == pytest.approx(0.03)
    assert noise_levels(Box(sigmas=given)).tolist() == pytest.approx(table.tolist())


def test_so_little_above_its_limit_that_it_is_rounding_a_path_ends():
    assert FLOW.settle(1 + 2**-23) == 1 and FLOW.settle(1.001) == 1.001 and FLOW.settle(0.5) == 0.5
    assert VE.settle(1e9) == 1e9


def test_the_zoo_says_its_paths():
    assert [detect_path(zoo.load(name)).name for name in zoo.NAMES] == ["ve", "ve", "flow"]
