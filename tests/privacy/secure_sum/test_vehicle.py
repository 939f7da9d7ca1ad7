"""A vehicle repeats itself to the byte, and never says a second thing."""

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from small_sum import (
    NOW,
    POLICY,
    SmallSum,
    authority,
    cuts,
    fixed_random,
    flips,
    identity,
    make_terms,
    vector,
)

from convoy_privacy.errors import (
    BadRosterError,
    MaskReuseError,
    OutOfOrderError,
    RefusedTermsError,
    TooFewPeersError,
    UnknownPeerError,
    WrongContextError,
)
from convoy_privacy.secure_sum import vehicle
from convoy_privacy.secure_sum.terms import VehiclePolicy
from convoy_protos.errors import MalformedMessageError, ProtocolError
from convoy_protos.v1.secure_sum_pb2 import (
    HelperKey,
    SealedShares,
    ShareDelivery,
    UnmaskReply,
    UnmaskRequest,
    VehicleSession,
)

TRUST = authority().trust()


@pytest.fixture
def checked_in():
    return SmallSum(4).check_in()


@pytest.fixture
def shared(checked_in):
    return checked_in.share()


@pytest.fixture
def uploaded(shared):
    return shared.upload([1, 2, 3])


def session_of(shard, number=1):
    return VehicleSession.FromString(shard.sessions[number])


def share(shard, number, session=None, roster=None):
    return vehicle.share(
        session or shard.sessions[number],
        roster or shard.roster,
        identity(number),
        TRUST,
        NOW,
        fixed_random("another"),
    )


# Repeated messages.


def test_a_repeated_check_in_gets_the_same_keys_again(checked_in):
    before = checked_in.sessions[1], checked_in.replies[1]
    again = vehicle.check_in(
        checked_in.terms, identity(1), POLICY, fixed_random("other"), held=before[0]
    )
    assert again == before


def test_other_terms_replace_what_is_held(checked_in):
    session, reply = vehicle.check_in(
        make_terms(attempt=2), identity(1), POLICY, fixed_random("x"), held=checked_in.sessions[1]
    )
    assert reply != checked_in.replies[1]
    assert VehicleSession.FromString(session).terms == make_terms(attempt=2)


@pytest.mark.parametrize(
    "change",
    [{"shard": 1}, {"step": 0.5}, {"minimum_cohort": 4}, {"codec_seed": bytes(32)}],
)
@pytest.mark.parametrize("finished", [False, True])
def test_an_update_is_in_one_sum_for_each_attempt(checked_in, finished, change):
    """The sums with and without one vehicle would show its update."""
    if finished:
        checked_in.share().upload().unmask()
    with pytest.raises(RefusedTermsError, match="attempt 1 of round 7 after attempt 1"):
        vehicle.check_in(
            make_terms(**change), identity(1), POLICY, fixed_random("x"), checked_in.sessions[1]
        )


@pytest.mark.parametrize("steps", ["share", "share upload", "share upload unmask"])
def test_nobody_checks_in_twice_for_one_set_of_terms(checked_in, steps):
    """The same update would be in two sums, and their difference would show it."""
    for step in steps.split():
        getattr(checked_in, step)()
    with pytest.raises(OutOfOrderError):
        vehicle.check_in(
            checked_in.terms, identity(1), POLICY, fixed_random("x"), held=checked_in.sessions[1]
        )


def test_a_repeated_roster_gets_the_same_shares_again(checked_in):
    checked_in.give_shares(1)
    before = checked_in.sessions[1], checked_in.replies[1]
    assert share(checked_in, 1) == before


def test_a_second_roster_is_refused(checked_in):
    checked_in.give_shares(1)
    other = SmallSum(3).check_in()
    with pytest.raises(OutOfOrderError):
        share(checked_in, 1, roster=other.roster)


def test_a_repeated_delivery_changes_nothing(shared):
    accepted = vehicle.accept_shares(shared.sessions[1], shared.deliveries[shared.name(1)])
    assert vehicle.accept_shares(accepted, shared.deliveries[shared.name(1)]) == accepted
    masked, *_ = vehicle.masked(accepted, *vector(1))
    assert vehicle.accept_shares(masked, shared.deliveries[shared.name(1)]) == masked


def test_a_second_delivery_is_refused(shared):
    delivery = ShareDelivery.FromString(shared.deliveries[shared.name(1)])
    accepted = vehicle.accept_shares(shared.sessions[1], shared.deliveries[shared.name(1)])
    delivery.sealed[3] = b""
    with pytest.raises(OutOfOrderError):
        vehicle.accept_shares(accepted, delivery.SerializeToString())


