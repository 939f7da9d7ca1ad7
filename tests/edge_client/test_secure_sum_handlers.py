"""A vehicle's four answers: repeatable to the byte, for the update that waits and no other."""

import pickle
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
import pytest
from flwr.app import RecordDict

from convoy_compression.update.masked import LaneSum, MaskedFormat
from convoy_compression.update.rotation import layout_of
from convoy_edge_client.errors import (
    NoUpdateKeptError,
    RefusedInstructionsError,
    VehicleConfigError,
)
from convoy_edge_client.local_update import (
    LocalScores,
    LocalUpdate,
    keep,
    kept,
    noise_key,
    session_of,
)
from convoy_edge_client.opened_sums import note_opened, opened_members
from convoy_edge_client.secure_sum_handlers import check_in, contribution, share, unmask, upload
from convoy_edge_client.vehicle_config import VehicleConfig
from convoy_privacy.certificates import Role
from convoy_privacy.errors import (
    BadRosterError,
    OutOfOrderError,
    RefusedTermsError,
    UntrustedPeerError,
)
from convoy_privacy.fleet_authority import FleetAuthority
from convoy_privacy.party import REVOCATIONS, save_party
from convoy_privacy.secure_sum.aggregator import Aggregator
from convoy_privacy.secure_sum.terms import parse_terms
from convoy_protos.envelope import COUNTER_SCALE, SCORE_COUNTERS, SUM_COUNTERS, unpack
from convoy_protos.errors import MalformedMessageError
from convoy_protos.v1.secure_sum_pb2 import Roster, SumTerms, UnmaskRequest, VehicleSession

PARAMETERS = 100
CARS = 4
COUNTER_BYTES = 8 * len(SUM_COUNTERS)
FIELDS = {
    "run_id": "run",
    "round": 4,
    "shard": 0,
    "attempt": 1,
    "model_digest": b"m" * 32,
    "schema_digest": b"s" * 32,
    "settings_digest": b"t" * 32,
    "parameter_count": PARAMETERS,
    "modulus_bits": 12,
    "step": 0.01,
    "weight_cap": 50,
    "codec_seed": bytes(range(32)),
    "minimum_cohort": 3,
    "deadline_s": 20,
}


def make_terms(**changes):
    return SumTerms(**(FIELDS | changes)).SerializeToString(deterministic=True)


def parsed(**changes):
    return parse_terms(make_terms(**changes))


def an_update(number=0, **changes):
    rng = np.random.default_rng(number)
    fields = {
        "run_id": "run",
        "round_number": 4,
        "schema_digest": b"s" * 32,
        "settings_digest": b"t" * 32,
        "model_digest": b"m" * 32,
        "update_N": (0.1 * rng.standard_normal(PARAMETERS)).astype(np.float32),
        "example_count": 20 + 10 * number,
        "train_loss": 0.5,
    }
    return LocalUpdate(**(fields | changes))


@dataclass
class Fleet:
    """Vehicles with identities on disk and their CA."""

    authority: FleetAuthority
    vehicles: list[VehicleConfig]


@pytest.fixture
def fleet(tmp_path):
    """Three vehicles, of which each test has its own."""
    now = datetime.now(UTC)
    authority = FleetAuthority.create(now)
    vehicles = []
    for number in range(CARS):
        identity = authority.issue(f"car{number}", Role.VEHICLE, now)
        folder = tmp_path / f"car{number}"
        save_party(folder, authority, identity.certificate, identity.signing_key)
        vehicles.append(
            VehicleConfig(
                vehicle_id=f"car{number}",
                recordings=("tub",),
                cache_dir="cache",
                identity=str(folder),
            )
        )
    return Fleet(authority, vehicles)


