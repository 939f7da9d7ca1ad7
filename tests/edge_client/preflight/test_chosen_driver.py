"""What drives is what was tried."""

import numpy as np
import pytest

from convoy_edge_client.errors import ReleaseFileError
from convoy_edge_client.preflight.choice import Choice
from convoy_edge_client.preflight.chosen_driver import chosen_driver
from convoy_edge_client.preflight.preflight_config import Provider
from convoy_protos.release_manifest import Variant, read_manifest
from convoy_simulation.releases import small_release

CHOICE = Choice(variant=Variant.FP32, provider=Provider.CPU, p50_ms=1.0)


@pytest.fixture
def release(tmp_path):
    made = small_release.model()
    golden = small_release.golden(made)
    folder = small_release.write_release(tmp_path, {Variant.FP32: made.SerializeToString()}, golden)
    return folder, read_manifest((folder / "manifest.json").read_bytes()), golden


def test_it_answers_as_the_golden_vectors_say(release):
    folder, manifest, golden = release

    driver = chosen_driver(folder, manifest, CHOICE)

    steering_N3, _ = driver.predict(golden.frames_NHWC)
    np.testing.assert_allclose(steering_N3, golden.answers[Variant.FP32].steering_N3, atol=1e-5)


def test_a_bit_that_flipped_since_the_preflight_is_noticed(release):
    folder, manifest, _ = release
    path = folder / Variant.FP32.file_name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)

    with pytest.raises(ReleaseFileError, match="SHA-256"):
        chosen_driver(folder, manifest, CHOICE)


@pytest.mark.parametrize(
    ("provider", "cache", "options"),
    [
        (Provider.TENSORRT, "", {}),
        (Provider.CPU, "engines", {}),
        (
            Provider.TENSORRT,
            "engines",
            {"trt_engine_cache_enable": "1", "trt_engine_cache_path": "engines"},
        ),
    ],
)
def test_engines_are_kept_where_a_folder_is_given(provider, cache, options):
    assert provider.options(cache) == options
