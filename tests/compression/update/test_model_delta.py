"""The downlink: server and vehicle end with the same model to the last bit, or the whole model is sent."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from convoy_compression.errors import CompressionError, CorruptPayloadError
from convoy_compression.update.model_delta import apply_delta, encode_delta
from convoy_compression.update.sealed import encode_sparse

models = st.integers(1, 40).flatmap(
    lambda count: st.tuples(
        *(arrays(np.float32, count, elements=st.floats(width=32)) for _ in range(2))
    )
)


def small_change(count=5000, scale=0.01, seed=0):
    rng = np.random.default_rng(seed)
    base_N = rng.standard_normal(count, dtype=np.float32)
    change_N = (rng.standard_t(2, count) * scale).astype(np.float32)
    return base_N + change_N, base_N


def test_a_delta_leads_near_the_new_model_for_a_small_share_of_its_bytes():
    new_N, base_N = small_change()
    payload = encode_delta(new_N, base_N, 0.25)
    assert len(payload) < 4 * 5000 / 8
    model_N = apply_delta(base_N, memoryview(payload))
    change = np.square(new_N - base_N).sum()
    assert np.square(model_N - new_N).sum() < 0.0625 / 10 * change


def test_server_and_vehicle_hold_the_same_model_round_after_round():
    server_N = vehicle_N = small_change()[1]
    for number in range(10):
        new_N = small_change(seed=number, scale=0.1)[0] * np.float32(0.1) + server_N
        payload = encode_delta(new_N, server_N, 0.25)
        server_N = apply_delta(server_N, memoryview(payload))
        vehicle_N = apply_delta(vehicle_N.copy(), memoryview(bytes(payload)))
        assert vehicle_N.tobytes() == server_N.tobytes()


def test_an_unchanged_model_costs_nothing():
    model_N = small_change()[0]
    assert encode_delta(model_N.copy(), model_N, 0.25) == b""
    same_N = apply_delta(model_N, memoryview(b""))
    assert same_N.tobytes() == model_N.tobytes()
    assert not np.shares_memory(same_N, model_N)


@pytest.mark.parametrize(
    ("new", "base"),
    [
        ([np.nan, 1.0], [0.0, 0.0]),
        ([np.inf, 1.0], [0.0, 0.0]),
        ([3e38, 1.0], [-3e38, 0.0]),  # the difference overflows
        ([1e30, 1.0], [0.0, 0.0]),  # larger than the codec takes
        ([2.0, 1.0], [0.0, 0.0]),  # the header alone is larger
    ],
)
def test_the_whole_model_is_sent_where_a_delta_would_not_do(new, base):
    assert encode_delta(np.array(new, np.float32), np.array(base, np.float32), 0.25) is None


@settings(max_examples=60)
@given(models, st.sampled_from([1e-3, 0.25, 1.0]))
def test_any_two_models_make_a_delta_that_can_be_applied_or_none(pair, factor):
    new_N, base_N = pair
    payload = encode_delta(new_N, base_N, factor)
    if payload is not None and np.isfinite(base_N).all():
        assert len(payload) < 4 * base_N.size
        assert np.isfinite(apply_delta(base_N, memoryview(payload))).all()


def test_a_delta_to_an_infinite_model_is_refused():
    base_N = np.full(100, np.finfo(np.float32).max, np.float32)
    huge_N = np.full(100, 2.0**63, np.float32)
    payload = encode_sparse(huge_N, 1.0)
    assert np.isfinite(apply_delta(base_N, memoryview(payload))).all()  # too small to matter there
    base_N[3] = np.inf
    with pytest.raises(CorruptPayloadError, match="infinite"):
        apply_delta(base_N, memoryview(payload))


def test_a_delta_cut_anywhere_is_refused_unless_nothing_is_left():
    new_N, base_N = small_change(200)
    payload = encode_delta(new_N, base_N, 0.25)
    for length in range(1, len(payload)):
        with pytest.raises(CorruptPayloadError):
            apply_delta(base_N, memoryview(payload)[:length])


@given(st.binary(max_size=100))
def test_any_bytes_are_applied_or_refused_with_a_documented_error(payload):
    try:
        model_N = apply_delta(np.ones(20, np.float32), memoryview(payload))
    except CompressionError:
        return
    assert np.isfinite(model_N).all()


def test_the_base_is_left_as_it_was():
    new_N, base_N = small_change()
    before = base_N.tobytes()
    apply_delta(base_N, memoryview(encode_delta(new_N, base_N, 0.25)))
    assert base_N.tobytes() == before


def test_models_of_another_length_are_refused():
    with pytest.raises(ValueError, match=r"expected shape \(3,\), got \(2,\)"):
        encode_delta(np.zeros(2, np.float32), np.zeros(3, np.float32), 0.25)