class Sum:
    """One sum of three vehicles; `states` is what Flower keeps for each of them."""

    def __init__(self, fleet, states=None, **changes):
        self.fleet = fleet
        self.terms = make_terms(**changes)
        self.states = states or [RecordDict() for _ in fleet.vehicles]
        if states is None:
            for number, state in enumerate(self.states):
                keep(an_update(number), state)
        self.aggregator = Aggregator(self.terms, fleet.authority.trust(), datetime.now(UTC))
        self.requests = {}

    def each(self, handler, requests):
        """Every vehicle's answer to its own request."""
        self.requests[handler] = requests
        return [
            (vehicle.vehicle_id, handler(requests[vehicle.vehicle_id], state, vehicle))
            for vehicle, state in zip(self.fleet.vehicles, self.states, strict=True)
        ]

    def same(self, request):
        """The request that all of them get."""
        return {vehicle.vehicle_id: request for vehicle in self.fleet.vehicles}

    def checked_in(self, revocations=b""):
        """The roster is made."""
        for name, answer in self.each(check_in, self.same(self.terms)):
            self.aggregator.check_in(name, answer)
        self.roster = self.aggregator.close_check_in(revocations)
        return self

    def shared(self, revocations=b""):
        """The deliveries are made."""
        self.checked_in(revocations)
        for name, answer in self.each(share, self.same(self.roster)):
            self.aggregator.shares(name, answer)
        self.deliveries = self.aggregator.close_shares()
        return self

    def uploaded(self):
        """The unmask request is made."""
        self.shared()
        self.blobs = self.each(upload, self.deliveries)
        for name, blob in self.blobs:
            header, payload = unpack(blob)
            self.aggregator.verify_upload(name, payload, header.signature)
        self.request = self.aggregator.close_uploads()
        return self

    def unmasked(self):
        """All have answered it."""
        self.uploaded()
        for name, answer in self.each(unmask, self.same(self.request)):
            self.aggregator.unmask_reply(name, answer)
        return self

    def total(self):
        """Decoded sum and counters by name."""
        fields = parse_terms(self.terms).fields
        lanes = MaskedFormat(
            parameter_count=fields.parameter_count,
            modulus_bits=fields.modulus_bits,
            step=fields.step,
            seed=fields.codec_seed,
        )
        lane_sum, counters_C = LaneSum(lanes), np.zeros(len(SUM_COUNTERS), np.uint64)
        for _, blob in self.blobs:
            _, payload = unpack(blob)
            lane_sum.add(lanes.unpack(payload[:-COUNTER_BYTES]))
            counters_C += np.frombuffer(payload[-COUNTER_BYTES:], "<u8")
        masks_P, masks_C = self.aggregator.mask_sum(
            lanes.lane_type, lanes.padded_count, len(SUM_COUNTERS)
        )
        lane_sum.subtract(masks_P)
        counters = dict(zip(SUM_COUNTERS, map(int, counters_C - masks_C), strict=True))
        return lanes.decode(lane_sum.lanes_P, len(self.blobs)), counters


def secrets_in(session):
    """Private keys and self seed."""
    held = VehicleSession.FromString(session)
    return [held.mask_private_key, held.share_private_key, held.self_seed]


def test_the_sum_of_the_uploads_is_that_of_the_contributions(fleet):
    decoded, counters = Sum(fleet).unmasked().total()

    terms = parsed()
    parts = [contribution(an_update(number), terms) for number in range(CARS)]
    wanted_N = np.sum([weighted_N for weighted_N, _ in parts], axis=0)
    assert not decoded.overflowed
    np.testing.assert_allclose(decoded.sum_N, wanted_N, atol=3 * 0.01 * 3)
    wanted_C = np.sum([counters_C for _, counters_C in parts], axis=0)
    assert counters == dict(zip(SUM_COUNTERS, map(int, wanted_C), strict=True))


def test_the_envelope_says_whose_update_of_what_it_is(fleet):
    (name, blob), *_ = Sum(fleet).uploaded().blobs

    header, payload = unpack(blob)
    assert (header.vehicle_id, header.run_id, header.round) == (name, "run", 4)
    assert (header.codec, header.parameter_count) == ("masked/1", PARAMETERS)
    assert header.schema_digest == b"s" * 32
    assert header.example_count == 0  # told in the masked counters alone
    assert not header.metrics
    assert len(payload) == layout_of(PARAMETERS).padded_count * 12 // 8 + COUNTER_BYTES


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"run_id": "another"}, "run"),
        ({"round": 5}, "round"),
        ({"model_digest": bytes(32)}, "model"),
        ({"schema_digest": bytes(32)}, "schema"),
        ({"settings_digest": bytes(32)}, "set of settings"),
        ({"parameter_count": PARAMETERS + 1}, "length"),
    ],
)
def test_a_sum_of_other_updates_is_refused_by_name(fleet, change, what):
    state = RecordDict()
    keep(an_update(), state)
    with pytest.raises(NoUpdateKeptError, match=f"of another {what}"):
        check_in(make_terms(**change), state, fleet.vehicles[0])
    assert session_of(state) == b""


