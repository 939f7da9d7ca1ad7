"""With mask helpers: one upload, one answer of each helper, and a sum of the accepted alone."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_sum import (
    COUNTER_COUNT,
    LANE_COUNT,
    NOW,
    POLICY,
    authority,
    cuts,
    fixed_random,
    flips,
    identity,
    make_terms,
    vector,
)

from convoy_privacy import sealing
from convoy_privacy.certificates import Role
from convoy_privacy.errors import (
    BadRosterError,
    BadSharesError,
    BadSignatureError,
    LateUploadError,
    MaskReuseError,
    OutOfOrderError,
    RefusedTermsError,
    TooFewPeersError,
    UnknownPeerError,
    UntrustedPeerError,
    WrongContextError,
)
from convoy_privacy.fleet_authority import FleetAuthority
from convoy_privacy.sealing import X25519_SUITE, sealing_key, sign_sealing_key
from convoy_privacy.secure_sum.helped_aggregator import HelpedAggregator
from convoy_privacy.secure_sum.helped_vehicle import (
    check_same_helpers,
    helpers_digest,
    masked_for_helpers,
    seal_seeds,
    seed_aad,
    seed_info,
)
from convoy_privacy.secure_sum.helper import MaskHelper
from convoy_privacy.secure_sum.messages import helper_seeds_signed
from convoy_privacy.secure_sum.vehicle import check_in, sign_upload, unmask
from convoy_protos.errors import MalformedMessageError, ProtocolError
from convoy_protos.v1.secure_sum_pb2 import HelperReply, HelperRequest, HelperSeeds

TRUST = authority().trust()
COHORT = 4
KEYS = {place: sealing_key(X25519_SUITE, bytes([place]) * 32) for place in (1, 2)}


def signed_key(place):
    return sign_sealing_key(KEYS[place], identity(place, Role.HELPER))


def helped_terms(places=(1, 2), **changes):
    fields = {
        "helpers": [signed_key(place) for place in places],
        "cohort": [identity(number).name for number in range(1, COHORT + 1)],
    }
    return make_terms(**(fields | changes))


def new_helper(place=1, answered=b"", minimum_cohort=2):
    return MaskHelper(
        identity(place, Role.HELPER),
        KEYS[place],
        lambda _: LANE_COUNT,
        COUNTER_COUNT,
        minimum_cohort=minimum_cohort,
        answered=answered,
    )


def seal(number, terms=None, held=b"", label="", policy=POLICY):
    return seal_seeds(
        terms or helped_terms(),
        identity(number),
        policy,
        TRUST,
        NOW,
        fixed_random(f"seeds {number} {label}"),
        held,
    )


class HelpedSum:
    """Vehicles that upload to one aggregator."""

    def __init__(self, terms=b""):
        self.terms = terms or helped_terms()
        self.aggregator = HelpedAggregator(self.terms, TRUST, NOW, authority().revocation_list)
        self.sum_P = np.zeros(LANE_COUNT, np.uint8)
        self.sum_C = np.zeros(COUNTER_COUNT, np.uint64)
        self.plain_P = np.zeros(LANE_COUNT, np.uint8)
        self.plain_C = np.zeros(COUNTER_COUNT, np.uint64)
        self.sent: dict[int, tuple[bytes, bytes, bytes]] = {}

    def make(self, number):
        """A vehicle's message: seeds, body, signature."""
        session, seeds = seal(number, self.terms)
        session, lanes_P, counters_C = masked_for_helpers(session, *vector(number))
        body = lanes_P.tobytes() + counters_C.tobytes()
        self.sent[number] = seeds, body, sign_upload(session, identity(number), body)
        return self.sent[number]

    def upload(self, numbers):
        """These vehicles upload."""
        for number in numbers:
            self.aggregator.upload(identity(number).name, *self.make(number))
            lanes_P, counters_C = vector(number)
            self.plain_P += lanes_P
            self.plain_C += counters_C
            body = self.sent[number][1]
            self.sum_P += np.frombuffer(body[:LANE_COUNT], np.uint8)
            self.sum_C += np.frombuffer(body[LANE_COUNT:], np.uint64)
        return self

    def ask(self, *places):
        """These helpers answer."""
        request = self.aggregator.close()
        for place in places:
            reply = new_helper(place).answer(request, TRUST, NOW)
            self.aggregator.helper_reply(identity(place, Role.HELPER).name, reply)
        return self

    def total(self):
        """Sum of the uploads without their masks."""
        masks_P, masks_C = self.aggregator.mask_sum(np.uint8, LANE_COUNT, COUNTER_COUNT)
        return self.sum_P - masks_P, self.sum_C - masks_C


