"""The round as a state machine, and the settings that shape it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convoy_server.rounds import (
    Phase,
    Rejection,
    RoundConfig,
    accept,
    begin,
    finish,
    invite,
    reject,
    stop_waiting,
    unmasked,
    why_abandoned,
)

COHORT = ("a", "b", "c", "d", "e")


def training(wanted=4, quorum=2):
    config = RoundConfig(cohort_size=wanted, quorum=quorum)
    return invite(begin(1, 10, config), COHORT)


@pytest.mark.parametrize(
    ("cohort_size", "quorum", "fleet_size", "wanted", "needed"),
    [
        (0, 0, 7, 7, 4),  # every vehicle, more than half
        (0, 0, 6, 6, 4),
        (4, 0, 6, 4, 3),
        (10, 0, 6, 6, 4),  # a fleet smaller than the cohort is asked whole
        (4, 1, 6, 4, 1),
        (0, 5, 3, 3, 5),  # a quorum that the fleet cannot reach stays what the user wants
    ],
)
def test_what_a_round_wants_follows_from_the_fleet(cohort_size, quorum, fleet_size, wanted, needed):
    state = begin(1, fleet_size, RoundConfig(cohort_size=cohort_size, quorum=quorum))
    assert (state.wanted, state.quorum) == (wanted, needed)


def test_a_round_without_enough_vehicles_invites_nobody():
    state = invite(begin(1, 2, RoundConfig(quorum=3)), ("a", "b"))
    assert state.phase is Phase.ABANDONED
    assert why_abandoned(state) == "2 vehicles could be invited, quorum 3"


def test_a_full_round_stops_waiting_at_once():
    state = training(wanted=2)
    state = accept(accept(state, "c"), "a")
    assert state.phase is Phase.UNMASK
    assert state.surplus == ("b", "d", "e")
    assert state.lost == ()
    assert finish(unmasked(state), aggregated=True).phase is Phase.DONE


def test_a_quorum_does_not_cut_a_round_short():
    state = accept(accept(accept(training(wanted=4, quorum=2), "a"), "b"), "c")
    assert state.phase is Phase.TRAIN


def test_at_the_end_of_waiting_a_quorum_is_enough():
    state = stop_waiting(accept(accept(training(), "a"), "e"))
    assert state.phase is Phase.UNMASK
    assert state.lost == ("b", "c", "d")
    assert state.surplus == ()


def test_a_missed_quorum_abandons_the_round():
    state = reject(accept(training(), "a"), Rejection("b", "not_finite", ""))
    state = stop_waiting(state)
    assert state.phase is Phase.ABANDONED
    assert state.lost == ("c", "d", "e")
    assert why_abandoned(state) == "1 updates were accepted, quorum 2"


def test_a_mean_of_no_use_abandons_the_round():
    state = unmasked(stop_waiting(accept(accept(training(), "a"), "b")))
    assert finish(state, aggregated=False).phase is Phase.ABANDONED


@pytest.mark.parametrize(
    "step",
    [
        lambda state: invite(state, COHORT),
        unmasked,
        lambda state: finish(state, aggregated=True),
    ],
)
def test_no_step_is_taken_out_of_turn(step):
    with pytest.raises(ValueError, match="round 1: expected"):
        step(training())


def test_nothing_is_accepted_after_the_end():
    state = stop_waiting(training())
    with pytest.raises(ValueError, match=r"expected Phase\.TRAIN"):
        accept(state, "a")


@given(
    st.integers(1, 5),
    st.integers(1, 5),
    st.lists(st.tuples(st.sampled_from(COHORT), st.booleans()), unique_by=lambda pair: pair[0]),
)
def test_every_invited_vehicle_ends_as_exactly_one_thing(wanted, quorum, replies):
    state = training(wanted=wanted, quorum=min(quorum, wanted))
    for vehicle, good in replies:
        if state.phase is Phase.TRAIN:
            rejection = Rejection(vehicle, "not_finite", "")
            state = accept(state, vehicle) if good else reject(state, rejection)
    state = stop_waiting(state)
    rejected = tuple(one.vehicle for one in state.rejections)
    assert sorted(state.accepted + rejected + state.lost + state.surplus) == sorted(COHORT)
    assert len(state.accepted) <= wanted
    assert (state.phase is Phase.UNMASK) == (len(state.accepted) >= state.quorum)


@pytest.mark.parametrize(
    "settings",
    [
        {"rounds": 0},
        {"cohort_size": -1},
        {"cohort_size": 4, "quorum": 5},
        {"over_selection": 0.9},
        {"over_selection": float("nan")},
        {"deadline_s": 0.0},
        {"deadline_s": float("inf")},
        {"join_deadline_s": -1.0},
        {"min_vehicles": 0},
        {"max_examples": 0},
        {"max_examples": 2**28},
        {"server_learning_rate": 0.0},
        {"server_momentum": 1.0},
        {"beta_1": -0.1},
        {"beta_2": 1.0},
        {"tau": 0.0},
        {"client_learning_rate_end": 1.1},
        {"rounds": 5, "averaged_rounds": 6},
        {"evaluate_every": 0},
        {"evaluation_cohort": -1},
        {"max_abandoned_in_a_row": 0},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(settings):
    name = list(settings)[-1]
    with pytest.raises(ValueError, match=name):
        RoundConfig(**settings)