def test_the_same_vector_is_masked_the_same_again(shared):
    shared.mask(1)
    session, lanes_P, counters_C = vehicle.masked(shared.sessions[1], *vector(1))
    assert session == shared.sessions[1]
    assert lanes_P.tobytes() + counters_C.tobytes() == shared.bodies[1]


def test_masking_leaves_the_vector_as_it_is(shared):
    lanes_P, counters_C = vector(1)
    accepted = vehicle.accept_shares(shared.sessions[1], shared.deliveries[shared.name(1)])
    vehicle.masked(accepted, lanes_P, counters_C)
    np.testing.assert_array_equal(lanes_P, vector(1)[0])
    np.testing.assert_array_equal(counters_C, vector(1)[1])


@pytest.mark.parametrize(
    "change",
    [
        lambda lanes, counters: (lanes + np.uint8(1), counters),  # another update
        lambda lanes, counters: (lanes, counters + np.uint64(1)),  # other counters
        lambda lanes, counters: (lanes[:-1], counters),  # another length
        lambda lanes, counters: (np.append(lanes, counters.view(np.uint8)), counters[:0]),
    ],
)
def test_a_second_vector_is_never_masked(shared, change):
    shared.mask(1)
    with pytest.raises(MaskReuseError):
        vehicle.masked(shared.sessions[1], *change(*vector(1)))


def test_a_repeated_unmask_request_gets_the_same_answer(uploaded):
    uploaded.answer(1)
    before = uploaded.sessions[1], uploaded.replies[1]
    uploaded.answer(1)
    assert (uploaded.sessions[1], uploaded.replies[1]) == before


def test_a_second_unmask_request_is_refused(uploaded):
    uploaded.answer(1)
    request = UnmaskRequest.FromString(uploaded.request)
    del request.lost[:]
    with pytest.raises(OutOfOrderError):
        vehicle.unmask(uploaded.sessions[1], request.SerializeToString(), identity(1))


def test_a_session_says_which_sum_it_is_of(checked_in):
    with pytest.raises(OutOfOrderError):
        vehicle.describe(checked_in.sessions[2])
    checked_in.give_shares(2)
    terms, slot, context = vehicle.describe(checked_in.sessions[2])
    assert (terms.encoded, slot, context) == (checked_in.terms, 2, checked_in.aggregator.context)


# Secrets.


def test_after_the_answer_every_secret_is_gone(uploaded):
    before = session_of(uploaded)
    secrets = [before.mask_private_key, before.share_private_key, before.self_seed]
    own_shares = ShareDelivery.FromString(before.delivery).sealed[0]
    uploaded.answer(1)
    assert not [one for one in [*secrets, own_shares] if one in uploaded.sessions[1]]
    after = session_of(uploaded)
    assert {field.name for field, _ in after.ListFields()} == {
        "stage",
        "terms",
        "slot",
        "last_request_digest",
        "last_reply",
    }


def test_no_reply_before_unmask_holds_a_secret(shared):
    shared.mask(1)
    session = session_of(shared)
    sent = b"".join([*shared.replies.values(), shared.bodies[1], shared.signatures[1]])
    for secret in (session.mask_private_key, session.share_private_key, session.self_seed):
        assert secret not in sent


def test_an_answer_has_one_kind_of_share_of_each_member(uploaded):
    session = session_of(uploaded)
    plain = plain_shares(uploaded, holder=1)
    uploaded.answer(1)
    reply = UnmaskReply.FromString(uploaded.replies[1])
    assert {share.slot: share.share for share in reply.shares} == {
        1: plain[1][:33],
        2: plain[2][:33],
        3: plain[3][:33],
        4: plain[4][33:],  # lost: the mask key's share
    }
    assert session.slot == 1


def plain_shares(shard, holder):
    """What every member dealt to this one, by slot, opened with the holder's own key."""
    session = session_of(shard, holder)
    _, context = vehicle._sum_of(session)
    boxes = vehicle.ShareBoxes(
        X25519PrivateKey.from_private_bytes(session.share_private_key), session.slot, context
    )
    members = vehicle.Roster.FromString(session.roster).members
    sealed = ShareDelivery.FromString(session.delivery).sealed
    return {
        slot: box if slot == session.slot else boxes.open(slot, members[slot - 1].share_key, box)
        for slot, box in enumerate(sealed, start=1)
    }


# What is refused.


def request(shard, uploaded=(1, 2, 3), lost=(4,), context=None):
    return UnmaskRequest(
        context_digest=shard.aggregator.context if context is None else context,
        uploaded=uploaded,
        lost=lost,
    ).SerializeToString()


