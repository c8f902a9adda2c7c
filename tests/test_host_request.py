"""What a picture asks of ISDO, and its way through the infotext."""

import json
import re
from pathlib import Path

import pytest

from isdo.hosts import request
from isdo.hosts.request import (
    CONTROLS,
    INVERT,
    REFINE,
    REFINE_CONTROLS,
    SAMPLER,
    refine_settings,
)
from isdo.settings import FIELDS, INVERT_HOST_FIELDS, PRESETS, RefineSettings, Settings

ROOT = Path(__file__).parents[1]
DEFAULTS = {field.key: field.default for field in CONTROLS}
OTHER = {"solver": "srk4", "path": "flow", "modes": 8, "order": 2, "tau": "root", "power": "zero", "corrector": 0,
         "response": 0.25, "basis": "cosine", "placement": 0.5, "strength": "noise level", "tolerance": 0.1,
         "draw": 9, "repaint": 4.0,
         "curvature_penalty": 0.5}  # fmt: skip


def test_every_setting_has_another_value_to_try():
    assert list(OTHER) == list(DEFAULTS)
    assert [key for key in OTHER if OTHER[key] == DEFAULTS[key]] == [
        f.key for f in CONTROLS if len(f.choices) == 1
    ]


def test_keys_labels_and_infotext_names_are_told_apart():
    for names in zip(
        *((field.key, field.label, field.infotext) for field in CONTROLS), strict=True
    ):
        assert len(set(names)) == len(CONTROLS)
    assert "enabled" not in DEFAULTS and len(set(SAMPLER.infotext_keys)) == len(CONTROLS) + 1


def test_a_list_is_enabled_and_then_the_settings_in_order():
    assert SAMPLER.read_args([True, *OTHER.values()]) == OTHER
    assert SAMPLER.read_args([True, "srk3", None, 8]) == {"solver": "srk3", "modes": 8}


@pytest.mark.parametrize(
    "args", [[], [False], [None], [False, *OTHER.values()], [{"enabled": False, "order": 2}]]
)
def test_what_is_off_asks_for_nothing(args):
    assert SAMPLER.read_args(args) is None


def test_names_need_not_say_enabled():
    assert SAMPLER.read_args([{"order": 2, "tau": None}]) == {"order": 2}
    assert SAMPLER.read_args([{"enabled": True, "order": 2}, "the page's", "values"]) == {
        "order": 2
    }


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([True, "euler"], "solver is 'euler'"),
        ([False, "euler"], "solver is 'euler'"),
        ([True, *OTHER.values(), 1], "17 arguments"),
        ([1], "enabled is 1"),
        ([{"ordr": 2}], "no setting ordr"),
        ([{"enabled": "yes"}], "enabled is 'yes'"),
        ([{"order": 9}], "order is 9.*from 1 to 4"),
        ([{"order": "2"}], "order is '2'"),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(args, said):
    with pytest.raises(ValueError, match=said):
        SAMPLER.read_args(args)


def test_the_nearer_word_counts():
    stored, axes = {"order": 2, "tau": "log"}, {"order": 4}
    assert SAMPLER.resolve({}) == SAMPLER.resolve({}, None, None) == DEFAULTS
    assert SAMPLER.resolve(stored, {"order": 3}, axes) == {**DEFAULTS, "order": 4, "tau": "log"}
    assert SAMPLER.resolve(stored, {"order": 3})["order"] == 3
    with pytest.raises(ValueError, match="Settings > ISDO: order is 7"):
        SAMPLER.resolve({"order": 7})


def test_the_solver_gets_its_own_settings():
    assert request.solver_settings(OTHER) == Settings(
        **{field.key: OTHER[field.key] for field in FIELDS if field.key in OTHER}
    )


def test_the_infotext_tells_what_differs_and_nothing_else():
    params = {"Steps": 8, request.CALLS: 16, "ISDO order": 2}
    SAMPLER.write(params, DEFAULTS)
    assert params == {"Steps": 8}
    SAMPLER.write(params, {**DEFAULTS, "response": 0.25})
    assert params == {"Steps": 8, "ISDO response": 0.25}
    SAMPLER.clear(params)
    assert params == {"Steps": 8}


@pytest.mark.parametrize("place", ["Sampler", "Hires sampler"])
@pytest.mark.parametrize("values", [DEFAULTS, OTHER])
def test_the_infotext_comes_back_as_it_went(place, values):
    params = {}
    SAMPLER.write(params, values)
    text = {key: str(value) for key, value in params.items()}
    assert SAMPLER.read({"Sampler": "Euler", **text, place: "ISDO"}) == values


def test_pictures_of_others_and_bad_infotext():
    assert SAMPLER.read({"Sampler": "Euler", "ISDO order": "2"}) is None
    for wrong in ("9", "two", "2.5"):
        with pytest.raises(ValueError, match="order is"):
            SAMPLER.read({"Sampler": "ISDO", "ISDO order": wrong})


def test_the_schema_describes_every_setting():
    schema = request.schema()
    assert (
        schema["args"] == ["enabled", *DEFAULTS]
        and {k: v["default"] for k, v in schema["settings"].items()} == DEFAULTS
    )
    for key, value in OTHER.items():
        what = schema["settings"][key]
        assert (
            value in what["choices"]
            if "choices" in what
            else what["minimum"] <= value <= what["maximum"]
        )


