"""What the accordions say about model calls is what is made, in a double of the WebUIs."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from hostdouble import Host, HTTPException, Scheduler, asked
from test_host_refine import draw


def one_more(n, sigma_min, sigma_max, inner_model, device):
    """As the hosts' DDIM schedule: every so manieth level of the table, one too many at times."""
    stride = max(len(inner_model.sigmas) // n, 1)
    levels = inner_model.sigmas[1::stride].flip(0)
    return torch.cat([levels, levels.new_zeros(1)])


def restless(model, x, sigmas, extra_args=None, callback=None, disable=None):
    """A sampler that makes three calls a step, one in the last, and is not marked for it: as
    HeunPP2."""
    for i in range(len(sigmas) - 1):
        for _ in range(3 if sigmas[i + 1] > 0 else 1):
            denoised = model(x, sigmas[i].expand(len(x)), **extra_args)
        callback({"x": x, "i": i, "sigma": sigmas[i], "sigma_hat": sigmas[i], "denoised": denoised})
        x = denoised + (x - denoised) / sigmas[i] * sigmas[i + 1]
    return x


@pytest.fixture(params=[False, True], ids=["a1111", "forge"])
def host(request):
    host = Host(more_samplers=True, forge=request.param)
    schedules, samplers = host.modules["modules.sd_schedulers"], host.modules["modules.sd_samplers"]
    schedules.schedulers_map["DDIM"] = Scheduler("ddim", "DDIM", one_more, need_inner_model=True)
    kind = host.modules["modules.sd_samplers_kdiffusion"].KDiffusionSampler
    data = host.modules["modules.sd_samplers_common"].SamplerData
    restless_s = data("Restless", lambda model: kind(restless, model), [], {})
    samplers.all_samplers.append(restless_s)
    samplers.all_samplers_map["Restless"] = restless_s
    host.modules["modules.sd_models"] = SimpleNamespace(
        model_data=SimpleNamespace(sd_model=object())
    )
    with host.running():
        host.load()
        host.ui()
        yield host


def told(page):
    return sys.modules["isdo.hosts.calls"].told(
        json.dumps({"tab": "txt2img", "scheduler": "Karras"} | page)
    )


def page_of(p, refine=None, values=None):
    """Return the page that would ask for p."""
    page = {
        "tab": p.kind,
        "sampler": p.sampler_name,
        "scheduler": p.scheduler,
        "steps": str(p.steps),
    }
    page["strength"] = str(p.denoising_strength)
    if p.enable_hr:
        page |= {
            "hires": True,
            "hr_steps": str(p.hr_second_pass_steps),
            "hr_sampler": p.hr_sampler_name or "Use same sampler",
        }
    for name, given in (("refine", refine), ("values", values)):
        if given is not None:
            page[name] = {key: str(value) for key, value in given.items()}
    return page


HIRES = {"enable_hr": True, "hr_second_pass_steps": 3, "denoising_strength": 0.6}
PICTURES = [
    ({"sampler_name": "ISDO", "steps": 7}, None),
    ({"sampler_name": "ISDO", "steps": 7, "scheduler": "DDIM"}, None),
    ({"sampler_name": "ISDO", "steps": 7, "scheduler": "KL Optimal"}, None),
    ({"sampler_name": "ISDO", "steps": 7} | HIRES, None),
    ({"sampler_name": "ISDO", "steps": 7, "scheduler": "DDIM"} | HIRES, {}),
    ({"sampler_name": "ISDO", "steps": 7} | HIRES | {"denoising_strength": 0.0}, None),
    ({"sampler_name": "Euler", "steps": 5, "hr_sampler_name": "ISDO"} | HIRES, {"noise": 0.5}),
    ({"sampler_name": "Heun", "steps": 6}, {"noise": 0.5}),
    ({"sampler_name": "Restless", "steps": 4}, {"noise": 0.5}),
    ({"sampler_name": "Restless", "steps": 12}, {"same": True, "calls": 8}),
    ({"kind": "img2img", "sampler_name": "ISDO", "steps": 9, "denoising_strength": 0.5}, {}),
    (
        {
            "kind": "img2img",
            "sampler_name": "ISDO",
            "steps": 30,
            "denoising_strength": 0.33,
            "scheduler": "DDIM",
        },
        None,
    ),
    (
        {"kind": "img2img", "sampler_name": "Heun", "steps": 9, "denoising_strength": 0.5},
        {"iterations": 7, "calls": 2},
    ),
]


@pytest.mark.parametrize(("ask", "refine"), PICTURES)
def test_the_accordions_tell_the_calls_that_are_made(host, ask, refine):
    p = asked(sd_model=object(), **ask)
    said = told(page_of(p, refine))
    got = draw(host, p, **({} if refine is None else {"refine": [refine]}))
    if refine is not None:
        drawn = int(said["refine"].split("after ")[1].split()[0])
        more = int(said["refine"].split()[1])
        assert (drawn + more == len(got.calls)) or (
            refine.get("same") and drawn + more >= len(got.calls)
        )
    elif "ISDO" in (p.sampler_name, p.hr_sampler_name):
        assert said == {"sampler": f"{len(got.calls)} model calls a picture", "refine": "off"}


def test_strength_as_noise_level_makes_as_many_calls_on_any_schedule(host):
    values = {"strength": "noise level"}
    for scheduler in ("Karras", "DDIM", "KL Optimal"):
        p = asked(
            "img2img", sampler_name="ISDO", steps=9, denoising_strength=0.5, scheduler=scheduler
        )
        assert told(page_of(p, values=values))["sampler"] == "5 model calls a picture"
        assert len(draw(host, p, sampler=[values]).calls) == 5


def test_the_script_and_other_samplers_are_told_in_words(host):
    assert told({"sampler": "Euler", "steps": "20"}) == {
        "sampler": "another sampler is chosen",
        "refine": "off",
    }
    assert told({"sampler": "ISDO", "steps": "1"})["sampler"] == "1 model call a picture"
    said = told(
        {
            "tab": "img2img",
            "sampler": "Euler",
            "steps": "5",
            "strength": "0.5",
            "script": {"noise": "0.5"},
        }
    )
    assert said == {
        "sampler": "not drawn: the script makes 3 model calls a picture",
        "refine": "the script is chosen",
    }
    assert told({"sampler": "ISDO", "steps": "5", "refine": {"noise": "0"}})["refine"].startswith(
        "on: 0 model calls"
    )


def test_a_restless_sampler_keeps_within_the_calls_of_an_iteration(host):
    for calls in (2, 3, 7, 9):
        got = draw(
            host,
            asked(steps=12, sampler_name="Restless"),
            refine=[{"same": True, "calls": calls, "iterations": 3}],
        )
        made = len(got.calls) - (3 * 11 + 1)
        assert (
            3 <= made <= 3 * max(calls, 3)
            and got.texts[0]["ISDO refine"] == f"3 iterations, {made} calls"
        )


NO_PAGES = (
    "", "[]", "{}", '{"sampler": "ISDO", "steps": "many"}', '{"sampler": "ISDO", "steps": "5", "refine": {"noise": "x"}}',
)  # fmt: skip


@pytest.mark.parametrize("page", NO_PAGES)
def test_what_is_no_page_is_refused(host, page):
    with pytest.raises(HTTPException) as said:
        sys.modules["isdo.hosts.calls"].told(page)
    assert said.value.status_code == 422


def test_without_a_checkpoint_the_host_s_count_is_taken(host):
    host.modules["modules.sd_models"].model_data.sd_model = None
    assert (
        "after 20 that draw it" in told({"sampler": "Heun", "steps": "10", "refine": {}})["refine"]
    )
    del host.modules["modules.sd_models"].model_data
    assert (
        "after 20 that draw it" in told({"sampler": "Heun", "steps": "10", "refine": {}})["refine"]
    )


@pytest.mark.parametrize("library", ["k_diffusion", None])  # reForge binds its part alone
def test_a_count_leaves_the_picture_s_noise_alone(host, library):
    """The host's own torch there hands out the noise of p, one picture after the other."""
    samplers = host.modules["modules.sd_samplers_kdiffusion"]
    sampling = SimpleNamespace(torch=(kept := object()))
    holder = SimpleNamespace(sampling=sampling)
    vars(samplers).update({"k_diffusion": holder} if library else {"sampling": sampling})
    before = torch.random.get_rng_state()
    with sys.modules["isdo.hosts.calls"].plain_noise():
        assert sampling.torch is torch
        torch.rand(1)
    assert sampling.torch is kept and torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(("solver", "a_step"), [("srk3", 3), ("srk4", 4), ("srk5", 6)])
def test_solvers_of_several_calls_a_step_are_counted_and_keep_the_host_s_steps(
    host, solver, a_step
):
    values = {"solver": solver}
    for ask in (
        {"steps": 6},
        {"steps": 5, "enable_hr": True, "hr_second_pass_steps": 3, "denoising_strength": 0.6},
    ):
        p = asked(sampler_name="ISDO", **ask)
        got, euler = draw(host, p, sampler=[values]), draw(host, asked(sampler_name="Euler", **ask))
        passes = [ask["steps"], 3] if "enable_hr" in ask else [ask["steps"]]
        made = sum(a_step * (steps - 1) + 1 for steps in passes)
        assert len(got.calls) == made
        assert (
            told(page_of(p, values=values))["sampler"]
            == f"{made} model calls a picture, {a_step} a step"
        )
        # every call of a step sees what Euler's one call saw: its number, its prompts
        seen, want = (
            [(c.step, c.total, c.prompts, c.negative) for c in run.calls] for run in (got, euler)
        )
        assert [part for i, part in enumerate(seen) if i == 0 or part != seen[i - 1]] == want
        assert (
            got.texts[0]["ISDO solver"] == solver
            and got.texts[0]["ISDO calls"] == a_step * (passes[-1] - 1) + 1
        )
        assert got.x.isfinite().all()
        if "enable_hr" not in ask:
            assert torch.allclose(
                got.x, draw(host, asked(sampler_name="ISDO", steps=60)).x, atol=0.3
            )


@pytest.mark.parametrize("solver", ["multistep", "srk4"])
def test_a_curvature_penalty_makes_three_calls_of_each_and_keeps_the_host_s_steps(host, solver):
    values, a_step = (
        {"solver": solver, "curvature_penalty": 1.0},
        3 * (4 if solver == "srk4" else 1),
    )
    for ask in (
        {"steps": 6},
        {"steps": 5, "enable_hr": True, "hr_second_pass_steps": 3, "denoising_strength": 0.6},
    ):
        p = asked(sampler_name="ISDO", **ask)
        got, euler = draw(host, p, sampler=[values]), draw(host, asked(sampler_name="Euler", **ask))
        passes = [ask["steps"], 3] if "enable_hr" in ask else [ask["steps"]]
        made = sum(a_step * (steps - 1) + 3 for steps in passes)
        assert len(got.calls) == made
        assert (
            told(page_of(p, values=values))["sampler"]
            == f"{made} model calls a picture, {a_step} a step"
        )
        seen, want = (
            [(c.step, c.total, c.prompts, c.negative) for c in run.calls] for run in (got, euler)
        )
        assert [part for i, part in enumerate(seen) if i == 0 or part != seen[i - 1]] == want
        assert got.texts[0]["ISDO curvature penalty"] == 1.0
        assert got.texts[0]["ISDO calls"] == a_step * (passes[-1] - 1) + 3
        # the double's model comes nowhere apart
        assert torch.equal(
            got.x, draw(host, asked(sampler_name="ISDO", **ask), sampler=[{"solver": solver}]).x
        )


def test_a_curvature_penalty_with_an_accuracy_keeps_within_the_steps(host):
    values = {"tolerance": 0.01, "curvature_penalty": 1.0}
    p = asked(sampler_name="ISDO", steps=40, batch_size=2)
    assert (
        told(page_of(p, values=values))["sampler"]
        == "at most 39 model calls a picture, as many as it needs"
    )
    got = draw(host, p, sampler=[values])
    plain = draw(
        host, asked(sampler_name="ISDO", steps=40, batch_size=2), sampler=[{"tolerance": 0.01}]
    )
    assert len(got.calls) == got.texts[0]["ISDO calls"] == 3 * len(plain.calls) and torch.equal(
        got.x, plain.x
    )
    assert [call.step for call in got.calls] == [3 * (i // 3) for i in range(len(got.calls))]
    assert (
        len(
            draw(
                host, asked(sampler_name="ISDO", steps=8), sampler=[{**values, "tolerance": 1e-4}]
            ).calls
        )
        == 6
    )


def test_refinement_with_a_curvature_penalty_keeps_within_its_calls(host):
    for calls in (3, 6, 7):
        p = asked(steps=12, sampler_name="ISDO")
        got = draw(
            host,
            p,
            sampler=[{"curvature_penalty": 1.0}],
            refine=[{"same": True, "iterations": 2, "calls": calls}],
        )
        made = len(got.calls) - 3 * 12
        assert (
            6 <= made <= 2 * calls and got.texts[0]["ISDO refine"] == f"2 iterations, {made} calls"
        )


def test_a_solver_that_sweeps_sees_each_step_as_euler_does_and_is_counted_at_most(host):
    values, p = {"solver": "trajectory"}, asked(sampler_name="ISDO", steps=5)
    got, euler = draw(host, p, sampler=[values]), draw(host, asked(sampler_name="Euler", steps=5))
    most = 30 * 4 + 1
    assert (
        told(page_of(p, values=values))["sampler"]
        == f"at most {most} model calls a picture, as many as it needs"
    )
    assert 9 <= len(got.calls) <= most and got.texts[0]["ISDO calls"] == len(got.calls)
    # every call at a step's level sees what Euler's one call there saw: its number, its prompts
    seen, want = (
        {c.step: (c.total, c.prompts, c.negative) for c in run.calls} for run in (got, euler)
    )
    assert seen == want
    assert [c.step for c in got.calls[:6]] == [0, 1, 2, 3, 4, 1]
    assert torch.allclose(got.x, draw(host, asked(sampler_name="ISDO", steps=60)).x, atol=0.3)


def test_refinement_by_such_a_solver_keeps_within_its_calls(host):
    for calls in (3, 4, 9):
        ask = asked(steps=12, sampler_name="ISDO")
        got = draw(
            host,
            ask,
            sampler=[{"solver": "srk4"}],
            refine=[{"same": True, "iterations": 2, "calls": calls}],
        )
        made = len(got.calls) - (4 * 11 + 1)
        assert (
            2 <= made <= 2 * max(calls, 4)
            and got.texts[0]["ISDO refine"] == f"2 iterations, {made} calls"
        )


def test_with_an_accuracy_the_steps_are_the_most_calls(host):
    p, values = asked(sampler_name="ISDO", steps=40, batch_size=2), {"tolerance": 0.01}
    assert (
        told(page_of(p, values=values))["sampler"]
        == "at most 40 model calls a picture, as many as it needs"
    )
    got = draw(host, p, sampler=[values])
    assert (
        3 < len(got.calls) < 40
        and got.texts[0]["ISDO calls"] == len(got.calls)
        and got.texts[0]["ISDO tolerance"] == 0.01
    )
    assert [call.step for call in got.calls] == list(range(len(got.calls)))
    alone = draw(host, asked(sampler_name="ISDO", steps=40, seed=2), sampler=[values])
    assert torch.equal(alone.x[0], got.x[1])
    assert (
        len(draw(host, asked(sampler_name="ISDO", steps=4), sampler=[{"tolerance": 1e-4}]).calls)
        == 4
    )


@pytest.mark.parametrize(
    ("ask", "values", "says"),
    [
        ({"scheduler": "KL Optimal"}, {"tolerance": 0.01}, "must end in 0"),
        ({}, {"tolerance": 0.01, "solver": "srk4"}, "cannot say how far off"),
        ({}, {"tolerance": 0.01, "corrector": 0}, "set corrector to 1"),
        ({}, {"tolerance": 1e-9}, "tolerance is 1e-09"),
        (
            {"steps": 2},
            {"tolerance": 0.01, "curvature_penalty": 1.0},
            "max_calls is 2, and with a curvature penalty",
        ),
    ],
)
def test_an_accuracy_that_cannot_be_kept_is_refused_in_words(host, ask, values, says):
    host.script.IsdoScript()
    p = asked(sampler_name="ISDO", **ask)
    with pytest.raises(HTTPException, match=says) as said:
        draw(host, p, sampler=[values])
    assert said.value.status_code == 422 and not host.seen
