"""Check, clip, encode, seal, in this order."""

import numpy as np
import pytest

from convoy_compression.update.codec import codec_for
from convoy_edge_client.errors import DivergedTrainingError
from convoy_edge_client.update_pipeline import seal_update
from convoy_privacy.privacy_config import PrivacyConfig
from convoy_protos.envelope import unpack
from convoy_protos.v1.federation_pb2 import UpdateHeader

NO_CLIPPING = PrivacyConfig()


def a_header():
    return UpdateHeader(vehicle_id="car3", round=4, example_count=10)


def test_an_update_arrives_as_it_was_with_its_header_filled_in():
    update_N = np.array([0.5, -2.0, 3.0], np.float32)

    header, payload = unpack(seal_update(update_N, a_header(), codec_for("float32"), NO_CLIPPING))

    np.testing.assert_array_equal(np.frombuffer(payload, "<f4"), update_N)
    assert (header.vehicle_id, header.round, header.example_count) == ("car3", 4, 10)
    assert (header.codec, header.parameter_count) == ("float32/1", 3)


@pytest.mark.parametrize(
    ("clip_norm", "factor"),
    [
        (1.0, 0.2),  # the norm is 5
        (5.0, 1.0),
        (50.0, 1.0),  # never scaled up
    ],
)
def test_an_update_is_clipped_before_it_is_encoded(clip_norm, factor):
    update_N = np.array([3.0, 4.0], np.float32)

    blob = seal_update(
        update_N, a_header(), codec_for("float32"), PrivacyConfig(clip_norm=clip_norm)
    )

    sent_N = np.frombuffer(unpack(blob)[1], "<f4")
    np.testing.assert_allclose(sent_N, update_N * factor, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("privacy", [NO_CLIPPING, PrivacyConfig(clip_norm=1.0)])
def test_an_update_that_is_not_finite_never_leaves_the_vehicle(bad, privacy):
    update_N = np.array([0.0, bad, 1.0], np.float32)

    with pytest.raises(DivergedTrainingError, match="vehicle car3: training diverged in round 4"):
        seal_update(update_N, a_header(), codec_for("float32"), privacy)