@given(st.sets(st.integers(1, COHORT), min_size=2))
def test_the_sum_is_that_of_whoever_uploaded(numbers):
    helped = HelpedSum().upload(sorted(numbers)).ask(1, 2)
    sum_P, sum_C = helped.total()
    np.testing.assert_array_equal(sum_P, helped.plain_P)
    np.testing.assert_array_equal(sum_C, helped.plain_C)


def test_the_order_of_arrival_changes_no_byte_of_the_request():
    def run(order):
        helped = HelpedSum()
        sent = {number: SENT.setdefault(number, helped.make(number)) for number in order}
        for number in order:
            helped.aggregator.upload(identity(number).name, *sent[number])
        return helped.aggregator.close()

    SENT = {}
    assert run([1, 2, 3]) == run([3, 1, 2])


def test_without_one_helper_nothing_is_removed():
    helped = HelpedSum().upload([1, 2]).ask(2)
    assert not helped.aggregator.removable
    with pytest.raises(TooFewPeersError):
        helped.total()


# The vehicle.


def test_a_repeated_request_gets_the_same_seeds_and_masks():
    session, seeds = seal(1)
    assert seal(1, held=session, label="other") == (session, seeds)
    first = masked_for_helpers(session, *vector(1))
    again = masked_for_helpers(first[0], *vector(1))
    assert [part.tobytes() for part in first[1:]] == [part.tobytes() for part in again[1:]]
    assert again[0] == first[0]


def test_a_second_vector_is_never_masked_for_helpers():
    session, *_ = masked_for_helpers(seal(1)[0], *vector(1))
    with pytest.raises(MaskReuseError):
        masked_for_helpers(session, *vector(2))


def test_an_update_is_in_one_helped_sum_for_each_attempt():
    session, _ = seal(1)
    with pytest.raises(RefusedTermsError, match="attempt"):
        seal(1, helped_terms(step=0.5), held=session)
    seal(1, helped_terms(attempt=2), held=session)


def test_a_vehicle_has_a_minimum_of_helpers_of_its_own():
    policy = replace(POLICY, minimum_helpers=2)
    seal(1, policy=policy)
    with pytest.raises(RefusedTermsError, match="1 mask helpers, at least 2 are asked for"):
        seal(1, helped_terms((1,)), policy=policy)


def test_a_second_sum_of_an_update_has_the_same_helpers():
    """Others would not know over whom the first one was opened."""
    noted = helpers_digest(helped_terms())
    check_same_helpers(noted, helped_terms(attempt=2, step=0.5))
    for places in ((1,), (2, 1)):
        with pytest.raises(RefusedTermsError, match="other helpers"):
            check_same_helpers(noted, helped_terms(places, attempt=2))


def test_nobody_outside_the_cohort_seals_seeds():
    with pytest.raises(BadRosterError):
        seal(COHORT + 1)


def test_terms_without_helpers_have_no_seeds():
    with pytest.raises(RefusedTermsError):
        seal(1, make_terms())


def test_sessions_of_the_two_modes_do_not_mix():
    pairwise, _ = check_in(make_terms(), identity(1), POLICY, fixed_random("pairwise"))
    for session in (pairwise, b""):
        with pytest.raises(OutOfOrderError):
            masked_for_helpers(session, *vector(1))
    helped, *_ = masked_for_helpers(seal(1)[0], *vector(1))
    with pytest.raises(ProtocolError):
        unmask(helped, b"", identity(1))


def changed_helper(**changes):
    helper = signed_key(1)
    for field, value in changes.items():
        setattr(helper, field, value)
    return helper


@pytest.mark.parametrize(
    ("helpers", "error"),
    [
        ([changed_helper(sealing_key=bytes(range(32)))], BadSignatureError),  # the server's own key
        ([changed_helper(signature=bytes(64))], BadSignatureError),
        ([sign_sealing_key(KEYS[1], identity(1))], UntrustedPeerError),  # a vehicle
        ([changed_helper(certificate=b"no certificate")], UntrustedPeerError),
    ],
    ids=["swapped key", "no signature", "another role", "no certificate"],
)
def test_a_helper_that_nobody_vouches_for_is_refused(helpers, error):
    with pytest.raises(error):
        seal(1, helped_terms(helpers=helpers))
    with pytest.raises(error):
        HelpedAggregator(helped_terms(helpers=helpers), TRUST, NOW)


def test_one_helper_with_two_certificates_does_not_count_twice():
    fleet = copy_of_authority()
    renewed = fleet.issue(identity(1, Role.HELPER).name, Role.HELPER, NOW, renew=True)
    helpers = [signed_key(1), sign_sealing_key(KEYS[2], renewed)]
    with pytest.raises(BadRosterError, match="twice"):
        seal(1, helped_terms(helpers=helpers))


