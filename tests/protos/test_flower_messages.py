"""Our messages inside Flower's records, and records that are not ours."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from convoy_protos.errors import MalformedMessageError
from convoy_protos.flower_messages import (
    UPDATE_STYPE,
    answer_content,
    calibration_content,
    content_bytes,
    evaluation_content,
    instructions_content,
    instructions_digest,
    model_array,
    model_delta_array,
    profile_content,
    ranges_content,
    read_answer,
    read_calibration,
    read_evaluation,
    read_instructions,
    read_model,
    read_model_delta,
    read_profile,
    read_ranges,
    read_request,
    read_trained,
    read_update,
    request_content,
    trained_content,
    update_content,
)
from convoy_protos.v1.federation_pb2 import (
    CalibrationRanges,
    CalibrationRequest,
    Evaluation,
    RoundInstructions,
    Trained,
    VehicleProfile,
)


def test_instructions_and_model_go_down_and_come_out():
    model_N = np.arange(5, dtype=np.float32)
    content = instructions_content(RoundInstructions(round=3), model_array(model_N))
    read_N = read_model(content)
    assert read_instructions(content).round == 3
    np.testing.assert_array_equal(read_N, model_N)
    assert not read_N.flags.writeable


def test_an_update_comes_out_as_it_went_in():
    assert read_update(update_content(b"blob")) == b"blob"


def test_small_messages_come_out_as_they_went_in():
    evaluation, profile = Evaluation(round=2), VehicleProfile(vehicle_id="car0")
    assert read_evaluation(evaluation_content(evaluation)) == evaluation
    assert read_profile(profile_content(profile)) == profile
    request, ranges = CalibrationRequest(observer=b"net"), CalibrationRanges(low=[0.5], high=[2])
    assert read_calibration(calibration_content(request)) == request
    assert read_ranges(ranges_content(ranges)) == ranges


def test_a_difference_is_not_taken_for_a_model_nor_a_model_for_a_difference():
    whole = instructions_content(RoundInstructions(), model_array(np.zeros(3, np.float32)))
    delta = instructions_content(RoundInstructions(), model_delta_array(b"way"))
    assert read_model_delta(delta) == b"way"
    with pytest.raises(MalformedMessageError, match="model"):
        read_model(delta)
    with pytest.raises(MalformedMessageError, match="model"):
        read_model_delta(whole)


def test_the_digest_is_that_of_the_instructions_as_they_travelled():
    one, other = RoundInstructions(round=3), RoundInstructions(round=4)
    model = model_array(np.zeros(3, np.float32))
    assert instructions_digest(instructions_content(one, model)) == instructions_digest(
        instructions_content(one, model_delta_array(b""))
    )
    assert instructions_digest(instructions_content(one, model)) != instructions_digest(
        instructions_content(other, model)
    )


def test_messages_of_a_secure_sum_travel_as_the_bytes_they_are():
    assert read_request(request_content(b"terms")) == b"terms"
    assert read_answer(answer_content(b"keys")) == b"keys"
    trained = Trained(vehicle_id="car0", example_count=3)
    assert read_trained(trained_content(trained)) == trained
    for read in (read_request, read_answer, read_trained):
        with pytest.raises(MalformedMessageError):
            read(RecordDict())


def test_stock_flower_cannot_take_an_update_for_weights():
    (record,) = update_content(b"1234").array_records.values()
    with pytest.raises(TypeError):
        record.to_numpy_ndarrays()


FOREIGN = {
    "nothing": RecordDict(),
    "another kind of record": RecordDict({"update": ConfigRecord({"envelope": b"x"})}),
    "another key": RecordDict(
        {"update": ArrayRecord({"blob": Array("uint8", (1,), UPDATE_STYPE, b"x")})}
    ),
    "another serialization": RecordDict({"update": ArrayRecord([np.zeros(3)])}),
    "another record": RecordDict(
        {"model": ArrayRecord({"envelope": Array("uint8", (1,), UPDATE_STYPE, b"x")})}
    ),
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_records_of_others_are_refused(content):
    with pytest.raises(MalformedMessageError, match="update"):
        read_update(content)


@pytest.mark.parametrize("value", [b"\xff\xff", "text", 3], ids=["garbage", "text", "number"])
def test_a_record_that_does_not_parse_is_refused(value):
    for name, read in (("profile", read_profile), ("evaluation", read_evaluation)):
        with pytest.raises(MalformedMessageError, match=name):
            read(RecordDict({name: ConfigRecord({"protobuf": value})}))


def test_a_model_of_half_a_number_is_refused():
    content = instructions_content(
        RoundInstructions(), Array("float32", (1,), "convoy.model/1", b"12345")
    )
    with pytest.raises(MalformedMessageError, match="5 bytes"):
        read_model(content)


def test_bytes_are_counted_on_what_is_sent():
    instructions = RoundInstructions(run_id="r", settings_json="{}")
    content = instructions_content(instructions, model_array(np.zeros(10, np.float32)))
    assert content_bytes(content) == 40 + instructions.ByteSize()
    assert content_bytes(update_content(b"x" * 123)) == 123
    assert content_bytes(RecordDict({"other": ConfigRecord({"text": "abc", "list": [1]})})) == 0
