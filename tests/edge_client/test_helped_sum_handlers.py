"""A vehicle's one upload for mask helpers and a helper's one answer, as Flower's nodes give them."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from flwr.app import RecordDict

from convoy_compression.update.masked import LaneSum, MaskedFormat
from convoy_driving.data_config import DataConfig
from convoy_edge_client.errors import (
    NoUpdateKeptError,
    RefusedInstructionsError,
    VehicleConfigError,
)
from convoy_edge_client.local_update import LocalUpdate, keep, session_of
from convoy_edge_client.mask_helper_handler import ANSWERED, mask_sum
from convoy_edge_client.profile_handler import profile_of
from convoy_edge_client.secure_sum_handlers import check_in, contribution, helped_upload, share
from convoy_edge_client.vehicle_config import VehicleConfig
from convoy_edge_client.vehicle_party import keep_revocations, party_of
from convoy_edge_client.warm_cache import WarmCache
from convoy_privacy.certificates import Role
from convoy_privacy.errors import (
    BadRosterError,
    BadSignatureError,
    FleetFolderError,
    OutOfOrderError,
    RefusedTermsError,
    TooFewPeersError,
    UntrustedPeerError,
    WrongContextError,
)
from convoy_privacy.fleet_authority import FleetAuthority
from convoy_privacy.key_files import write_file
from convoy_privacy.party import REVOCATIONS, save_party
from convoy_privacy.sealing import generate_sealing_key, sign_sealing_key, verify_sealing_key
from convoy_privacy.secure_sum.aggregator import Aggregator
from convoy_privacy.secure_sum.helped_aggregator import HelpedAggregator
from convoy_privacy.secure_sum.helped_vehicle import seal_seeds
from convoy_privacy.secure_sum.terms import VehiclePolicy, parse_terms
from convoy_protos.envelope import SUM_COUNTERS, unpack
from convoy_protos.errors import MalformedMessageError
from convoy_protos.v1.secure_sum_pb2 import HelperRequest, HelperSeeds, SumTerms

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
NOISE = {"noise_variance": 40.0, "clip_norm": 2.0, "equal_weights": True, "weight_cap": 1}


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
    """Four vehicles and two roadside units with folders on disk."""

    authority: FleetAuthority
    vehicles: list[VehicleConfig]
    units: list[VehicleConfig]

    def key(self, place):
        """What a unit offers."""
        return profile_of(self.units[place], DataConfig(), WarmCache()).helper

    def terms(self, places=(0, 1), **changes):
        """SumTerms that name these units."""
        fields = {
            "helpers": [self.key(place) for place in places],
            "cohort": [vehicle.vehicle_id for vehicle in self.vehicles],
        }
        return SumTerms(**(FIELDS | fields | changes)).SerializeToString(deterministic=True)


@pytest.fixture
def fleet(tmp_path):
    """Of which each test has its own."""
    now = datetime.now(UTC)
    authority = FleetAuthority.create(now)
    for name, role in [(f"car{n}", Role.VEHICLE) for n in range(CARS)] + [
        (f"unit{n}", Role.HELPER) for n in range(2)
    ]:
        identity = authority.issue(name, role, now)
        key = generate_sealing_key("x25519", np.random.default_rng(len(name)).bytes)
        save_party(
            tmp_path / name,
            authority,
            identity.certificate,
            identity.signing_key,
            key if role is Role.HELPER else None,
        )
    return Fleet(
        authority,
        [
            VehicleConfig(
                vehicle_id=f"car{n}",
                recordings=("tub",),
                cache_dir="cache",
                identity=str(tmp_path / f"car{n}"),
            )
            for n in range(CARS)
        ],
        [
            VehicleConfig(vehicle_id=f"unit{n}", helper_identity=str(tmp_path / f"unit{n}"))
            for n in range(2)
        ],
    )


class Sum:
    """One helped sum; `states` is what Flower keeps for each vehicle."""

    def __init__(self, fleet, before=None, **changes):
        self.fleet = fleet
        self.terms = fleet.terms(**changes)
        self.states = before.states if before else [RecordDict() for _ in fleet.vehicles]
        if before is None:
            for number, state in enumerate(self.states):
                keep(an_update(number), state)
        self.aggregator = HelpedAggregator(
            self.terms,
            fleet.authority.trust(),
            datetime.now(UTC),
            fleet.authority.revocation_list,
        )
        self.lanes = MaskedFormat.of(parse_terms(self.terms).fields)
        self.lane_sum = LaneSum(self.lanes)
        self.counters_C = np.zeros(len(SUM_COUNTERS), np.uint64)

    def uploaded(self, numbers=range(CARS)):
        """These vehicles upload; the request is made."""
        for number in numbers:
            vehicle = self.fleet.vehicles[number]
            blob, seeds = helped_upload(self.terms, self.states[number], vehicle)
            header, payload = unpack(blob)
            self.aggregator.upload(vehicle.vehicle_id, seeds, payload, header.signature)
            self.lane_sum.add(self.lanes.unpack(payload[:-COUNTER_BYTES]))
            self.counters_C += np.frombuffer(payload[-COUNTER_BYTES:], "<u8")
        self.request = self.aggregator.close()
        return self

    def answered(self):
        """All units answer."""
        for unit in self.fleet.units:
            self.aggregator.helper_reply(unit.vehicle_id, ask(unit, self.request))
        masks_P, masks_C = self.aggregator.mask_sum(
            self.lanes.lane_type, self.lanes.padded_count, len(SUM_COUNTERS)
        )
        self.lane_sum.subtract(masks_P)
        self.counters_C -= masks_C
        return self


def ask(unit, request):
    """Its answer in a new Flower run: nothing in the node's state."""
    return mask_sum(request, RecordDict(), unit)