def copy_of_authority():
    original = authority()
    return FleetAuthority(
        original.signing_key, original.certificate, original.revocation_list, tuple(original.issued)
    )


# The aggregator.


def refuses(helped, error, number, *message):
    with pytest.raises(error):
        helped.aggregator.upload(identity(number).name, *message)


@pytest.mark.parametrize("damage", [flips, cuts])
def test_a_damaged_helped_upload_is_refused(damage):
    helped = HelpedSum()
    seeds, body, signature = helped.make(1)
    for damaged in damage(seeds):
        refuses(helped, ProtocolError, 1, damaged, body, signature)
    for damaged in damage(body):
        refuses(helped, BadSignatureError, 1, seeds, damaged, signature)
    for damaged in damage(signature):
        refuses(helped, BadSignatureError, 1, seeds, body, damaged)
    helped.aggregator.upload(identity(1).name, seeds, body, signature)


def test_an_upload_is_taken_once_from_its_own_sender_and_in_time():
    helped = HelpedSum().upload([1, 2])
    refuses(helped, OutOfOrderError, 1, *helped.sent[1])
    refuses(helped, UnknownPeerError, 3, *helped.sent[1])
    helped.make(3)
    helped.aggregator.close()
    refuses(helped, LateUploadError, 3, *helped.sent[3])
    with pytest.raises(OutOfOrderError):
        helped.aggregator.close()


def test_an_upload_for_other_terms_is_refused():
    other = HelpedSum(helped_terms(round=8))
    refuses(HelpedSum(), WrongContextError, 1, *other.make(1))


def test_with_too_few_uploads_no_helper_is_asked():
    helped = HelpedSum(helped_terms(minimum_cohort=3)).upload([1, 2])
    with pytest.raises(TooFewPeersError):
        helped.aggregator.close()
    helped.upload([3]).ask(1, 2)
    np.testing.assert_array_equal(helped.total()[0], helped.plain_P)


def test_a_damaged_reply_of_a_helper_is_refused():
    helped = HelpedSum().upload([1, 2])
    reply = new_helper().answer(helped.aggregator.close(), TRUST, NOW)
    name = identity(1, Role.HELPER).name
    for damaged in [*flips(reply), *cuts(reply)]:
        with pytest.raises(ProtocolError):
            helped.aggregator.helper_reply(name, damaged)
    for wrong in (identity(2, Role.HELPER).name, identity(1).name):
        with pytest.raises(ProtocolError):
            helped.aggregator.helper_reply(wrong, reply)


def test_a_reply_before_the_request_is_refused():
    helped = HelpedSum().upload([1, 2])
    with pytest.raises(OutOfOrderError):
        helped.aggregator.helper_reply(identity(1, Role.HELPER).name, b"")


def test_a_mask_sum_of_another_length_is_refused():
    helped = HelpedSum(helped_terms((1,))).upload([1, 2]).ask(1)
    with pytest.raises(MalformedMessageError):
        helped.aggregator.mask_sum(np.uint8, LANE_COUNT + 1, COUNTER_COUNT)


def test_aggregator_and_helpers_need_terms_that_name_helpers():
    with pytest.raises(ValueError, match="no helpers"):
        HelpedAggregator(make_terms(), TRUST, NOW)


# The helper.


@pytest.fixture
def request_of_three():
    return HelpedSum().upload([1, 2, 3]).aggregator.close()


def changed(request, change):
    message = HelperRequest.FromString(request)
    change(message)
    return message.SerializeToString()


def test_a_helper_says_nothing_but_the_sum_of_masks(request_of_three):
    reply = HelperReply.FromString(new_helper().answer(request_of_three, TRUST, NOW))
    assert len(reply.mask_sum) == LANE_COUNT + 8 * COUNTER_COUNT


def test_a_repeated_request_gets_the_same_answer_also_after_a_restart(request_of_three):
    helper = new_helper()
    reply = helper.answer(request_of_three, TRUST, NOW)
    assert helper.answer(request_of_three, TRUST, NOW) == reply
    restarted = new_helper(answered=helper.answered)
    assert restarted.answer(request_of_three, TRUST, NOW) == reply
    assert restarted.answered == helper.answered


def test_a_second_request_for_the_same_terms_is_refused_also_after_a_restart(request_of_three):
    """The difference would be one vehicle's mask."""
    helper = new_helper()
    helper.answer(request_of_three, TRUST, NOW)
    without_one = changed(request_of_three, lambda message: message.accepted.pop())
    for answering in (helper, new_helper(answered=helper.answered)):
        with pytest.raises(OutOfOrderError):
            answering.answer(without_one, TRUST, NOW)