@pytest.mark.parametrize(
    ("uploaded_slots", "lost_slots", "error"),
    [
        ((1, 2, 3), (3, 4), BadRosterError),  # both secrets of one member
        ((1, 2, 3, 3), (), BadRosterError),  # somebody twice
        ((1, 3, 2), (4,), BadRosterError),  # out of order: one set has one encoding
        ((2, 3, 4), (1,), BadRosterError),  # we are not lost
        ((2, 3, 4), (), BadRosterError),  # we are left out
        ((1, 2, 3), (0,), UnknownPeerError),  # slots count from 1
        ((1, 2, 3), (5,), UnknownPeerError),  # an invented member
        ((1, 2, 3, 2**32 - 1), (), UnknownPeerError),
        ((1, 2), (3, 4), TooFewPeersError),  # below the threshold of 3
        ((1,), (), TooFewPeersError),
        ((), (), BadRosterError),
    ],
)
def test_an_impossible_unmask_request_is_refused(uploaded, uploaded_slots, lost_slots, error):
    with pytest.raises(error):
        vehicle.unmask(
            uploaded.sessions[1], request(uploaded, uploaded_slots, lost_slots), identity(1)
        )


def test_an_unmask_request_of_another_sum_is_refused(uploaded):
    with pytest.raises(WrongContextError):
        vehicle.unmask(uploaded.sessions[1], request(uploaded, context=bytes(32)), identity(1))


def test_a_member_that_shared_nothing_is_not_asked_about():
    shard = SmallSum(4).check_in().share([1, 2, 3]).upload([1, 2, 3])
    with pytest.raises(UnknownPeerError):
        vehicle.unmask(shard.sessions[1], request(shard, lost=(4,)), identity(1))


def test_the_minimum_of_the_terms_holds_at_every_step():
    """More than the threshold, fewer than the minimum."""
    shard = SmallSum(4, make_terms(minimum_cohort=4)).check_in()
    for number in shard.numbers:
        shard.give_shares(number)
    context = SealedShares.FromString(shard.replies[1]).context_digest
    boxes = [
        b"" if n in {1, 4} else SealedShares.FromString(shard.replies[n]).sealed[0]
        for n in shard.numbers
    ]
    with pytest.raises(TooFewPeersError) as caught:
        vehicle.accept_shares(
            shard.sessions[1],
            ShareDelivery(context_digest=context, sealed=boxes).SerializeToString(),
        )
    assert (caught.value.present, caught.value.needed) == (3, 4)


@pytest.mark.parametrize(
    "step",
    [
        lambda session: vehicle.accept_shares(session, b""),
        lambda session: vehicle.masked(session, *vector(1)),
        lambda session: vehicle.sign_upload(session, identity(1), b""),
        lambda session: vehicle.unmask(session, b"", identity(1)),
    ],
)
def test_nothing_comes_before_the_shares(checked_in, step):
    with pytest.raises(OutOfOrderError):
        step(checked_in.sessions[1])


def test_no_mask_before_the_delivery_and_no_answer_before_the_upload(shared):
    with pytest.raises(OutOfOrderError):
        vehicle.masked(shared.sessions[1], *vector(1))
    accepted = vehicle.accept_shares(shared.sessions[1], shared.deliveries[shared.name(1)])
    with pytest.raises(OutOfOrderError):
        vehicle.unmask(accepted, request(shared), identity(1))
    with pytest.raises(OutOfOrderError):
        vehicle.sign_upload(accepted, identity(1), b"not masked")


@pytest.mark.parametrize(
    "step",
    [
        lambda shard: share(shard, 1),
        lambda shard: shard.mask(1),
        lambda shard: vehicle.masked(shard.sessions[1], *vector(1)),
        lambda shard: vehicle.sign_upload(shard.sessions[1], identity(1), shard.bodies[1]),
    ],
)
def test_nothing_comes_after_the_answer(uploaded, step):
    uploaded.answer(1)
    with pytest.raises(OutOfOrderError):
        step(uploaded)


@pytest.mark.parametrize(
    ("policy", "terms"),
    [
        (VehiclePolicy(minimum_cohort=5), make_terms(minimum_cohort=4)),
        (VehiclePolicy(max_modulus_bits=8), make_terms(modulus_bits=9, minimum_cohort=3)),
        (VehiclePolicy(max_parameter_count=32), make_terms(minimum_cohort=3)),
        (VehiclePolicy(max_attempts=2), make_terms(attempt=3, minimum_cohort=3)),
        (VehiclePolicy(), make_terms(minimum_cohort=2)),  # two alone show each other everything
    ],
)
def test_terms_against_the_vehicles_own_policy_are_refused(policy, terms):
    with pytest.raises(RefusedTermsError):
        vehicle.check_in(terms, identity(1), policy, fixed_random("policy"))