def changed(request, change):
    message = HelperRequest.FromString(request)
    change(message)
    return message.SerializeToString(deterministic=True)


def test_the_sum_of_the_uploads_is_that_of_the_contributions(fleet):
    one = Sum(fleet).uploaded((0, 1, 3)).answered()

    terms = parse_terms(one.terms)
    parts = [contribution(an_update(number), terms) for number in (0, 1, 3)]
    wanted_N = np.sum([weighted_N for weighted_N, _ in parts], axis=0)
    decoded = one.lanes.decode(one.lane_sum.lanes_P, len(parts))
    np.testing.assert_allclose(decoded.sum_N, wanted_N, atol=3 * 0.01 * 3)
    wanted_C = np.sum([counters_C for _, counters_C in parts], axis=0)
    np.testing.assert_array_equal(one.counters_C, wanted_C)


@pytest.mark.parametrize("noise", [{}, NOISE], ids=["exact", "noised"])
@pytest.mark.parametrize("revive", [lambda state: state, lambda s: pickle.loads(pickle.dumps(s))])
def test_the_same_terms_get_the_identical_bytes(fleet, revive, noise):
    one = Sum(fleet, **noise)
    state, vehicle = one.states[0], fleet.vehicles[0]
    first = helped_upload(one.terms, state, vehicle)
    before = pickle.loads(pickle.dumps(state))
    state = revive(state)
    assert helped_upload(one.terms, state, vehicle) == first
    assert state == before


def test_an_upload_alone_is_not_the_contribution(fleet):
    one = Sum(fleet)
    blob, _ = helped_upload(one.terms, one.states[0], fleet.vehicles[0])
    weighted_N, _ = contribution(an_update(), parse_terms(one.terms))
    payload = unpack(blob)[1]
    decoded = one.lanes.decode(one.lanes.unpack(payload[:-COUNTER_BYTES]), 1)
    assert np.corrcoef(decoded.sum_N, weighted_N)[0, 1] < 0.5


def refuses(fleet, error, words=None, terms=None, update=None, **vehicle):
    state = RecordDict()
    keep(update or an_update(), state)
    with pytest.raises(error, match=words):
        helped_upload(terms or fleet.terms(), state, replace(fleet.vehicles[0], **vehicle))
    assert session_of(state) == b""


def test_a_sum_against_the_vehicle_s_own_configuration_is_refused(fleet):
    refuses(fleet, RefusedTermsError, "at least 4 are asked for", minimum_cohort=4)
    refuses(fleet, RefusedTermsError, "2 mask helpers, at least 3", minimum_helpers=3)
    refuses(fleet, VehicleConfigError, "convoy fleet add", identity="")
    refuses(fleet, RefusedTermsError, "without helpers", terms=fleet.terms(helpers=[], cohort=[]))
    refuses(fleet, NoUpdateKeptError, "another round", update=an_update(round_number=3))
    refuses(fleet, RefusedInstructionsError, "noise needs", terms=fleet.terms(noise_variance=9.0))


def test_a_helper_must_be_one_of_the_pinned_ca(fleet):
    now = datetime.now(UTC)
    stranger = FleetAuthority.create(now).issue("unit9", Role.HELPER, now)
    key = generate_sealing_key("x25519", np.random.default_rng(1).bytes)
    vehicle = fleet.authority.issue("car9", Role.VEHICLE, now)
    swapped = fleet.key(1)
    swapped.sealing_key = key.public_key
    for helper, error in (
        (sign_sealing_key(key, stranger), UntrustedPeerError),
        (sign_sealing_key(key, vehicle), UntrustedPeerError),
        (swapped, BadSignatureError),
    ):
        refuses(fleet, error, terms=fleet.terms(helpers=[fleet.key(0), helper]))