def test_a_second_sum_of_the_same_updates_is_over_the_same_vehicles():
    helper = new_helper()
    helper.answer(HelpedSum().upload([1, 2, 3]).aggregator.close(), TRUST, NOW)
    again = HelpedSum(helped_terms(attempt=2))
    with pytest.raises(BadRosterError, match="the difference would show one"):
        helper.answer(again.upload([1, 2]).aggregator.close(), TRUST, NOW)
    same = HelpedSum(helped_terms(attempt=3))
    helper.answer(same.upload([1, 2, 3]).aggregator.close(), TRUST, NOW)


def test_a_refused_request_does_not_count_as_answered(request_of_three):
    helper = new_helper()
    with pytest.raises(TooFewPeersError):
        helper.answer(changed(request_of_three, lambda m: m.ClearField("accepted")), TRUST, NOW)
    assert helper.answered == b""
    helper.answer(request_of_three, TRUST, NOW)


def repeat_first(message):
    message.accepted.insert(0, message.accepted[0])


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda m: m.accepted.reverse(), BadRosterError),
        (repeat_first, BadRosterError),
        (lambda m: m.accepted[0].ClearField("signature"), MalformedMessageError),
        (lambda m: m.accepted[0].sealed.pop(), MalformedMessageError),
        (lambda m: setattr(m.accepted[0], "context_digest", bytes(32)), WrongContextError),
        (lambda m: m.ClearField("terms"), RefusedTermsError),
        (lambda m: setattr(m, "terms", make_terms()), RefusedTermsError),
        (lambda m: setattr(m, "terms", helped_terms((2,))), RefusedTermsError),
        (lambda m: setattr(m, "terms", helped_terms(round=8)), WrongContextError),
    ],
)
def test_an_impossible_request_is_refused(request_of_three, change, error):
    with pytest.raises(error):
        new_helper().answer(changed(request_of_three, change), TRUST, NOW)


def test_a_helper_has_a_minimum_of_its_own(request_of_three):
    with pytest.raises(TooFewPeersError):
        new_helper(minimum_cohort=4).answer(request_of_three, TRUST, NOW)


def test_a_request_cut_or_changed_anywhere_is_refused_or_another_one(request_of_three):
    """What is left out of it is out of the sum; the aggregator takes no answer to another request."""
    genuine = HelperReply.FromString(new_helper().answer(request_of_three, TRUST, NOW))
    for damaged in [*flips(request_of_three)[::7], *cuts(request_of_three)[::7]]:
        try:
            reply = HelperReply.FromString(new_helper().answer(damaged, TRUST, NOW))
        except ProtocolError:
            continue
        assert reply.signature != genuine.signature


@pytest.mark.parametrize(
    "bad", ["sealed to another slot", "sealed in another sum", "garbage", "a short seed"]
)
def test_seeds_that_do_not_open_name_their_vehicle(bad):
    helped = HelpedSum().upload([1, 3])
    seeds = HelperSeeds.FromString(helped.make(2)[0])
    seeds.sealed[0] = {
        "sealed to another slot": HelperSeeds.FromString(helped.sent[1][0]).sealed[0],
        "sealed in another sum": HelperSeeds.FromString(seal(2, helped_terms(round=8))[1]).sealed[
            0
        ],
        "garbage": bytes(80),
        "a short seed": sealing.seal(
            X25519_SUITE,
            KEYS[1].public_key,
            bytes(31),
            info=seed_info(seeds.context_digest),
            aad=seed_aad(2, 0),
        ),
    }[bad]
    seeds.signature = identity(2).sign(helper_seeds_signed(seeds.context_digest, seeds.sealed))
    helped.aggregator.upload(
        identity(2).name, seeds.SerializeToString(), helped.sent[2][1], helped.sent[2][2]
    )
    helper = new_helper()
    with pytest.raises(BadSharesError) as caught:
        helper.answer(helped.aggregator.close(), TRUST, NOW)
    assert caught.value.culprits == (identity(2).name,)
    assert helper.answered == b""


def test_a_revoked_vehicle_is_not_in_the_sum(request_of_three):
    fleet = copy_of_authority()
    fleet.revoke(identity(2).name, NOW)
    newer = changed(request_of_three, lambda m: setattr(m, "revocations", fleet.revocation_list))
    with pytest.raises(UntrustedPeerError, match="revoked"):
        new_helper().answer(newer, TRUST, NOW)
    helped = HelpedSum()
    helped.aggregator = HelpedAggregator(helped.terms, TRUST, NOW, fleet.revocation_list)
    refuses(helped, UntrustedPeerError, 2, *helped.make(2))


@pytest.mark.parametrize("bad", [{"answered": bytes(63)}, {"minimum_cohort": 1}])
def test_an_impossible_helper_is_our_own_mistake(bad):
    with pytest.raises(ValueError, match=r"answered|minimum_cohort"):
        new_helper(**bad)