def test_without_an_update_a_vehicle_takes_no_part(fleet):
    with pytest.raises(NoUpdateKeptError, match="restarted"):
        check_in(make_terms(), RecordDict(), fleet.vehicles[0])


def test_a_vehicle_takes_part_in_no_smaller_sum_than_its_own_configuration_allows(fleet):
    state = RecordDict()
    keep(an_update(), state)
    with pytest.raises(RefusedTermsError, match="at least 4 are asked for"):
        check_in(make_terms(), state, replace(fleet.vehicles[0], minimum_cohort=4))


def test_a_vehicle_without_an_identity_says_how_to_get_one(fleet):
    state = RecordDict()
    keep(an_update(), state)
    with pytest.raises(VehicleConfigError, match="convoy fleet add"):
        check_in(make_terms(), state, replace(fleet.vehicles[0], identity=""))


@pytest.mark.parametrize("revive", [lambda state: state, lambda s: pickle.loads(pickle.dumps(s))])
@pytest.mark.parametrize("noised", [False, True])
def test_a_repeated_request_gets_the_identical_bytes(fleet, revive, noised):
    noise = {"noise_variance": 40.0, "clip_norm": 2.0, "equal_weights": True, "weight_cap": 1}
    vehicle = fleet.vehicles[1]
    for handler in (check_in, share, upload, unmask):
        again = Sum(fleet, **(noise if noised else {}))
        run_until(again, handler)
        request = again.requests[handler]["car1"]
        before = pickle.dumps(again.states[1])
        state = revive(again.states[1])
        first = handler(request, state, vehicle)
        second = handler(request, revive(state), vehicle)
        assert first == second == again.answers[handler]["car1"]
        assert pickle.dumps(state) == before


def run_until(one, last):
    """All exchanges up to and with the handler; answers are noted."""
    one.answers = {}
    each = one.each

    def noting(handler, requests):
        answers = each(handler, requests)
        one.answers[handler] = dict(answers)
        return answers

    one.each = noting
    {
        check_in: one.checked_in,
        share: one.shared,
        upload: one.uploaded,
        unmask: one.unmasked,
    }[last]()


def test_messages_out_of_their_turn_are_refused(fleet):
    one = Sum(fleet).uploaded()
    state, vehicle = RecordDict(), fleet.vehicles[0]
    keep(an_update(), state)
    for handler, request in (
        (share, one.roster),
        (upload, one.deliveries["car0"]),
        (unmask, one.request),
    ):
        with pytest.raises(OutOfOrderError):
            handler(request, state, vehicle)


def test_once_it_has_unmasked_every_secret_of_the_sum_is_gone(fleet):
    one = Sum(fleet).uploaded()
    secrets = [secrets_in(session_of(state)) for state in one.states]
    for held, state in zip(secrets, one.states, strict=True):
        assert all(len(secret) == 32 and secret in pickle.dumps(state) for secret in held)

    for name, answer in one.each(unmask, one.same(one.request)):
        one.aggregator.unmask_reply(name, answer)

    for state in one.states:
        left = pickle.dumps(state)
        assert not any(secret in left for held in secrets for secret in held)
        assert VehicleSession.FromString(session_of(state)).delivery == b""
    with pytest.raises(OutOfOrderError):
        upload(one.deliveries["car0"], one.states[0], fleet.vehicles[0])


def test_the_next_round_s_update_drops_the_secrets_of_a_sum_that_was_never_finished(fleet):
    one = Sum(fleet).shared()
    secrets = secrets_in(session_of(one.states[0]))

    keep(an_update(round_number=5), one.states[0])

    assert not any(secret in pickle.dumps(one.states[0]) for secret in secrets)
    with pytest.raises(OutOfOrderError):
        upload(one.deliveries["car0"], one.states[0], fleet.vehicles[0])