def test_no_seed_is_sealed_to_a_helper_that_is_revoked(fleet):
    terms = fleet.terms()
    fleet.authority.revoke("unit1", datetime.now(UTC))
    keep_revocations(Path(fleet.vehicles[0].identity), fleet.authority.revocation_list)
    refuses(fleet, UntrustedPeerError, "unit1.*revoked", terms=terms)


def test_an_update_is_never_in_sums_of_both_kinds(fleet):
    """Each would not know over whom the other was opened."""
    one = Sum(fleet).uploaded()
    plain = SumTerms.FromString(one.terms)
    plain.ClearField("helpers")
    plain.ClearField("cohort")
    plain.attempt = 2
    aggregator = Aggregator(
        plain.SerializeToString(deterministic=True), fleet.authority.trust(), datetime.now(UTC)
    )
    for vehicle, state in zip(fleet.vehicles, one.states, strict=True):
        aggregator.check_in(vehicle.vehicle_id, check_in(aggregator.terms.encoded, state, vehicle))
    roster = aggregator.close_check_in(b"")
    with pytest.raises(BadRosterError, match="other vehicles"):
        share(roster, one.states[0], fleet.vehicles[0])


@pytest.mark.parametrize("again", [False, True], ids=["kept", "trained again"])
def test_a_second_sum_of_an_update_has_the_same_helpers(fleet, again):
    one = Sum(fleet).uploaded()
    if again:
        keep(an_update(), one.states[0])
    with pytest.raises(RefusedTermsError, match="other helpers"):
        helped_upload(fleet.terms((0,), attempt=2), one.states[0], fleet.vehicles[0])
    helped_upload(fleet.terms(attempt=2, step=0.02), one.states[0], fleet.vehicles[0])


def test_a_noised_sum_is_not_made_twice(fleet):
    one = Sum(fleet, **NOISE).uploaded()
    with pytest.raises(RefusedInstructionsError, match="second noised sum"):
        helped_upload(fleet.terms(attempt=2, **NOISE), one.states[0], fleet.vehicles[0])


def test_an_overflowed_sum_is_made_again_from_the_same_updates(fleet):
    once = Sum(fleet).uploaded().answered()
    again = Sum(fleet, once, attempt=2, step=0.02).uploaded().answered()
    np.testing.assert_array_equal(again.counters_C, once.counters_C)


def test_the_next_round_begins_anew(fleet):
    one = Sum(fleet).uploaded()
    keep(an_update(round_number=5), one.states[0])
    assert session_of(one.states[0]) == b""
    helped_upload(fleet.terms((0,), round=5), one.states[0], fleet.vehicles[0])


# The helper.


def test_an_aggregator_that_asks_twice_gets_the_same_answer_or_none(fleet):
    """Also one that starts a second Flower run for it, or asks after a restart."""
    one, unit = Sum(fleet).uploaded(), fleet.units[0]
    reply = ask(unit, one.request)

    assert ask(unit, one.request) == reply
    smaller = changed(one.request, lambda request: request.accepted.pop())
    with pytest.raises(OutOfOrderError, match="another request"):
        ask(unit, smaller)


def test_of_two_requests_at_the_same_time_one_is_answered(fleet):
    one, unit = Sum(fleet).uploaded(), fleet.units[0]
    smaller = changed(one.request, lambda request: request.accepted.pop())

    def outcome(request):
        try:
            return ask(unit, request)
        except OutOfOrderError as error:
            return error

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(outcome, 4 * [one.request, smaller]))

    answers = {reply for reply in outcomes if isinstance(reply, bytes)}
    assert len(answers) == 1
    assert sum(isinstance(reply, bytes) for reply in outcomes) == 4


def test_a_smaller_list_in_a_later_attempt_is_refused(fleet, tmp_path):
    once = Sum(fleet).uploaded().answered()
    again = Sum(fleet, once, attempt=2).uploaded((0, 1, 2))
    before = (tmp_path / "unit0" / ANSWERED).read_bytes()
    with pytest.raises(BadRosterError, match="the difference would show one"):
        ask(fleet.units[0], again.request)
    assert (tmp_path / "unit0" / ANSWERED).read_bytes() == before