def test_terms_with_helpers_have_no_check_in():
    helper = HelperKey(certificate=b"x", suite="x25519", sealing_key=b"x", signature=bytes(64))
    terms = make_terms(helpers=[helper], cohort=["a", "b"])
    with pytest.raises(RefusedTermsError):
        vehicle.check_in(terms, identity(1), POLICY, fixed_random("helpers"))


@pytest.mark.parametrize(
    ("lanes_P", "counters_C"),
    [
        (np.zeros(4, np.uint16), np.zeros(1, np.uint64)),  # 8 modulus bits have uint8 lanes
        (np.zeros(4, np.uint8), np.zeros(1, np.int64)),
    ],
)
def test_lanes_of_another_type_are_our_own_mistake(shared, lanes_P, counters_C):
    accepted = vehicle.accept_shares(shared.sessions[1], shared.deliveries[shared.name(1)])
    with pytest.raises(ValueError, match="lanes are uint8"):
        vehicle.masked(accepted, lanes_P, counters_C)


# Tampering and truncation.


def test_a_delivery_with_a_changed_bit_is_refused_or_costs_one_share(shared):
    """A vehicle cannot tell a bad peer from a bad server: it gives what it can open."""
    genuine = shared.deliveries[shared.name(1)]
    taken = 0
    for changed in flips(genuine):
        try:
            session = vehicle.accept_shares(shared.sessions[1], changed)
        except ProtocolError:
            continue
        taken += 1
        session, *_ = vehicle.masked(session, *vector(1))
        _, reply = vehicle.unmask(session, request(shared, (1, 2, 3, 4), ()), identity(1))
        assert len(UnmaskReply.FromString(reply).shares) == 3
    assert taken == 3 * 82  # the boxes; a bit anywhere else is noticed at once


def test_a_cut_delivery_is_refused(shared):
    for cut in cuts(shared.deliveries[shared.name(1)]):
        with pytest.raises((MalformedMessageError, WrongContextError, BadRosterError)):
            vehicle.accept_shares(shared.sessions[1], cut)


@pytest.mark.parametrize(
    ("place", "box"),
    [(0, bytes(82)), (1, bytes(81)), (1, bytes(83)), (1, b"\x00")],
    ids=["one from ourselves", "short", "long", "a byte"],
)
def test_a_box_of_a_wrong_length_is_refused(shared, place, box):
    delivery = ShareDelivery.FromString(shared.deliveries[shared.name(1)])
    delivery.sealed[place] = box
    with pytest.raises(MalformedMessageError):
        vehicle.accept_shares(shared.sessions[1], delivery.SerializeToString())


def test_a_box_at_another_members_place_does_not_open(shared):
    """Nor does one of another sum; neither tells the server anything."""
    delivery = ShareDelivery.FromString(shared.deliveries[shared.name(1)])
    other = SmallSum(4, make_terms(round=8), label="other").check_in().share()
    replayed = ShareDelivery.FromString(other.deliveries[other.name(1)]).sealed[3]
    delivery.sealed[1], delivery.sealed[2] = delivery.sealed[2], delivery.sealed[1]
    delivery.sealed[3] = replayed
    session = vehicle.accept_shares(shared.sessions[1], delivery.SerializeToString())
    session, *_ = vehicle.masked(session, *vector(1))
    _, reply = vehicle.unmask(session, request(shared, (1, 2, 3, 4), ()), identity(1))
    assert [share.slot for share in UnmaskReply.FromString(reply).shares] == [1]


def test_a_changed_unmask_request_never_gets_both_kinds(uploaded):
    """Some changes make another request that is possible; the answer's signature is over that one."""
    plain = plain_shares(uploaded, holder=1)
    for changed in [*flips(uploaded.request), *cuts(uploaded.request)]:
        try:
            _, reply = vehicle.unmask(uploaded.sessions[1], changed, identity(1))
        except ProtocolError:
            continue
        for slot, both in plain.items():
            assert not (both[:33] in reply and both[33:] in reply), slot
        with pytest.raises(ProtocolError):
            uploaded.aggregator.unmask_reply(uploaded.name(1), reply)


def test_changed_terms_are_refused_or_lead_to_another_check_in():
    terms = make_terms()
    genuine = SmallSum(2).check_in()
    for changed in [*flips(terms), *cuts(terms)]:
        try:
            _, reply = vehicle.check_in(changed, identity(1), POLICY, fixed_random("sum 1"))
        except RefusedTermsError:
            continue
        with pytest.raises(ProtocolError):
            SmallSum(2).aggregator.check_in(genuine.name(1), reply)
