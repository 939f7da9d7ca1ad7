"""Whatever is not a driving model is refused before it is loaded, by the check that is for it."""

import numpy as np
import onnx
import pytest
from onnx import helper

from convoy_edge_client.preflight.model_file import OPERATORS, driver_contract, examine
from convoy_edge_client.preflight.preflight_config import FileLimits
from convoy_protos.findings import Level, problems
from convoy_simulation.releases import small_release
from convoy_simulation.releases.bad_models import (
    BAD_MODELS,
    SOUND,
    memory_bomb_of_allowed_operators,
)

CHECKS = ["format", "operators", "external data", "weights", "contract"]


def look_at(content, **limits):
    contract = driver_contract(small_release.HEIGHT, small_release.WIDTH)
    return examine(content, "fp32", contract, FileLimits(**limits))


def test_a_sound_model_passes_every_check():
    findings = look_at(SOUND)

    assert [finding.subject for finding in findings] == [f"fp32 {check}" for check in CHECKS]
    assert {finding.level for finding in findings} == {Level.OK}


@pytest.mark.parametrize("name", BAD_MODELS)
def test_a_bad_model_is_refused_by_the_check_that_is_for_it(name):
    content, check = BAD_MODELS[name]

    found = problems(look_at(content))

    assert f"fp32 {check}" in [finding.subject for finding in found]
    assert not any("\n" in finding.message for finding in found)


def test_a_refusal_names_what_it_found():
    def message(name):
        return " ".join(finding.message for finding in problems(look_at(BAD_MODELS[name][0])))

    assert "operator com.evil:Cast is not on the list" in message("custom_operator")
    assert "constant kernel holds 3e+38, at most 10000 allowed" in message("weights_of_3e38")
    assert "constant kernel lies in another file" in message("external_absolute")
    assert "expected opset 13..18, got 27" in message("opset_27")
    assert "shape (batch, 16, 20, 3), got 2 and (batch, 240, 20, 3)" in message("wrong_height")


def test_what_the_list_cannot_tell_is_left_to_the_trial():
    assert not problems(look_at(memory_bomb_of_allowed_operators()))


def test_limits_are_those_of_the_configuration():
    assert not problems(look_at(BAD_MODELS["opset_27"][0], newest_opset=27))
    assert problems(look_at(SOUND, largest_weight=0.1))


def test_a_constant_inside_a_node_is_looked_at_as_well():
    hidden = onnx.numpy_helper.from_array(np.full(3, np.nan, np.float32), "hidden")
    made = small_release.model()
    made.graph.node[0].attribute.append(helper.make_attribute("value", hidden))

    found = problems(look_at(made.SerializeToString()))

    assert [finding.subject for finding in found] == ["fp32 weights"]


def test_nothing_on_the_list_repeats_makes_or_reads():
    forbidden = {"Loop", "If", "Scan", "ConstantOfShape", "Range", "Tile", "Resize", "RandomNormal"}

    assert not OPERATORS & (forbidden | {"SequenceMap", "NonZero", "StringConcat", "Einsum"})
