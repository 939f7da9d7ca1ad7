"""All parties together: whoever is lost wherever, the sum is that of the survivors or there is none."""

import random

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from small_sum import (
    COUNTER_COUNT,
    LANE_COUNT,
    NOW,
    POLICY,
    SmallSum,
    authority,
    identity,
    make_terms,
    vector,
)

from convoy_privacy.errors import BadSignatureError, TooFewPeersError, WrongContextError
from convoy_privacy.key_stream import StreamAdder
from convoy_privacy.secure_sum import vehicle
from convoy_privacy.secure_sum.masks import PairMasks, self_mask_key
from convoy_privacy.secure_sum.terms import threshold


def test_without_losses_the_sum_is_everybodys():
    everybody = SmallSum(4).check_in().share().upload().unmask()
    assert everybody.aggregator.removable
    sum_P, sum_C = everybody.total()
    np.testing.assert_array_equal(sum_P, everybody.plain_P)
    np.testing.assert_array_equal(sum_C, everybody.plain_C)
    assert everybody.aggregator.culprits == set()


@pytest.mark.slow
@settings(max_examples=200)
@given(st.data())
def test_the_sum_is_the_survivors_or_there_is_none(data):
    count = data.draw(st.integers(2, 7), "vehicles")
    minimum = data.draw(st.integers(2, count), "minimum")

    def some(of, label):
        # Mostly nearly everybody: otherwise no example gets to the end.
        lost = data.draw(st.sets(st.sampled_from(of), max_size=2), label) if of else set()
        return [number for number in of if number not in lost]

    shard = SmallSum(count, make_terms(minimum_cohort=minimum))
    checked_in = some(list(shard.numbers), "lost before check-in")
    sharers = some(checked_in, "lost before sharing")
    uploaders = some(sharers, "lost before upload")
    answering = some(uploaders, "lost before unmask")
    needed = max(threshold(len(checked_in)), minimum)
    enough = (
        len(checked_in) >= minimum
        and min(len(sharers), len(uploaders)) >= needed
        and len(answering) >= threshold(len(checked_in))
    )

    def run():
        shard.check_in(checked_in).share(sharers).upload(uploaders).unmask(answering)
        assert shard.aggregator.removable == enough
        return shard.total()

    if not enough:
        with pytest.raises(TooFewPeersError) as caught:
            run()
        assert caught.value.present < caught.value.needed
        return
    sum_P, sum_C = run()
    expected = [vector(number) for number in uploaders]
    np.testing.assert_array_equal(sum_P, np.sum([lanes for lanes, _ in expected], 0, np.uint8))
    np.testing.assert_array_equal(sum_C, np.sum([counts for _, counts in expected], 0, np.uint64))


def test_the_order_of_arrival_changes_no_byte():
    def run(shuffle):
        def order(numbers):
            numbers = list(numbers)
            random.Random(shuffle).shuffle(numbers)
            return numbers

        shard = SmallSum(6).check_in(order(range(1, 7))).share(order(range(1, 7)))
        shard.upload(order([1, 2, 4, 5, 6])).unmask(order([1, 2, 4, 5, 6]))
        masks = shard.aggregator.mask_sum(np.uint8, LANE_COUNT, COUNTER_COUNT)
        return shard.roster, shard.request, [part.tobytes() for part in (*masks, *shard.total())]

    assert run(0) == run(1) == run(2)


def test_sixteen_bit_lanes_sum_as_well():
    shard = SmallSum(3, make_terms(modulus_bits=12)).check_in().share()
    total_P = np.zeros(5, np.uint16)
    for number in shard.numbers:
        accepted = vehicle.accept_shares(
            shard.sessions[number], shard.deliveries[shard.name(number)]
        )
        shard.sessions[number], lanes_P, _ = vehicle.masked(
            accepted, np.full(5, 30_000 + number, np.uint16), np.zeros(1, np.uint64)
        )
        body = lanes_P.tobytes()
        signature = vehicle.sign_upload(shard.sessions[number], identity(number), body)
        shard.aggregator.verify_upload(shard.name(number), body, signature)
        shard.bodies[number] = body
        total_P += lanes_P
    shard.request = shard.aggregator.close_uploads()
    shard.unmask()
    masks_P, _ = shard.aggregator.mask_sum(np.uint16, 5, 1)
    np.testing.assert_array_equal(total_P - masks_P, (3 * 30_000 + 6) % 2**16)


