"""The scenario reference says what the dataclasses say."""

import dataclasses
import importlib.util
import re
import tomllib
import typing
from pathlib import Path

import pytest

from convoy_simulation.faults import read_faults
from convoy_simulation.scenario import Scenario

SCRIPT = Path(__file__).parents[2] / "docs/generate_scenario_reference.py"


@pytest.fixture(scope="module")
def reference():
    spec = importlib.util.spec_from_file_location("generate_scenario_reference", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclasses.dataclass
class Explained:
    """Something.

    Attributes:
        speed_mps: How fast: in
            two lines.
        names: Who.

    Raises:
        ValueError: Never.
    """

    speed_mps: float = 1.0
    names: tuple[str, ...] = ()


@dataclasses.dataclass
class Unexplained:
    """Something.

    Attributes:
        speed_mps: How fast.
    """

    speed_mps: float = 1.0
    colour: str = "red"


def test_explanations_come_from_the_docstring(reference):
    assert reference.attributes(Explained) == {
        "speed_mps": "How fast: in two lines.",
        "names": "Who.",
    }


def test_a_field_without_an_explanation_is_an_error(reference):
    with pytest.raises(ValueError, match="Unexplained: colour is not explained"):
        reference.attributes(Unexplained)


def test_every_table_of_a_scenario_is_on_the_page(reference):
    page = reference.page()
    for item in dataclasses.fields(Scenario):
        if dataclasses.is_dataclass(typing.get_type_hints(Scenario)[item.name]):
            assert f"\n## [{item.name}]\n" in page, item.name
    assert "\n| `server_momentum` | number | `0.9` | Of fed_avg_m, in [0, 1). |\n" in page


def test_the_example_of_faults_can_be_read(reference):
    (example,) = re.findall(r"```toml\n(.*?)```", reference.FAULTS_TEXT, re.DOTALL)
    rules = read_faults(tomllib.loads(example)["faults"]).vehicles
    assert {rule.kind for rule in rules.values()} == {"nan", "truncated"}


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (int, "integer"),
        (str | None, "text or nothing"),
        (tuple[float, ...], "list of number"),
        (typing.Literal["a", "b"], '`"a"`, `"b"`'),
    ],
)
def test_types_are_named_as_toml_knows_them(reference, kind, name):
    assert reference.type_name(kind) == name


@pytest.mark.parametrize(
    ("value", "text"), [(None, "nothing"), (True, "`true`"), ((1, 2), "`[1, 2]`"), ("x", '`"x"`')]
)
def test_defaults_are_written_as_in_the_file(reference, value, text):
    assert reference.toml(value) == text
