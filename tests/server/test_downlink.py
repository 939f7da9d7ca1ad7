"""The way down: whole models, differences, or nothing, and the same bytes for the same need."""

import hashlib

import numpy as np
import pytest

from convoy_compression.update.model_delta import apply_delta
from convoy_protos.errors import MalformedMessageError
from convoy_protos.flower_messages import (
    content_bytes,
    read_instructions,
    read_model,
    read_model_delta,
)
from convoy_protos.v1.federation_pb2 import RoundInstructions
from convoy_server.downlink import (
    ModelHolders,
    PublishedModel,
    from_hex_digests,
    hex_digests,
    step_to,
)

PARAMETERS = 1000
OLDER = hashlib.sha256(b"a model of long ago").digest()


def digest_of(model_N):
    return hashlib.sha256(model_N.tobytes()).digest()


def a_model(seed=0):
    return np.random.default_rng(seed).standard_normal(PARAMETERS, dtype=np.float32)


def after_a_step(step=0.25):
    """A model, the one before, and the difference."""
    base_N = a_model()
    new_N, delta = step_to(base_N + np.float32(0.01) * a_model(1), base_N, step)
    return base_N, PublishedModel(
        model_N=new_N, digest=digest_of(new_N), base_digest=digest_of(base_N), delta=delta
    )


def instructions_for(model):
    return RoundInstructions(run_id="run", round=3, codec="masked/1", model_digest=model.digest)


BASE_N, MODEL = after_a_step()
INSTRUCTIONS = instructions_for(MODEL)


def sent_to(holders, vehicle="car0", model=MODEL):
    return holders.contents(INSTRUCTIONS, model, [vehicle])[vehicle]


def test_a_vehicle_that_has_nothing_gets_the_whole_model():
    content = sent_to(ModelHolders())

    np.testing.assert_array_equal(read_model(content), MODEL.model_N)
    assert read_instructions(content) == INSTRUCTIONS
    with pytest.raises(MalformedMessageError):
        read_model_delta(content)


def test_a_vehicle_that_has_the_model_before_gets_the_difference():
    content = sent_to(ModelHolders({"car0": MODEL.base_digest}))

    assert read_instructions(content).base_digest == MODEL.base_digest
    assert read_model_delta(content) == MODEL.delta
    with pytest.raises(MalformedMessageError):
        read_model(content)
    assert content_bytes(content) < 0.3 * 4 * PARAMETERS


def test_a_vehicle_that_has_the_model_already_gets_nothing():
    content = sent_to(ModelHolders({"car0": MODEL.digest}))

    assert read_instructions(content).base_digest == MODEL.digest
    assert read_model_delta(content) == b""


@pytest.mark.parametrize(
    ("held", "always_full", "model"),
    [
        (OLDER, False, MODEL),  # no difference leads from there
        (MODEL.base_digest, True, MODEL),
        (MODEL.digest, True, MODEL),
        # What a run that sends whole models publishes, and one whose last step was too wide.
        (MODEL.base_digest, False, PublishedModel(model_N=MODEL.model_N, digest=MODEL.digest)),
        (b"", False, MODEL),
    ],
)
def test_everybody_else_gets_the_whole_model(held, always_full, model):
    content = sent_to(ModelHolders({"car0": held}, always_full=always_full), model=model)

    np.testing.assert_array_equal(read_model(content), model.model_N)
    assert read_instructions(content).base_digest == b""


def test_all_that_need_the_same_get_the_same_object():
    held = {"car1": MODEL.base_digest, "car2": MODEL.base_digest, "car3": MODEL.digest}
    names = [f"car{number}" for number in range(6)]

    contents = ModelHolders(held).contents(INSTRUCTIONS, MODEL, names)

    assert list(contents) == names
    assert contents["car1"] is contents["car2"]
    assert contents["car0"] is contents["car4"] is contents["car5"]
    assert len({id(content) for content in contents.values()}) == 3


def test_the_instructions_of_the_round_are_left_as_they_are():
    sent_to(ModelHolders({"car0": MODEL.digest}))
    assert instructions_for(MODEL) == INSTRUCTIONS


def test_a_vehicle_has_a_model_once_it_answered_and_until_it_fails():
    holders = ModelHolders()
    holders.answered("car0", MODEL.digest)
    assert read_model_delta(sent_to(holders)) == b""

    holders.failed("car0")

    assert read_model(sent_to(holders)).size == PARAMETERS
    holders.failed("nobody who ever had one")


def test_only_models_that_a_difference_can_start_from_are_remembered():
    held = {"car3": OLDER, "car2": MODEL.digest, "car1": MODEL.base_digest}

    useful = ModelHolders(held).useful(MODEL)

    assert list(useful.items()) == [("car1", MODEL.base_digest), ("car2", MODEL.digest)]
    assert from_hex_digests(hex_digests(useful)) == useful


@pytest.mark.parametrize("step", [0.001, 0.25, 3.0])
def test_the_server_goes_on_with_what_vehicles_make_of_the_difference_to_the_last_bit(step):
    base_N, model = after_a_step(step)

    assert model.delta
    made_N = apply_delta(base_N, memoryview(model.delta))
    assert made_N.tobytes() == model.model_N.tobytes()


def test_rounding_follows_the_step():
    wanted_N = BASE_N + np.float32(0.01) * a_model(1)
    for step in (0.01, 0.25):
        new_N, _ = step_to(wanted_N, BASE_N, step)
        assert np.abs(new_N - wanted_N).max() <= 0.51 * step * 0.011


def test_a_step_to_the_same_model_needs_no_difference():
    new_N, delta = step_to(BASE_N.copy(), BASE_N, 0.25)

    assert delta == b""
    np.testing.assert_array_equal(new_N, BASE_N)


def test_a_difference_that_would_not_be_smaller_is_not_made():
    small_N = a_model()[:8]
    new_N = small_N + np.float32(1.0) * a_model(1)[:8]

    stepped_N, delta = step_to(new_N, small_N, 0.001)

    assert delta == b""
    assert stepped_N is new_N


@pytest.mark.parametrize("far", [np.float32(3e38), np.float32(-3e38)])
def test_models_too_far_apart_for_a_difference_go_whole(far):
    base_N, new_N = np.full(PARAMETERS, -far), np.full(PARAMETERS, far)
    stepped_N, delta = step_to(new_N, base_N, 0.25)
    assert delta == b""
    assert stepped_N is new_N