def test_the_same_update_goes_into_a_second_sum_only_as_a_later_attempt(fleet):
    first = Sum(fleet).unmasked()

    with pytest.raises(RefusedTermsError, match="attempt 1 of round 4 after attempt 1"):
        check_in(make_terms(step=0.02), first.states[0], fleet.vehicles[0])
    second = Sum(fleet, first.states, attempt=2, step=0.02).unmasked()

    assert dict(first.blobs)["car0"] != dict(second.blobs)["car0"]
    decoded, counters = second.total()
    assert counters["count"] == CARS
    assert not decoded.overflowed


def test_a_refused_roster_leaves_the_session_as_it_was(fleet):
    one = Sum(fleet).checked_in()
    before = session_of(one.states[0])
    with pytest.raises(MalformedMessageError):
        share(one.roster + b"\x00", one.states[0], fleet.vehicles[0])
    assert session_of(one.states[0]) == before


def test_what_the_fleet_has_revoked_since_is_gone_by_and_remembered(fleet, tmp_path):
    old = fleet.authority.revocation_list
    fleet.authority.issue("car9", Role.VEHICLE, datetime.now(UTC))
    fleet.authority.revoke("car9", datetime.now(UTC))
    assert (tmp_path / "car0" / REVOCATIONS).read_bytes() == old

    Sum(fleet).shared(fleet.authority.revocation_list)

    assert (tmp_path / "car0" / REVOCATIONS).read_bytes() == fleet.authority.revocation_list


def test_a_vehicle_shares_nothing_with_one_that_is_revoked(fleet):
    one = Sum(fleet).checked_in()
    fleet.authority.revoke("car2", datetime.now(UTC))
    roster = with_list(one.roster, fleet.authority.revocation_list)
    with pytest.raises(UntrustedPeerError, match="car2"):
        share(roster, one.states[0], fleet.vehicles[0])


def with_list(roster, revocations):
    """The same members beside another list."""
    changed = Roster.FromString(roster)
    changed.revocations = revocations
    return changed.SerializeToString(deterministic=True)


# What an update weighs and what is told of it.


def counters_of(update, **changes):
    _, counters_C = contribution(update, parsed(**changes))
    assert counters_C.dtype == np.uint64
    return dict(zip(SUM_COUNTERS, map(int, counters_C), strict=True))


LENGTH_5 = np.array([3.0, 4.0] + [0.0] * (PARAMETERS - 2), np.float32)


@pytest.mark.parametrize(
    ("examples", "changes", "factor", "weight"),
    [
        (20, {}, 0.4, 20),
        (50, {}, 1.0, 50),
        (80, {}, 1.0, 50),  # no vehicle weighs more than the cap
        (80, {"weight_cap": 1, "equal_weights": True}, 1.0, 1),
        (1, {"weight_cap": 1, "equal_weights": True}, 1.0, 1),
    ],
)
def test_an_update_weighs_its_examples_up_to_the_cap_or_as_much_as_any(
    examples, changes, factor, weight
):
    update = an_update(update_N=LENGTH_5, example_count=examples)

    weighted_N, _ = contribution(update, parsed(**changes))
    counters = counters_of(update, **changes)

    np.testing.assert_allclose(weighted_N, factor * LENGTH_5, rtol=1e-6)
    assert (counters["count"], counters["weight"]) == (1, weight)
    assert counters["loss_sum"] == weight * COUNTER_SCALE // 2


@pytest.mark.parametrize(
    ("clip_norm", "length", "clipped"),
    [
        (0.0, 5.0, 0),  # no bound
        (1.0, 1.0, 1),
        (5.0, 5.0, 0),  # just as long as allowed
        (9.0, 5.0, 0),  # never scaled up
    ],
)
def test_an_update_is_clipped_before_it_is_weighted(clip_norm, length, clipped):
    update = an_update(update_N=LENGTH_5, example_count=25)

    weighted_N, _ = contribution(update, parsed(clip_norm=clip_norm))
    counters = counters_of(update, clip_norm=clip_norm)

    assert np.linalg.norm(weighted_N) == pytest.approx(0.5 * length, rel=1e-6)
    assert counters["clipped"] == clipped
    assert counters["squared_norm"] == pytest.approx(length**2 * COUNTER_SCALE, rel=1e-6)


