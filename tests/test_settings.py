"""The settings: declared once, checked at birth."""

import dataclasses
import inspect
from typing import Literal

import numpy as np
import pytest
import torch

from isdo.settings import (
    FIELDS,
    HOST_FIELDS,
    INVERT_HOST_FIELDS,
    REFINE_FIELDS,
    REFINE_HOST_FIELDS,
    Declared,
    Field,
    HostSettings,
    InvertHostSettings,
    RefineHostSettings,
    RefineSettings,
    Settings,
    setting,
)

BY_KEY = {field.key: field for field in FIELDS}
# People give these by position, in Python and in API requests; what is new goes behind them.
POSITIONS = {
    Settings: "solver path modes order tau power corrector response basis placement tolerance max_calls draw repaint "
    "curvature_penalty window",
    RefineSettings: "iterations calls noise noise_decay floor strength strength_decay generators antithetic undo lock "
    "detail noise_scale tolerance",
    HostSettings: "strength",
    RefineHostSettings: "same show save",
    InvertHostSettings: "prompt negative_prompt cfg steps full",
}
NUMBERS = [field for field in FIELDS if not field.choices and field.kind is not bool]


@pytest.mark.parametrize("kind", POSITIONS, ids=lambda kind: kind.__name__)
def test_fields_and_attributes_agree(kind):
    attributes = {field.name: field.default for field in dataclasses.fields(kind)}
    assert attributes == {field.key: field.default for field in kind.fields}
    assert list(attributes) == [field.key for field in kind.fields] == POSITIONS[kind].split()
    assert dataclasses.asdict(kind()) == attributes


