"""One line of rounds.jsonl: the design's keys, and back again."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convoy_protos.errors import SettingsError
from convoy_server.round_log import RoundRecord, VehicleScore, from_line, to_line
from convoy_server.rounds import Rejection

CONTRACT = {
    "round", "invited", "completed", "lost", "rejected", "uplink_bytes", "downlink_bytes",
    "wall_s", "virtual_s", "train_loss", "balanced_accuracy", "accuracy", "throttle_mae",
    "epsilon",
}  # fmt: skip

counts = st.integers(0, 2**53)
shares = st.none() | st.floats(0, 1)
rejections = st.lists(st.builds(Rejection, st.text(), st.text(), st.text()), max_size=3).map(tuple)
records = st.builds(
    RoundRecord,
    round=counts,
    outcome=st.sampled_from(["done", "abandoned"]),
    abandoned_because=st.none() | st.text(),
    invited=counts,
    completed=counts,
    lost=counts,
    surplus=counts,
    rejected=st.dictionaries(st.text(), counts, max_size=3),
    uplink_bytes=counts,
    downlink_bytes=counts,
    wall_s=st.floats(0, 1e9),
    train_loss=shares,
    balanced_accuracy=shares,
    rejections=rejections,
    lost_vehicles=st.lists(st.text(), max_size=3).map(tuple),
    per_vehicle=st.dictionaries(
        st.text(),
        st.builds(
            VehicleScore,
            examples=counts,
            balanced_accuracy=st.floats(0, 1),
            accuracy=st.floats(0, 1),
            throttle_mae=st.floats(0, 1),
        ),
        max_size=3,
    ),
)


@given(records)
def test_a_line_gives_its_record_back(record):
    line = to_line(record)
    assert "\n" not in line
    assert from_line(line) == record


@given(records)
def test_a_line_has_the_keys_of_the_contract(record):
    assert set(json.loads(to_line(record))) >= CONTRACT


@pytest.mark.parametrize("line", ["", "[]", "{", '{"round": 1}', '{"rounds": 1}', "null"])
def test_another_line_is_refused(line):
    with pytest.raises(SettingsError):
        from_line(line)