def test_a_contribution_is_still_float32_and_the_update_stays_as_it_is():
    update = an_update(example_count=25)
    before = update.update_N.tobytes()

    weighted_N, _ = contribution(update, parsed(clip_norm=0.01))

    assert weighted_N.dtype == np.float32
    assert update.update_N.tobytes() == before


def test_beside_noise_no_exact_counter_tells_what_it_hides():
    noise = {"noise_variance": 9.0, "clip_norm": 1.0, "equal_weights": True, "weight_cap": 1}
    counters = counters_of(an_update(update_N=LENGTH_5), **noise)
    assert counters == dict.fromkeys(SUM_COUNTERS, 0) | {"count": 1, "weight": 1}


@pytest.mark.parametrize(
    "changes",
    [
        {"clip_norm": 0.0, "equal_weights": True},  # noise for an update of any length
        {"clip_norm": 1.0, "equal_weights": False},  # a weight tells how many examples
    ],
)
def test_noise_that_hides_nothing_is_refused(fleet, changes):
    state = RecordDict()
    keep(an_update(), state)
    with pytest.raises(RefusedInstructionsError, match="noise needs"):
        check_in(make_terms(noise_variance=9.0, **changes), state, fleet.vehicles[0])


def test_the_noise_of_a_sum_is_forgotten_with_its_secrets(fleet):
    noise = {"noise_variance": 9.0, "clip_norm": 1.0, "equal_weights": True, "weight_cap": 1}
    one = Sum(fleet, **noise).uploaded()
    keys = [noise_key(state) for state in one.states]

    for _ in one.each(unmask, one.same(one.request)):
        pass

    assert len(set(keys)) == CARS
    for key, state in zip(keys, one.states, strict=True):
        assert key not in pickle.dumps(state)


def open_to_two(fleet):
    """The same vehicles, content with sums of two."""
    return Fleet(fleet.authority, [replace(one, minimum_cohort=2) for one in fleet.vehicles])


def without_the_last(fleet, states, **changes):
    """A sum over all vehicles but one, with what they keep."""
    fewer = Fleet(fleet.authority, fleet.vehicles[:-1])
    return Sum(fewer, states[:-1], minimum_cohort=2, **changes)


def test_a_sum_is_made_again_over_the_same_vehicles(fleet):
    once = Sum(fleet).unmasked()
    again = Sum(fleet, once.states, attempt=2, step=0.5).unmasked()
    assert again.total()[1] == once.total()[1]


def test_a_second_sum_without_one_vehicle_is_refused_by_the_others(fleet):
    """The difference of the two sums would be that one's update."""
    fleet = open_to_two(fleet)
    once = Sum(fleet, minimum_cohort=2).unmasked()
    with pytest.raises(BadRosterError, match="the difference would show one"):
        without_the_last(fleet, once.states, attempt=2).shared()


def test_training_again_in_the_same_round_does_not_get_around_that(fleet):
    fleet = open_to_two(fleet)
    once = Sum(fleet, minimum_cohort=2).unmasked()
    for number, state in enumerate(once.states):
        keep(an_update(number), state)
    with pytest.raises(BadRosterError, match="the difference would show one"):
        without_the_last(fleet, once.states, attempt=2).shared()


def test_a_second_sum_that_lost_one_vehicle_is_not_opened(fleet):
    fleet = open_to_two(fleet)
    once = Sum(fleet, minimum_cohort=2).unmasked()
    again = Sum(fleet, once.states, minimum_cohort=2, attempt=2, step=0.5).uploaded()
    request = UnmaskRequest.FromString(again.request)
    request.uploaded[:] = [1, 2, 3]
    request.lost[:] = [4]
    with pytest.raises(BadRosterError, match="lacks a vehicle"):
        unmask(request.SerializeToString(deterministic=True), again.states[0], fleet.vehicles[0])


