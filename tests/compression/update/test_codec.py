"""Which update codecs there are, and that each keeps the seam's promises."""

import numpy as np
import pytest

from convoy_compression.errors import CompressionError
from convoy_compression.update.codec import UpdateConfig, codec_on_wire

WIRE_NAMES = ("sealed/1", "float16/1", "float32/1")
every_codec = pytest.mark.parametrize(
    "codec", [codec_on_wire(name, UpdateConfig()) for name in WIRE_NAMES], ids=WIRE_NAMES
)


def test_updates_are_masked_unless_asked_otherwise():
    assert UpdateConfig().wire_name == "masked/1"


@pytest.mark.parametrize("name", ["zip/1", "masked/1", "float32/2"])
def test_a_codec_that_no_update_travels_in_alone_is_refused_and_the_known_ones_named(name):
    with pytest.raises(ValueError, match="one of sealed/1, float16/1, float32/1"):
        codec_on_wire(name, UpdateConfig())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"modulus_bits": 1}, "modulus_bits must be in 2..16"),
        ({"shard_size": 129}, "shard_size"),
        ({"shard_size": 4097, "helpers": 1}, "shard_size"),
        ({"helpers": 9}, "helpers must be in 0..8"),
        ({"helpers": 1, "codec": "sealed"}, "codec must be masked"),
        ({"minimum_cohort": 1}, "minimum_cohort"),  # the sum over one vehicle is its update
        ({"minimum_cohort": 9, "shard_size": 8}, "at most shard_size"),
        ({"exchange_deadline_s": 0.0}, "exchange_deadline_s"),
        ({"range_slack": 0.9}, "range_slack"),
        ({"sealed_step": float("nan")}, "sealed_step"),
    ],
    ids=str,
)
def test_impossible_settings_are_named(settings, words):
    with pytest.raises(ValueError, match=words):
        UpdateConfig(**settings)


def test_with_helpers_a_shard_may_be_larger():
    assert UpdateConfig(helpers=1, shard_size=4096).shard_size == 4096


@pytest.mark.parametrize(
    ("settings", "source"),
    [({}, "peers"), ({"helpers": 2}, "helpers"), ({"codec": "sealed"}, None)],
)
def test_the_source_of_masks_follows_from_the_helpers(settings, source):
    assert UpdateConfig(**settings).mask_source == source


@every_codec
def test_the_name_on_the_wire_is_that_of_the_setting(codec):
    assert UpdateConfig(codec=codec.name.split("/")[0]).wire_name == codec.name


@every_codec
def test_a_payload_keeps_to_its_limit_and_adds_up(codec):
    update_N = np.linspace(-1.0, 1.0, 1000, dtype=np.float32)
    payload = codec.encode(update_N)
    assert len(payload) <= codec.payload_limit(1000)
    accumulator = codec.accumulator(1000)
    accumulator.add(memoryview(payload), 5.0)
    assert (accumulator.count, accumulator.total_weight) == (1, 5.0)
    rounding = 0.6 if codec.name == "sealed/1" else 0.001
    np.testing.assert_allclose(accumulator.mean(), update_N, atol=rounding)


@every_codec
def test_a_payload_cut_anywhere_is_refused(codec):
    payload = codec.encode(np.ones(20, np.float32))
    for length in range(len(payload)):
        with pytest.raises(CompressionError):
            codec.accumulator(20).add(memoryview(payload)[:length], 1.0)
