"""One trained update waits in Flower's state, with the session of the sum that it is in."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import ConfigRecord, MetricRecord, RecordDict

from convoy_edge_client.errors import NoUpdateKeptError
from convoy_edge_client.local_update import (
    LocalUpdate,
    draw_noise_key,
    drop,
    drop_noise_key,
    keep,
    kept,
    noise_key,
    save_session,
    session_of,
)

UPDATE = LocalUpdate(
    run_id="run",
    round_number=4,
    schema_digest=b"s" * 32,
    settings_digest=b"t" * 32,
    model_digest=b"m" * 32,
    update_N=np.array([0.5, -0.0, 1e-45, 3e38, 1 / 3], np.float32),
    example_count=2**40,
    train_loss=1 / 3,
)


def assert_same(update, other):
    assert update.update_N.tobytes() == other.update_N.tobytes()
    assert replace(update, update_N=other.update_N) == other


def test_an_update_waits_as_it_was_to_the_last_bit():
    state = RecordDict()
    keep(UPDATE, state)
    assert_same(kept(state), UPDATE)
    assert_same(kept(pickle.loads(pickle.dumps(state))), UPDATE)  # another process


def test_an_update_in_another_order_of_memory_is_kept_all_the_same():
    state = RecordDict()
    keep(replace(UPDATE, update_N=np.repeat(UPDATE.update_N, 2)[::2]), state)
    assert_same(kept(state), UPDATE)


def test_what_waits_cannot_be_written_to():
    state = RecordDict()
    keep(UPDATE, state)
    with pytest.raises(ValueError, match="read-only"):
        kept(state).update_N[0] = 1.0


@pytest.mark.parametrize(
    "state",
    [
        RecordDict(),
        RecordDict({"convoy.update": MetricRecord({"round": 4})}),  # not ours
    ],
)
def test_a_vehicle_that_was_restarted_says_so(state):
    with pytest.raises(NoUpdateKeptError, match="restarted"):
        kept(state)


def test_the_next_round_s_update_takes_session_and_noise_of_the_last_along():
    state = RecordDict({"other": MetricRecord({"seen": 1})})
    keep(UPDATE, state)
    save_session(b"secrets of round 4", state)
    draw_noise_key(state)
    key = noise_key(state)

    keep(replace(UPDATE, round_number=5), state)

    assert kept(state).round_number == 5
    assert session_of(state) == b""
    assert b"secrets of round 4" not in pickle.dumps(state)
    assert key not in pickle.dumps(state)
    assert "other" in state


def test_dropping_leaves_nothing_of_ours():
    state = RecordDict({"other": MetricRecord({"seen": 1})})
    keep(UPDATE, state)
    save_session(b"session", state)
    draw_noise_key(state)

    drop(state)

    assert list(state) == ["other"]
    drop(state)


def test_a_session_is_kept_until_the_next():
    state = RecordDict()
    assert session_of(state) == b""
    save_session(b"one", state)
    save_session(b"two", state)
    assert session_of(pickle.loads(pickle.dumps(state))) == b"two"


@pytest.mark.parametrize(
    "record", [ConfigRecord(), ConfigRecord({"session": "text"}), MetricRecord({"session": 1})]
)
def test_a_record_that_we_did_not_write_is_no_session(record):
    assert session_of(RecordDict({"convoy.session": record})) == b""


def test_every_sum_has_noise_of_its_own():
    state = RecordDict()
    keys = set()
    for _ in range(3):
        draw_noise_key(state)
        keys.add(noise_key(state))
        assert noise_key(pickle.loads(pickle.dumps(state))) in keys
    assert {len(key) for key in keys} == {32}
    assert len(keys) == 3


def test_noise_that_was_never_drawn_is_missed():
    state = RecordDict()
    draw_noise_key(state)
    drop_noise_key(state)
    drop_noise_key(state)
    with pytest.raises(NoUpdateKeptError, match="no noise"):
        noise_key(state)