def test_another_round_begins_anew(fleet):
    fleet = open_to_two(fleet)
    once = Sum(fleet, minimum_cohort=2).unmasked()
    for number, state in enumerate(once.states):
        later = an_update(number, round_number=5)
        keep(later, state)
        assert opened_members(later, state) == b""


# No way back. A server that was killed repeats its last round, over the same vehicles; no other.


def test_a_round_before_the_last_one_that_was_opened_is_refused_with_the_reason(fleet):
    once = Sum(fleet).unmasked()  # of round 4
    keep(an_update(round_number=3), once.states[0])
    with pytest.raises(
        RefusedInstructionsError, match=r"round 3 of run run: .* round 4 .*another run"
    ):
        check_in(make_terms(round=3), once.states[0], fleet.vehicles[0])


@pytest.mark.parametrize("elsewhere", [{"round_number": 5}, {"run_id": "another"}])
def test_a_vehicle_that_was_led_elsewhere_and_back_joins_no_second_sum_over_others(
    fleet, elsewhere
):
    fleet = open_to_two(fleet)
    once = Sum(fleet, minimum_cohort=2).unmasked()
    for number, state in enumerate(once.states):
        keep(an_update(number, **elsewhere), state)
        keep(an_update(number), state)
    with pytest.raises(BadRosterError, match="the difference would show one"):
        without_the_last(fleet, once.states, attempt=2).shared()


def test_a_vehicle_that_opened_a_sum_of_another_run_in_between_remembers_both(fleet):
    fleet = open_to_two(fleet)
    once = Sum(fleet, minimum_cohort=2).unmasked()
    for number, state in enumerate(once.states):
        keep(an_update(number, run_id="another", round_number=1), state)
    other = Sum(fleet, once.states, run_id="another", round=1, minimum_cohort=2).unmasked()
    for number, state in enumerate(other.states):
        keep(an_update(number), state)
    with pytest.raises(BadRosterError, match="the difference would show one"):
        without_the_last(fleet, other.states).shared()


def test_a_killed_server_may_repeat_its_last_round_over_the_same_vehicles(fleet):
    once = Sum(fleet).unmasked()
    for number, state in enumerate(once.states):
        keep(an_update(number), state)
    again = Sum(fleet, once.states).unmasked()
    assert again.total()[1] == once.total()[1]


def test_a_round_that_nobody_opened_binds_nobody(fleet):
    """Trained, even uploaded, and then the server went back: nothing was shown."""
    never = Sum(fleet).uploaded()
    keep(an_update(round_number=3), never.states[0])
    check_in(make_terms(round=3), never.states[0], fleet.vehicles[0])


def test_what_was_opened_survives_any_number_of_trainings_and_a_new_process(fleet):
    once = Sum(fleet).unmasked()
    state = pickle.loads(pickle.dumps(once.states[0]))
    for number in range(5, 40):
        keep(an_update(round_number=number), state)
    assert opened_members(an_update(), state) == opened_members(an_update(), once.states[0]) != b""


def test_the_memory_of_runs_is_bounded_and_the_newest_stay():
    state = RecordDict()
    for number in range(1030):
        note_opened(an_update(run_id=f"run {number}"), b"m" * 32, state)
    assert opened_members(an_update(run_id="run 0"), state) == b""
    assert opened_members(an_update(run_id="run 6"), state) == b"m" * 32
    assert opened_members(an_update(run_id="run 1029"), state) == b"m" * 32


# Scores: counters without a vector, beside the updates of the same round.


def the_scores(number=0, **changes):
    fields = {
        "run_id": "run",
        "round_number": 4,
        "schema_digest": b"s" * 32,
        "settings_digest": b"t" * 32,
        "model_digest": b"n" * 32,
        "counters": tuple(100 * number + place for place in range(len(SCORE_COUNTERS))),
    }
    return LocalScores(**(fields | changes))


SCORE_TERMS = {"model_digest": b"n" * 32, "parameter_count": 0, "modulus_bits": 2, "step": 1.0}


def score_sum(fleet, states=None, **changes):
    states = states or [RecordDict() for _ in fleet.vehicles]
    for number, state in enumerate(states):
        keep(the_scores(number), state)
    return Sum(fleet, states, **(SCORE_TERMS | changes))