def test_terms_with_pairwise_masks_need_two_vehicles_at_least():
    shard = SmallSum(1)
    with pytest.raises(TooFewPeersError):
        shard.check_in()


# What the aggregator sees of vehicles that it told different things.

KEYS = {slot: X25519PrivateKey.from_private_bytes(bytes([slot]) * 32) for slot in (1, 2)}


def masked_zeros(slot, context):
    peer = 3 - slot
    vectors = StreamAdder(np.zeros(1 << 18, np.uint8), np.zeros(0, np.uint64))
    PairMasks(KEYS[slot], slot, context).add(
        vectors, peer, KEYS[peer].public_key().public_bytes_raw()
    )
    return vectors.lanes_P


def chi_square_of_bytes(values):
    """255 degrees of freedom: 255 on average, standard deviation 22.6."""
    counts = np.bincount(values, minlength=256)
    expected = len(values) / 256
    return float(np.sum((counts - expected) ** 2) / expected)


def test_masks_cancel_in_one_context_and_leave_noise_in_two():
    here, there = bytes(32), bytes(31) + b"\x01"
    assert not np.any(masked_zeros(1, here) + masked_zeros(2, here))
    assert 160 < chi_square_of_bytes(masked_zeros(1, here) + masked_zeros(2, there)) < 370


def test_one_upload_alone_is_noise():
    assert 160 < chi_square_of_bytes(masked_zeros(1, bytes(32))) < 370
    vectors = StreamAdder(np.zeros(1 << 18, np.uint8), np.zeros(0, np.uint64))
    vectors.add(self_mask_key(bytes(32), bytes(32), 1))
    assert 160 < chi_square_of_bytes(vectors.lanes_P) < 370


OTHER_TERMS = pytest.mark.parametrize(
    "change",
    [
        {"run_id": "another run"},
        {"round": 8},
        {"shard": 1},
        {"attempt": 2},
        {"model_digest": bytes(31) + b"\x01"},
        {"schema_digest": bytes(32)},
        {"settings_digest": bytes(32)},
        {"codec_seed": bytes(32)},
        {"parameter_count": 34},
        {"modulus_bits": 7},
        {"step": 0.25},
        {"clip_norm": 2.0},
        {"weight_cap": 1001},
        {"minimum_cohort": 3},
        {"deadline_s": 21},
    ],
    ids=str,
)


@OTHER_TERMS
def test_vehicles_that_were_told_different_terms_never_meet(change):
    """Whoever signed other terms makes the roster one that nobody takes."""
    shard = SmallSum(3)
    shard.check_in()
    other_session, other_reply = vehicle.check_in(
        make_terms(**change), identity(3), POLICY, shard.random[3]
    )
    assert other_reply != shard.replies[3]
    with pytest.raises((BadSignatureError, TooFewPeersError)):
        vehicle.share(
            other_session, shard.roster, identity(3), authority().trust(), NOW, shard.random[3]
        )


@OTHER_TERMS
def test_no_message_of_another_sum_is_taken(change):
    """Replayed by the same parties with the same keys, at the step where it would be in its turn."""
    other = SmallSum(3, make_terms(**change))
    shard = SmallSum(3)
    with pytest.raises(BadSignatureError):
        shard.aggregator.check_in(shard.name(1), other.check_in().replies[1])
    shard.check_in()
    for one in (shard, other):
        one.give_shares(1)
    with pytest.raises(WrongContextError):
        shard.aggregator.shares(shard.name(1), other.replies[1])
    shard.share(), other.share()
    with pytest.raises(WrongContextError):
        vehicle.accept_shares(shard.sessions[1], other.deliveries[other.name(1)])
    shard.mask(1), other.mask(1)
    with pytest.raises(BadSignatureError):
        shard.aggregator.verify_upload(shard.name(1), other.bodies[1], other.signatures[1])
    shard.upload(), other.upload()
    with pytest.raises(WrongContextError):
        vehicle.unmask(shard.sessions[1], other.request, identity(1))
    other.answer(1)
    with pytest.raises(WrongContextError):
        shard.aggregator.unmask_reply(shard.name(1), other.replies[1])
