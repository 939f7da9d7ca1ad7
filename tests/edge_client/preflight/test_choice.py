"""Which variant drives where."""

import math

import pytest

from convoy_edge_client.preflight.choice import Trial, choose, objection
from convoy_edge_client.preflight.preflight_config import FileLimits, PreflightConfig, Provider
from convoy_edge_client.preflight.trial_order import TrialResult
from convoy_protos.errors import SettingsError
from convoy_protos.release_manifest import Variant
from convoy_protos.settings import from_table

CONFIG = PreflightConfig(frame_period_ms=50.0, largest_period_share=0.5)


def trial(variant, provider=Provider.CPU, p50_ms=1.0, **result):
    return Trial(variant=variant, provider=provider, result=TrialResult(p50_ms=p50_ms, **result))


def test_the_faster_integer_form_drives():
    trials = [
        trial(Variant.INT8_CPU, p50_ms=0.9),
        trial(Variant.INT8_TRT, p50_ms=0.7),  # as on some ARM cores
        trial(Variant.FP32, p50_ms=2.0),
    ]

    assert choose(trials, CONFIG).variant is Variant.INT8_TRT


def test_the_faster_one_that_fails_does_not_count():
    trials = [
        trial(Variant.INT8_CPU, p50_ms=0.9),
        trial(Variant.INT8_TRT, p50_ms=0.7, difference=0.3),
    ]

    assert choose(trials, CONFIG).variant is Variant.INT8_CPU


def test_the_first_provider_wins_even_where_a_later_one_is_faster():
    trials = [
        trial(Variant.FP32, Provider.CPU, p50_ms=0.1),
        trial(Variant.INT8_TRT, Provider.TENSORRT, p50_ms=0.3),
    ]

    assert choose(trials, CONFIG).provider is Provider.TENSORRT


@pytest.mark.parametrize(("float_ms", "chosen"), [(0.9, Variant.INT8_CPU), (0.8, Variant.FP32)])
def test_float32_must_be_clearly_faster(float_ms, chosen):
    trials = [trial(Variant.INT8_CPU, p50_ms=1.0), trial(Variant.FP32, p50_ms=float_ms)]

    assert choose(trials, CONFIG).variant is chosen


def test_a_provider_on_which_nothing_passes_is_skipped():
    trials = [
        trial(Variant.INT8_TRT, Provider.TENSORRT, fault="ended by SIGSEGV"),
        trial(Variant.FP32, Provider.CUDA, difference=0.1),
        trial(Variant.INT8_CPU, Provider.CPU),
    ]

    chosen = choose(trials, CONFIG)

    assert (chosen.variant, chosen.provider) == (Variant.INT8_CPU, Provider.CPU)


def test_where_nothing_passes_nothing_drives():
    assert choose([trial(Variant.FP32, fault="crashed")], CONFIG) is None
    assert choose([], CONFIG) is None


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ({}, ""),
        ({"p50_ms": 25.0}, ""),  # the limit itself passes
        ({"p50_ms": 25.1}, "takes 25.1 ms a frame, at most 25 ms"),
        ({"p50_ms": math.nan}, "takes nan"),
        ({"difference": 1e-3}, ""),
        ({"difference": 2e-3}, "0.002 off the golden vectors, at most 0.001"),
        ({"difference": math.nan}, "nan off the golden vectors"),
        ({"fault": "crashed", "difference": 9.0}, "crashed"),
    ],
)
def test_the_objection_says_what_was_found_and_allowed(result, words):
    found = objection(trial(Variant.FP32, **result), CONFIG)

    assert words in found
    assert bool(found) == bool(words)


def test_integers_may_differ_more_than_floats():
    assert not objection(trial(Variant.INT8_CPU, difference=0.04), CONFIG)


@pytest.mark.parametrize(
    ("table", "named"),
    [
        ({"providers": []}, "providers"),
        ({"providers": ["cpu", "cpu"]}, "providers"),
        ({"providers": ["rocm"]}, "providers"),
        ({"frame_period_ms": 0.0}, "frame_period_ms"),
        ({"largest_period_share": 1.5}, "largest_period_share"),
        ({"trial_s": math.inf}, "trial_s"),
        ({"memory_mb": 10}, "memory_mb"),
        ({"repetitions": 0}, "repetitions"),
        ({"file": {"oldest_opset": 19}}, "oldest_opset"),
        ({"file": {"largest_weight": math.nan}}, "largest_weight"),
    ],
)
def test_a_setting_out_of_range_is_named(table, named):
    with pytest.raises(SettingsError, match=named):
        from_table(PreflightConfig, table, "[preflight]")


def test_the_defaults_take_what_the_server_writes():
    limits = FileLimits()

    assert limits.newest_opset == 18
    assert limits.newest_ir == 8
