"""What updates need to know of the round before survives as a table and on the disk."""

import json

import numpy as np
import pytest
from fleet_double import small_run

from convoy_privacy.dp_accountant import PrivacySpent, RoundFacts, Sampling, spend
from convoy_privacy.rounded_sensitivity import rounded_sensitivity
from convoy_protos.errors import SettingsError
from convoy_server.app import initial_model
from convoy_server.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from convoy_server.downlink import step_to
from convoy_server.run_directory import model_digest
from convoy_server.update_state import UpdateState, from_state_table, to_state_table


def some_spent():
    """Two rounds with noise."""
    sensitivity = rounded_sensitivity(1.0, 0.01, 4096)
    facts = RoundFacts(
        sensitivity=sensitivity,
        noise_variance=sensitivity.noise_variance(0.8),
        survivors=9,
        minimum_survivors=7,
        sampling=Sampling.EVERYBODY,
    )
    return spend(spend(PrivacySpent(), facts), facts)


STATES = [
    UpdateState(),  # before the first round of a run that does not clip
    UpdateState(clip_norm=1.0),
    UpdateState(sum_sigma=1.2345678901234567e-5, clip_norm=0.1, held={"car1": "ab" * 32}),
    UpdateState(held={}, spent=some_spent()),
]


@pytest.mark.parametrize("state", STATES)
def test_a_state_comes_back_from_its_table_to_the_last_bit(state):
    table = json.loads(json.dumps(to_state_table(state), allow_nan=False))
    assert from_state_table(table) == state


def test_a_table_of_nothing_is_the_state_before_the_first_round():
    assert from_state_table({}) == UpdateState()


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"sum_sigm": 1.0}, "did you mean 'sum_sigma'"),
        ({"sum_sigma": "wide"}, "expected float"),
        ({"held": ["car1"]}, "expected dict"),
        ({"held": {"car1": 5}}, "expected str"),
        ({"spent": {"rounds": 1.5}}, "expected int"),
    ],
)
def test_a_table_of_something_else_is_refused_by_name(table, words):
    with pytest.raises(SettingsError, match=words) as error:
        from_state_table(table)
    assert "checkpoint update_state" in str(error.value)


def test_changes_leave_the_state_itself_as_it_is():
    state = UpdateState(clip_norm=1.0)
    assert state.replace(sum_sigma=0.5) == UpdateState(clip_norm=1.0, sum_sigma=0.5)
    assert state == UpdateState(clip_norm=1.0)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("with_delta", [True, False])
def test_a_state_comes_back_from_a_checkpoint_with_the_delta(tmp_path, state, with_delta):
    base_N, schema = initial_model(small_run())
    change_N = np.random.default_rng(0).standard_normal(base_N.size, dtype=np.float32)
    model_N, delta = step_to(base_N + np.float32(0.01) * change_N, base_N, 0.25)
    assert delta
    checkpoint = Checkpoint(
        run_id="run",
        round=3,
        settings={},
        model_N=model_N,
        snapshots=(base_N, model_N),
        base_digest=model_digest(base_N) if with_delta else b"",
        delta=delta if with_delta else b"",
        update_state=to_state_table(state),
    )

    save_checkpoint(tmp_path, checkpoint, schema)
    loaded = load_checkpoint(tmp_path)

    assert from_state_table(loaded.update_state) == state
    assert (loaded.base_digest, loaded.delta) == (checkpoint.base_digest, checkpoint.delta)
    np.testing.assert_array_equal(loaded.model_N, model_N)
