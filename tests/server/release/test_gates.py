"""Which figures a release must reach."""

from dataclasses import replace

import pytest

from convoy_server.release.config import ReleaseConfig
from convoy_server.release.gates import AT_LEAST, Measurements, gate, judge, refusal

CONFIG = ReleaseConfig(
    max_student_accuracy_drop=0.05,
    max_int8_accuracy_drop=0.01,
    max_parity_difference=1e-4,
    min_int8_agreement=0.97,
    max_steering_change=0.005,
    max_int8_size_ratio=0.30,
    max_int8_latency_ratio=0.70,
    min_closed_loop_score=0.5,
)

GOOD = Measurements(
    global_accuracy=0.80,
    student_accuracy=0.78,
    fp32_accuracy=0.78,
    int8_accuracy=0.775,
    parity_difference=1e-6,
    int8_agreement=0.99,
    int8_steering_change=0.001,
    trt_agreement=0.98,
    trt_steering_change=0.002,
    fp32_bytes=400_000,
    int8_bytes=110_000,
    torch_p50_ms=1.0,
    fp32_p50_ms=0.4,
    int8_p50_ms=0.2,
    closed_loop_score=0.9,
)


def test_a_good_candidate_passes_every_gate():
    gates = judge(GOOD, CONFIG, closed_loop=True)

    assert {item.name: item.value for item in gates} == pytest.approx(
        {
            "student_accuracy_drop": 0.02,
            "int8_accuracy_drop": 0.005,
            "parity_difference": 1e-6,
            "int8_agreement": 0.99,
            "int8_steering_change": 0.001,
            "trt_agreement": 0.98,
            "trt_steering_change": 0.002,
            "int8_size_ratio": 0.275,
            "int8_latency_ratio": 0.5,
            "closed_loop_score": 0.9,
        }
    )
    assert all(item.passed for item in gates)


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        ({"student_accuracy": 0.70}, "student_accuracy_drop"),
        ({"int8_accuracy": 0.76}, "int8_accuracy_drop"),
        ({"parity_difference": 1e-3}, "parity_difference"),
        ({"int8_agreement": 0.9}, "int8_agreement"),
        ({"int8_steering_change": 0.01}, "int8_steering_change"),
        ({"trt_agreement": 0.9}, "trt_agreement"),
        ({"trt_steering_change": 0.01}, "trt_steering_change"),
        ({"int8_bytes": 130_000}, "int8_size_ratio"),
        ({"int8_p50_ms": 0.3}, "int8_latency_ratio"),
        ({"closed_loop_score": 0.4}, "closed_loop_score"),
        ({"int8_accuracy": None}, "int8_accuracy_drop"),  # not measured is not passed
        ({"parity_difference": float("nan")}, "parity_difference"),  # nor is no number
        ({"fp32_bytes": 0}, "int8_size_ratio"),
    ],
)
def test_each_gate_refuses_on_its_own(change, refused):
    gates = judge(replace(GOOD, **change), CONFIG, closed_loop=True)

    assert [item.name for item in gates if not item.passed] == [refused]


@pytest.mark.parametrize("name", ["parity_difference", *sorted(AT_LEAST)])
def test_the_limit_itself_passes(name):
    assert gate(name, 0.5, 0.5).passed


def test_a_student_better_than_its_teacher_passes():
    gates = judge(replace(GOOD, student_accuracy=0.9), CONFIG, closed_loop=False)

    assert gates[0].value == pytest.approx(-0.1)
    assert gates[0].passed


def test_without_a_road_there_is_no_closed_loop_gate():
    gates = judge(GOOD, CONFIG, closed_loop=False)

    assert "closed_loop_score" not in {item.name for item in gates}


def test_without_a_file_for_tensorrt_there_are_no_gates_for_it():
    gates = judge(GOOD, replace(CONFIG, tensorrt=False), closed_loop=True)

    assert not [item.name for item in gates if item.name.startswith("trt")]


def test_nothing_measured_means_nothing_passed():
    assert not any(item.passed for item in judge(Measurements(), CONFIG, closed_loop=True))


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (gate("int8_agreement", 0.5, 0.97), "int8_agreement is 0.5, must be at least 0.97"),
        (gate("int8_size_ratio", 0.4, 0.3), "int8_size_ratio is 0.4, must be at most 0.3"),
        (
            gate("int8_size_ratio", None, 0.3),
            "int8_size_ratio was not measured, must be at most 0.3",
        ),
    ],
)
def test_a_refusal_says_what_was_expected_and_got(item, words):
    assert refusal(item) == words
