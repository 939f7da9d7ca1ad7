"""Settings tables become dataclasses strictly: what is unknown or of another type is an error."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convoy_protos.errors import SettingsError, UsageError
from convoy_protos.settings import from_table, to_table


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """A nested table."""

    radius: float = 0.3
    spokes: int = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Car:
    """One of every kind of field."""

    name: str = "car"
    wheels: int = 4
    mass: float = 1000.0
    electric: bool = False
    colour: Literal["red", "blue"] = "red"
    owner: str | None = None
    tags: tuple[str, ...] = ()
    wheel: Wheel = field(default_factory=Wheel)
    spares: tuple[Wheel, ...] = ()
    prices: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.wheels < 3:
            raise ValueError(f"wheels must be at least 3, got {self.wheels}")


def test_an_empty_table_gives_the_defaults():
    assert from_table(Car, {}, "[car]") == Car()


def test_every_kind_of_field_is_read():
    table = {
        "name": "van",
        "wheels": 6,
        "mass": 2,  # TOML writes whole numbers without a point
        "electric": True,
        "colour": "blue",
        "owner": "me",
        "tags": ["old", "slow"],
        "wheel": {"radius": 0.5},
        "spares": [{"spokes": 7}, {}],
        "prices": {"new": 3, "used": 1.5},
    }
    assert from_table(Car, table, "[car]") == Car(
        name="van",
        wheels=6,
        mass=2.0,
        electric=True,
        colour="blue",
        owner="me",
        tags=("old", "slow"),
        wheel=Wheel(radius=0.5),
        spares=(Wheel(spokes=7), Wheel()),
        prices={"new": 3.0, "used": 1.5},
    )


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"electrc": 4}, r"\[car\]: unknown key 'electrc'; did you mean 'electric'\?"),
        ({"zzz": 4}, r"\[car\]: unknown key 'zzz'; known are name, wheels"),
        ({"wheels": "four"}, r"\[car\] wheels: expected int, got 'four'"),
        ({"wheels": 4.0}, r"expected int, got 4.0"),
        ({"wheels": True}, r"expected int, got True"),
        ({"mass": True}, r"expected float, got True"),
        ({"mass": "1"}, r"expected float, got '1'"),
        ({"electric": 1}, r"expected bool, got 1"),
        ({"name": None}, r"expected str, got None"),
        ({"colour": "green"}, r"expected one of red, blue, got 'green'"),
        ({"tags": "old"}, r"\[car\] tags: expected list, got 'old'"),
        ({"tags": [1]}, r"\[car\] tags: expected str, got 1"),
        ({"wheel": 3}, r"\[car\] wheel: expected dict, got 3"),
        ({"wheel": {"radiuz": 1}}, r"\[car\] wheel: unknown key 'radiuz'"),
        ({"spares": [{"spokes": "x"}]}, r"\[car\] spares spokes: expected int"),
        ({"prices": {"new": "much"}}, r"\[car\] prices.new: expected float"),
        ({"wheels": 2}, r"\[car\]: wheels must be at least 3, got 2"),
    ],
)
def test_a_bad_table_is_refused_and_the_key_named(table, message):
    with pytest.raises(SettingsError, match=message):
        from_table(Car, table, "[car]")


def test_settings_errors_are_usage_errors():
    assert issubclass(SettingsError, UsageError)
    assert issubclass(SettingsError, ValueError)


cars = st.builds(
    Car,
    name=st.text(),
    wheels=st.integers(3, 10),
    mass=st.floats(allow_nan=False),
    electric=st.booleans(),
    colour=st.sampled_from(["red", "blue"]),
    owner=st.none() | st.text(),
    tags=st.lists(st.text()).map(tuple),
    wheel=st.builds(Wheel, radius=st.floats(allow_nan=False), spokes=st.integers()),
    spares=st.lists(st.builds(Wheel, spokes=st.integers()), max_size=3).map(tuple),
    prices=st.dictionaries(st.text(), st.floats(allow_nan=False), max_size=3),
)


@given(cars)
def test_a_table_made_from_settings_gives_them_back(car):
    assert from_table(Car, to_table(car), "[car]") == car
