"""Which update codecs there are, and that each keeps the seam's promises."""

import numpy as np
import pytest

from convoy_compression.errors import CompressionError
from convoy_compression.update.codec import CODECS, UpdateConfig, codec_for, codec_on_wire

every_codec = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)


def test_the_default_codec_exists():
    assert codec_for(UpdateConfig().codec).name == "float32/1"


@pytest.mark.parametrize("find", [codec_for, codec_on_wire, lambda name: UpdateConfig(codec=name)])
def test_an_unknown_codec_is_refused_and_the_known_ones_named(find):
    with pytest.raises(ValueError, match=r"one of float32.*got 'zip'"):
        find("zip")


@every_codec
def test_the_name_on_the_wire_leads_back_to_the_codec(codec):
    assert codec_on_wire(codec.name) is codec


@every_codec
def test_a_payload_keeps_to_its_limit_and_adds_up(codec):
    update_N = np.linspace(-1.0, 1.0, 1000, dtype=np.float32)
    payload = codec.encode(update_N)
    assert len(payload) <= codec.payload_limit(1000)
    accumulator = codec.accumulator(1000)
    accumulator.add(memoryview(payload), 5.0)
    assert (accumulator.count, accumulator.total_weight) == (1, 5.0)
    np.testing.assert_allclose(accumulator.mean(), update_N, atol=0.02)


@every_codec
def test_a_payload_cut_anywhere_is_refused(codec):
    payload = codec.encode(np.ones(20, np.float32))
    for length in range(len(payload)):
        with pytest.raises(CompressionError):
            codec.accumulator(20).add(memoryview(payload)[:length], 1.0)