def test_a_helper_that_cannot_remember_does_not_answer(fleet, tmp_path, monkeypatch):
    one = Sum(fleet).uploaded()

    def full(path, *_arguments, **_settings):
        raise FleetFolderError(path, "No space left on device")

    monkeypatch.setattr("convoy_edge_client.mask_helper_handler.write_file", full)
    with pytest.raises(FleetFolderError, match="No space left"):
        ask(fleet.units[0], one.request)
    monkeypatch.undo()

    write_file(tmp_path / "unit0" / ANSWERED, bytes(63), private=True)
    with pytest.raises(FleetFolderError, match=r"answered\.sums: 63 bytes are no memory"):
        ask(fleet.units[0], one.request)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda request: request.accepted.pop(), TooFewPeersError),  # of three
        (
            lambda request: setattr(request.accepted[0], "context_digest", bytes(32)),
            WrongContextError,
        ),
        (lambda request: request.accepted.reverse(), BadRosterError),
        (lambda request: request.ClearField("terms"), RefusedTermsError),
    ],
    ids=["too few", "another sum", "out of order", "no terms"],
)
def test_a_request_that_could_show_somebody_is_refused_and_not_remembered(
    fleet, tmp_path, change, error
):
    one = Sum(fleet).uploaded((0, 1, 2))
    with pytest.raises(error):
        ask(fleet.units[0], changed(one.request, change))
    assert not (tmp_path / "unit0" / ANSWERED).exists()
    ask(fleet.units[0], one.request)


def test_a_helper_has_a_minimum_of_its_own(fleet):
    one = Sum(fleet).uploaded()
    with pytest.raises(TooFewPeersError):
        ask(replace(fleet.units[0], minimum_cohort=5), one.request)


def test_terms_that_are_too_long_for_a_helper_are_refused(fleet):
    """Vehicles that have agreed to them are no reason to spend the memory."""
    terms = fleet.terms(parameter_count=2**30)
    policy = VehiclePolicy(max_parameter_count=2**31)
    now = datetime.now(UTC)
    accepted = [
        HelperSeeds.FromString(
            seal_seeds(
                terms, party.identity, policy, party.trust, now, np.random.default_rng(1).bytes
            )[1]
        )
        for party in map(party_of, fleet.vehicles)
    ]
    request = HelperRequest(
        terms=terms, accepted=accepted, revocations=fleet.authority.revocation_list
    )
    with pytest.raises(RefusedTermsError, match="parameters, at most"):
        ask(fleet.units[0], request.SerializeToString(deterministic=True))


def test_garbage_is_refused(fleet):
    with pytest.raises(MalformedMessageError):
        ask(fleet.units[0], b"\xff" * 40)


def test_a_vehicle_is_no_helper(fleet):
    one = Sum(fleet).uploaded()
    with pytest.raises(VehicleConfigError, match="car0 is no mask helper"):
        ask(fleet.vehicles[0], one.request)
    mistaken = replace(fleet.vehicles[0], helper_identity=fleet.vehicles[0].identity)
    with pytest.raises(VehicleConfigError, match="folder of vehicle car0"):
        ask(mistaken, one.request)


def test_a_helper_remembers_what_the_fleet_has_revoked_since(fleet, tmp_path):
    now = datetime.now(UTC)
    fleet.authority.issue("car9", Role.VEHICLE, now)
    fleet.authority.revoke("car9", now)
    one = Sum(fleet).uploaded()
    ask(fleet.units[0], one.request)
    assert (tmp_path / "unit0" / REVOCATIONS).read_bytes() == fleet.authority.revocation_list


def test_a_revoked_vehicle_is_not_in_a_sum(fleet):
    one = Sum(fleet).uploaded()
    fleet.authority.revoke("car1", datetime.now(UTC))
    newer = changed(
        one.request,
        lambda request: setattr(request, "revocations", fleet.authority.revocation_list),
    )
    with pytest.raises(UntrustedPeerError, match="car1"):
        ask(fleet.units[0], newer)


# Who says that it helps.


def test_a_roadside_unit_introduces_itself_as_a_helper_alone(fleet):
    profile = profile_of(fleet.units[0], DataConfig(), WarmCache())

    assert (profile.vehicle_id, profile.train_examples) == ("unit0", 0)
    assert profile.helper_only
    trust, now = fleet.authority.trust(), datetime.now(UTC)
    assert verify_sealing_key(profile.helper, trust, Role.HELPER, now).name == "unit0"


def test_a_vehicle_that_helps_says_so_beside_what_it_is(fleet):
    both = replace(
        fleet.vehicles[0], helper_identity=fleet.units[0].helper_identity, metrics="withheld"
    )
    profile = profile_of(both, DataConfig(), WarmCache())
    assert (profile.vehicle_id, profile.helper_only) == ("car0", False)
    assert profile.helper == fleet.key(0)
    assert not profile_of(
        replace(fleet.vehicles[1], metrics="withheld"), DataConfig(), WarmCache()
    ).HasField("helper")