def test_an_attribute_declares_a_setting():
    grey = (("level", lambda level: level == 0),)

    @dataclasses.dataclass(frozen=True)
    class Two(Declared):
        level: float = setting(0.5, "Level", "ISDO level", "how much", low=0.0, high=2.0, step=0.1)
        way: Literal["up", "down"] = setting("up", "Way", "ISDO way", "where", rare=True, idle=grey)

    assert Two.fields == (
        Field("level", 0.5, float, "Level", "ISDO level", "how much", low=0.0, high=2.0, step=0.1),
        Field("way", "up", str, "Way", "ISDO way", "where", ("up", "down"), rare=True, idle=grey),
    )
    assert Two(1) == Two.from_dict({"level": 1.0}) and Two(1, "down").changed() == {
        "level": 1.0,
        "way": "down",
    }
    assert Two.level == 0.5  # the default, as of any dataclass
    assert Two.fields[1].counts({"level": 0.5}) and not Two.fields[1].counts({"level": 0})

    @dataclasses.dataclass(frozen=True)
    class Three(Two):
        count: int = setting(1, "Count", "ISDO count", "how many", low=0, high=9)

    assert [field.key for field in Three.fields] == ["level", "way", "count"] and len(
        Two.fields
    ) == 2
    assert dataclasses.astuple(Three(1, "down", 2)) == (1.0, "down", 2)
    for wrong in ({"level": 3}, {"way": "left"}, {"height": 1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Two.from_dict(wrong)


@pytest.mark.parametrize(
    "field",
    FIELDS + HOST_FIELDS + REFINE_FIELDS + REFINE_HOST_FIELDS + INVERT_HOST_FIELDS,
    ids=lambda field: field.infotext,
)
def test_every_field_says_what_it_is(field):
    assert field.check(field.default) == field.default and type(field.default) is field.kind
    assert field.label and field.help and field.infotext.startswith("ISDO ")
    # infotext is "key: value, key: value"
    assert not set(field.infotext) & set(":,\n") and not any(
        set(choice) & set(':,"\n') for choice in field.choices
    )


def test_labels_and_infotext_keys_are_told_apart():
    assert (
        len({field.label for field in FIELDS})
        == len({field.infotext for field in FIELDS})
        == len(FIELDS)
    )


def test_settings_are_frozen_and_comparable():
    settings = Settings()
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.order = 1
    assert settings == Settings() != Settings(order=1) and hash(settings) == hash(Settings())
    assert list(inspect.signature(Settings).parameters) == list(BY_KEY)


def test_dictionaries_there_and_back():
    given = {"order": 2, "basis": "cosine", "response": 0.5}
    settings = Settings.from_dict(given)
    assert settings == Settings(**given)
    assert settings.changed() == given and Settings().changed() == {}
    assert (
        Settings.from_dict(settings.changed()) == settings and Settings.from_dict({}) == Settings()
    )
    assert Settings.from_dict({"order": Settings().order}).changed() == {}


def test_unknown_settings_are_refused_by_name_with_those_that_exist():
    with pytest.raises(ValueError, match=r"unknown setting banana, ordre.*solver.*order"):
        Settings.from_dict({"ordre": 2, "order": 2, "banana": 1})


@pytest.mark.parametrize(
    "field", [field for field in FIELDS if field.choices], ids=lambda field: field.key
)
def test_every_choice_is_taken_and_no_other(field):
    for choice in field.choices:
        assert getattr(Settings(**{field.key: choice}), field.key) == choice
    for wrong in ("nothing", "", None, 1, field.choices[0].upper()):
        with pytest.raises(ValueError) as info:
            Settings(**{field.key: wrong})
        assert all(word in str(info.value) for word in (field.key, repr(wrong), *field.choices))


@pytest.mark.parametrize("field", NUMBERS, ids=lambda field: field.key)
def test_ranges_are_inclusive_and_closed(field):
    for value in (field.low, field.high):
        assert getattr(Settings(**{field.key: value}), field.key) == value
    for wrong in (field.low - 1, field.high + 1, float("nan"), float("inf"), -float("inf")):
        with pytest.raises(ValueError) as info:
            Settings(**{field.key: wrong})
        assert all(
            word in str(info.value)
            for word in (field.key, repr(wrong), str(field.low), str(field.high))
        )


@pytest.mark.parametrize("field", NUMBERS, ids=lambda field: field.key)
def test_what_is_no_number_is_refused(field):
    for wrong in ("2", None, True, [1]):
        with pytest.raises(ValueError, match=field.key):
            Settings(**{field.key: wrong})


@pytest.mark.parametrize(
    "field", [field for field in NUMBERS if field.kind is int], ids=lambda field: field.key
)
def test_whole_numbers(field):
    value = getattr(
        Settings(**{field.key: float(field.low)}), field.key
    )  # JSON and sliders say 2.0
    assert value == field.low and type(value) is int
    with pytest.raises(ValueError, match="whole number"):
        Settings(**{field.key: field.low + 0.5})


def test_values_are_read_back_from_text():
    switch = Field("switch", False, bool, "Switch", "ISDO switch", "on or off")
    for field in (*FIELDS, *HOST_FIELDS, switch):
        for value in (field.default, *field.choices):
            assert field.read(str(value)) == value and type(field.read(str(value))) is field.kind
    assert switch.read("True") is True
    for field, wrong in (
        (BY_KEY["order"], "two"),
        (BY_KEY["order"], "9"),
        (BY_KEY["tau"], "linear"),
        (switch, "1"),
    ):
        with pytest.raises(ValueError, match=f"{field.key} is '?{wrong}"):
            field.read(wrong)


NUMPY = {
    int: (np.int64, np.int32, np.uint8, np.float32, torch.tensor), float: (np.float64, np.float32, np.float16, torch.tensor),
    bool: (np.bool_, torch.tensor), str: (np.str_,),
}  # fmt: skip


@pytest.mark.parametrize(
    "field", FIELDS + HOST_FIELDS + REFINE_FIELDS, ids=lambda field: field.infotext
)
def test_numbers_of_numpy_are_numbers(field):
    value = field.default if field.kind is not int else min(field.default, 4)
    for kind in NUMPY[field.kind]:
        found = field.check(kind(value))
        assert type(found) is field.kind
        assert found == (value if field.kind in (bool, str) else pytest.approx(value, rel=1e-3))
    if field.kind in (int, float):
        for wrong in (
            np.array([value]),
            np.array([value, value]),
            np.float64("nan"),
            np.str_("1"),
            np.bool_(True),
        ):
            with pytest.raises(ValueError, match=f"{field.key} is "):
                field.check(wrong)


def test_settings_of_numpy_s_numbers_are_the_same_settings():
    assert Settings(order=np.int64(3), placement=np.float64(0.5)) == Settings(
        order=3, placement=0.5
    )
    assert RefineSettings(iterations=np.int32(2), undo=np.bool_(False)) == RefineSettings(
        iterations=2, undo=False
    )