def test_scores_are_summed_without_a_vector(fleet):
    one = score_sum(fleet).unmasked()

    _, masks_C = one.aggregator.mask_sum(np.uint8, 0, len(SCORE_COUNTERS))
    sum_C = np.zeros(len(SCORE_COUNTERS), np.uint64)
    for _, blob in one.blobs:
        header, payload = unpack(blob)
        assert (header.parameter_count, len(payload)) == (0, 8 * len(SCORE_COUNTERS))
        sum_C += np.frombuffer(payload, "<u8")
    assert (sum_C - masks_C).tolist() == [600 + 4 * place for place in range(len(SCORE_COUNTERS))]


def test_scores_that_wait_are_kept_to_the_last_bit():
    state, scores = RecordDict(), the_scores(counters=(0, 2**64 - 1))
    keep(scores, state)
    assert kept(pickle.loads(pickle.dumps(state))) == scores


def test_scores_do_not_go_into_a_sum_of_updates_nor_an_update_into_one_of_scores(fleet):
    state = RecordDict()
    keep(the_scores(), state)
    with pytest.raises(NoUpdateKeptError, match="of another length"):
        check_in(make_terms(model_digest=b"n" * 32), state, fleet.vehicles[0])
    keep(an_update(), state)
    with pytest.raises(NoUpdateKeptError, match="of another length"):
        check_in(make_terms(parameter_count=0), state, fleet.vehicles[0])


def test_a_second_sum_of_scores_is_over_the_same_vehicles_too(fleet):
    fleet = open_to_two(fleet)
    once = score_sum(fleet, minimum_cohort=2).unmasked()
    for number, state in enumerate(once.states):
        keep(the_scores(number), state)
    with pytest.raises(BadRosterError, match="the difference would show one"):
        without_the_last(fleet, once.states, **SCORE_TERMS).shared()


def test_scores_after_an_update_do_not_let_that_be_summed_again_over_others(fleet):
    fleet = open_to_two(fleet)
    once = Sum(fleet, minimum_cohort=2).unmasked()
    scored = score_sum(fleet, once.states, minimum_cohort=2).unmasked()
    for number, state in enumerate(scored.states):
        keep(an_update(number), state)
    with pytest.raises(BadRosterError, match="the difference would show one"):
        without_the_last(fleet, scored.states).shared()


@pytest.mark.parametrize(
    ("metrics", "told"), [("clear", True), ("summed", True), ("withheld", False)]
)
def test_a_vehicle_that_withholds_its_loss_keeps_it_out_of_the_sum_as_well(fleet, metrics, told):
    vehicles = [replace(one, metrics=metrics) for one in fleet.vehicles]
    _, counters = Sum(Fleet(fleet.authority, vehicles)).unmasked().total()

    assert (counters["loss_sum"] > 0) == told
    assert counters["loss_weight"] == (counters["weight"] if told else 0)
    assert counters["weight"] > 0


# The count of clipped updates under noise.

NOISE = {"noise_variance": 9.0, "clip_norm": 1.0, "equal_weights": True, "weight_cap": 1}


def clipped_count(fleet, **changes):
    """Of four vehicles whose updates are all too long, as the server gets it."""
    states = [RecordDict() for _ in fleet.vehicles]
    for state in states:
        keep(an_update(update_N=LENGTH_5), state)
    noised = NOISE | {"modulus_bits": 16, "step": 0.05} | changes
    _, counters = Sum(fleet, states, **noised).unmasked().total()
    return int(np.uint64(counters["clipped"]).astype(np.int64)), counters


def test_the_count_of_clipped_updates_has_noise_of_its_own_or_is_not_told(fleet):
    assert clipped_count(fleet)[0] == 0
    counts = [clipped_count(fleet, count_noise_variance=1e6)[0] for _ in range(4)]
    assert len(set(counts)) > 1
    assert max(abs(count - CARS) for count in counts) > 20  # one in 60 is closer, none of four
    nearly_none, counters = clipped_count(fleet, count_noise_variance=1e-5)
    assert nearly_none == CARS
    assert (counters["loss_sum"], counters["squared_norm"]) == (0, 0)