def test_the_documentation_lists_every_preset():
    text = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    for name, changed in PRESETS.items():
        (row,) = [line for line in text.splitlines() if line.startswith(f"| {name} |")]
        assert all(str(value) in row for value in changed.values())


def test_the_documentation_lists_every_setting():
    lines = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line.startswith("| ") and " | `" in line]
    for field in (*CONTROLS, *REFINE_CONTROLS):
        allowed = (
            ", ".join(field.choices)
            if field.choices
            else f"{field.low} to {field.high}".replace(".0", "")
        )
        allowed = "true, false" if field.kind is bool else allowed
        default = str(field.default).lower() if field.kind is bool else field.default
        assert f"| {field.label} | `{field.key}` | {default} | {allowed} | {field.help} |" in rows
    for field in INVERT_HOST_FIELDS:
        allowed = (
            "true, false"
            if field.kind is bool
            else f"{field.low} to {field.high}".replace(".0", "")
        )
        default = str(field.default).lower() if field.kind is bool else field.default
        default, allowed = ("empty", "any text") if field.is_text else (default, allowed)
        assert f"| {field.label} | `{field.key}` | {default} | {allowed} | {field.help} |" in rows
    assert len(rows) == len(CONTROLS) + len(REFINE_CONTROLS) + len(INVERT_HOST_FIELDS)


def test_the_documentation_s_requests_are_taken():
    """By name and in order; each asks for something."""
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    requests = [json.loads(each) for each in re.findall(r"```json\n(.*?)```", text, re.S)]
    asked = []
    for each in requests:
        assert set(each) <= {
            *("prompt", "steps", "sampler_name", "scheduler", "init_images"),
            *("alwayson_scripts", "script_name", "script_args"),
        }
        for name, block in each.get("alwayson_scripts", {}).items():
            form = {"ISDO": SAMPLER, "ISDO refine": REFINE}[name]
            asked.append((name, form.read_args(block["args"])))
        if "script_name" in each:
            form = {"ISDO refine": REFINE, "ISDO invert": INVERT}[each["script_name"]]
            asked.append((form.name, form.read_args(each["script_args"], switch=False)))
    assert asked == [
        ("ISDO", {"order": 2, "strength": "noise level"}),
        ("ISDO", {"draw": 12, "repaint": 1.0, "tolerance": 0.0}),
        ("ISDO", {"solver": "multistep", "path": "auto", "modes": 65536, "order": 2}),
        ("ISDO refine", {"noise": 0.5}),
        ("ISDO refine", {"noise": 0.5, "lock": 2}),
        ("ISDO invert", {"prompt": "a cat", "steps": 30}),
    ]
    assert len(requests) == 1 + len(asked)


@pytest.mark.parametrize("drawn", range(0, 40))
def test_the_refinement_as_it_comes_costs_no_more_than_the_picture(drawn):
    got = refine_settings(REFINE.defaults, drawn)
    assert 1 <= got.iterations * got.calls <= max(drawn, 1)
    assert got.calls == min(3, max(drawn, 1)) and (got == RefineSettings()) is (drawn >= 12)
    for asked in ({"iterations": 5}, {"calls": 2}, {"iterations": 1}):
        chosen = refine_settings(REFINE.defaults | asked, drawn)
        assert chosen == RefineSettings(**asked)
    assert (
        refine_settings(REFINE.defaults | {"noise": 2.0, "lock": 0}, drawn).iterations
        == got.iterations
    )


def test_a_script_s_list_has_no_switch():
    assert (
        REFINE.read_args([2, 3], switch=False) == {"iterations": 2, "calls": 3}
        and REFINE.read_args([], switch=False) == {}
    )
    assert REFINE.read_args([{"noise": 0.5}], switch=False) == {"noise": 0.5}
    for wrong, said in (
        ([True], "iterations is True"),
        ([{"enabled": True}], "setting enabled"),
        ([1] * 18, "18 arguments"),
    ):
        with pytest.raises(ValueError, match=said):
            REFINE.read_args(wrong, switch=False)
    assert REFINE.read_args([True]) == {} and REFINE.read_args([False, 2]) is None


def test_what_was_refined_is_told_and_read():
    values = {**REFINE.defaults, "undo": False, "noise": 0.5, "generators": "all"}
    params = {"Steps": 8}
    REFINE.write(params, values)
    assert params == {
        "Steps": 8,
        "ISDO refine undo": False,
        "ISDO refine noise": 0.5,
        "ISDO refine generators": "all",
    }
    text = {key: str(value) for key, value in params.items()}
    assert (
        REFINE.read(text) is None
        and REFINE.read({**text, "ISDO refine": "1 iteration, 3 calls"}) == values
    )
    REFINE.clear(params)
    assert params == {"Steps": 8}


def test_the_two_forms_share_no_name():
    assert not set(SAMPLER.infotext_keys) & set(REFINE.infotext_keys)
    options = [form.option(field) for form in (SAMPLER, REFINE) for field in form.fields]
    assert len(set(options)) == len(options)
