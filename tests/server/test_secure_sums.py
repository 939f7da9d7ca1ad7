"""Secure sums of several shards at once: what is summed, what is made again, what is given up."""

import hashlib

import numpy as np
import pytest
from flwr.app import ConfigRecord, RecordDict
from masked_cars import ROUND, Car, MaskedCars, make_cars
from shard_book import (
    EXPECTED,
    MODULUS_BITS,
    PARAMETERS,
    RIGHT,
    Book,
    assert_given_up,
    assert_summed,
)
from small_sum import NOW, authority, identity

from convoy_compression.update.masked import OVERFLOW_WRAP_RATIO
from convoy_privacy.secure_sum.messages import unmask_signed
from convoy_protos import envelope
from convoy_protos.flower_messages import CHECK_IN, SHARE, UNMASK, UPLOAD, answer_content
from convoy_protos.v1.secure_sum_pb2 import UnmaskReply
from convoy_server.secure_sums import run_secure_sums


def run_sums(
    shards,
    *,
    sigma=RIGHT,
    guessed=False,
    max_attempts=4,
    spoil=None,
    order=lambda _kind, names: names,
    modulus_bits=MODULUS_BITS,
):
    """The shards' sums, the fleet that was asked and the terms that it got."""
    cars = [car for shard in shards for car in shard]
    fleet = MaskedCars(cars, spoil, order)
    book = Book(cars, modulus_bits)
    results = run_secure_sums(
        [[car.name for car in shard] for shard in shards],
        book.terms,
        fleet.ask,
        expected=EXPECTED,
        trust=authority().trust(),
        now=NOW,
        sigma=sigma,
        guessed=guessed,
        max_attempts=max_attempts,
    )
    return results, fleet, book


def test_the_mean_of_every_shard_is_the_plain_weighted_mean():
    shards = [make_cars(4), make_cars(3, first=5), make_cars(2, first=8)]

    results, fleet, _ = run_sums(shards)

    for number, (shard, cars) in enumerate(zip(results, shards, strict=True)):
        assert (shard.number, shard.attempts) == (number, 1)
        assert shard.vehicles == tuple(sorted(car.name for car in cars))
        assert (shard.rejections, shard.culprits) == ([], ())
        assert_summed(shard, cars)
    # All shards take part in one exchange after the other.
    everybody = tuple(sorted(fleet.cars))
    assert fleet.asked == [(kind, everybody) for kind in (CHECK_IN, SHARE, UPLOAD, UNMASK)]


def test_the_counters_add_up_to_the_fleet_s():
    cars = make_cars(3)
    (shard,), _, _ = run_sums([cars])

    loss_sum = sum(car.examples * car.train_loss for car in cars) * envelope.COUNTER_SCALE
    assert shard.counters["loss_sum"] == pytest.approx(loss_sum)
    assert shard.counters["clipped"] == 0


def test_no_shards_ask_nobody():
    results, fleet, _ = run_sums([])
    assert (results, fleet.asked) == ([], [])


# Overflow and ranges that are too wide.


def test_an_overflowed_sum_is_made_again_with_twice_the_range_until_it_fits():
    cars = make_cars(4, length=6.0)  # the sum fills several times what was expected
    (shard,), fleet, book = run_sums([cars])

    assert shard.attempts == 3
    first = book.steps(0)[0]
    assert book.steps(0) == pytest.approx([first, 2 * first, 4 * first])
    assert [terms.attempt for terms in book.made] == [1, 2, 3]
    assert len(fleet.asked) == 3 * 4
    assert shard.decoded.wrap_ratio <= OVERFLOW_WRAP_RATIO
    assert_summed(shard, cars)


def test_only_the_shard_that_overflowed_is_made_again():
    small, large = make_cars(3), make_cars(3, first=4, length=4.0)
    (first, second), fleet, _ = run_sums([small, large])

    assert first.attempts == 1
    assert second.attempts > 1
    assert_summed(first, small)
    assert fleet.asked[4] == (CHECK_IN, second.vehicles)


def test_a_sum_that_never_fits_is_given_up_and_never_applied():
    cars, fine = make_cars(4, length=100.0), make_cars(3, first=5)
    (shard, other), _, book = run_sums([cars, fine], max_attempts=2)

    assert_given_up(shard, "overflowed its range 2 times")
    assert shard.attempts == len(book.steps(0)) == 2
    assert_summed(other, fine)


@pytest.mark.parametrize(
    ("guessed", "max_attempts", "attempts"),
    [
        (True, 4, 2),
        (False, 4, 1),  # a range that follows the sum before is not second-guessed
        (True, 1, 1),  # nothing left to try: a coarse sum is better than none
    ],
)
def test_a_guess_far_too_wide_is_made_again(guessed, max_attempts, attempts):
    cars = make_cars(4)
    (shard,), _, book = run_sums(
        [cars], sigma=50 * RIGHT, guessed=guessed, max_attempts=max_attempts, modulus_bits=16
    )

    assert shard.attempts == attempts
    assert_summed(shard, cars)
    steps = book.steps(0)
    assert steps[-1] == pytest.approx(steps[0] / (50 if attempts == 2 else 1), rel=0.3)


def test_a_guess_that_is_about_right_is_not_made_again():
    (shard,), _, _ = run_sums([make_cars(4)], sigma=RIGHT, guessed=True)
    assert shard.attempts == 1


def test_updates_of_nothing_sum_to_nothing():
    cars = [Car(number, np.zeros(PARAMETERS, np.float32)) for number in (1, 2, 3)]
    (shard,), _, _ = run_sums([cars], guessed=True)

    assert shard.why == ""
    assert not shard.mean().any()


@pytest.mark.parametrize("kind", [CHECK_IN, SHARE, UPLOAD])
def test_without_one_of_its_vehicles_an_overflowed_sum_is_not_made_again(kind):
    """Both sums together would show that one's update."""
    cars, others = make_cars(4, length=3.0), make_cars(4, first=5, length=3.0)
    spoil = {(kind, cars[1].name, 2): lambda _reply: None}
    (shard, other), fleet, _ = run_sums([cars, others], spoil=spoil)

    assert_given_up(shard, "vehicles of a sum made again: 3, needed are 4")
    assert_summed(other, others)
    unmasked = [names for kind, names in fleet.asked if kind == UNMASK]
    assert len(unmasked) >= 2
    assert not set(shard.vehicles) & {name for names in unmasked[1:] for name in names}


def test_who_is_lost_in_the_first_attempt_is_not_missed_in_the_next():
    cars = make_cars(5, length=6.0)
    (shard,), fleet, _ = run_sums([cars], spoil={(UPLOAD, cars[4].name, 1): lambda _reply: None})

    assert shard.attempts > 1
    assert_summed(shard, cars[:4])
    assert fleet.asked[4] == (CHECK_IN, shard.summed)


def test_who_does_not_answer_the_last_question_of_the_last_attempt_is_in_the_sum():
    cars = make_cars(4, length=2.0)
    (shard,), _, _ = run_sums([cars], spoil={(UNMASK, cars[0].name, 2): lambda _reply: None})
    assert_summed(shard, cars)


# Vehicles that go and vehicles that lie. Of five, four are needed.


@pytest.mark.parametrize("kind", [CHECK_IN, SHARE, UPLOAD, UNMASK])
def test_one_of_five_may_go_at_any_time(kind):
    cars, others = make_cars(5), make_cars(2, first=6)
    (shard, other), _, _ = run_sums([cars, others], spoil={(kind, cars[2].name, 1): lambda _: None})

    gone = kind != UNMASK  # its update is in the sum by then
    assert_summed(shard, [car for car in cars if car is not cars[2] or not gone])
    assert shard.rejections == []
    assert_summed(other, others)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (SHARE, "members that shared: 3, needed are 4"),
        (UPLOAD, "uploads: 3, needed are 4"),
        (UNMASK, "shares of one member's secret: 3, needed are 4"),
    ],
)
def test_a_shard_below_its_threshold_is_given_up_and_the_other_goes_on(kind, words):
    cars, others = make_cars(5), make_cars(3, first=6)
    spoil = {(kind, car.name, 1): lambda _reply: None for car in cars[:2]}
    (shard, other), _, _ = run_sums([cars, others], spoil=spoil)

    assert_given_up(shard, words)
    assert_summed(other, others)


def test_a_shard_of_which_nobody_is_there_is_given_up():
    cars = make_cars(3)
    (shard,), fleet, _ = run_sums(
        [cars], spoil={(CHECK_IN, car.name, 1): lambda _reply: None for car in cars}
    )
    assert_given_up(shard, "members: 0, needed are 2")
    assert len(fleet.asked) == 1


def flipped(reply):
    """The last byte is another one; in every message it is part of a signature or a payload."""
    return reply[:-1] + bytes((reply[-1] ^ 1,))


def spoiled(**changes):
    """An upload with another header."""

    def spoil(reply):
        header, payload = envelope.unpack(reply)
        for name, value in changes.items():
            setattr(header, name, value)
        return envelope.pack(header, payload)

    return spoil


def resized(change):
    """An upload with another payload."""

    def spoil(reply):
        header, payload = envelope.unpack(reply)
        return envelope.pack(header, change(bytes(payload)))

    return spoil


def of_another_sum(message):
    """A message whose context digest is another one; it is its first field of 32 bytes."""
    return message[:2] + bytes(32) + message[34:]


def garbage(_reply):
    return b"\xff" * 40


@pytest.mark.parametrize(
    ("kind", "spoil", "reason"),
    [
        (CHECK_IN, garbage, "malformed"),
        (CHECK_IN, lambda _: b"", "malformed"),
        (CHECK_IN, lambda _: RecordDict(), "malformed"),
        (CHECK_IN, lambda _: RecordDict({"answer": ConfigRecord({"protobuf": 3})}), "malformed"),
        (CHECK_IN, lambda _: RuntimeError("no memory"), "client_error"),
        (CHECK_IN, flipped, "bad_signature"),
        (SHARE, garbage, "malformed"),
        (SHARE, lambda _: RuntimeError("no memory"), "client_error"),
        (SHARE, of_another_sum, "wrong_context"),
        (SHARE, flipped, "bad_signature"),
        (UPLOAD, garbage, "truncated"),
        (UPLOAD, lambda reply: reply[:-1], "truncated"),
        (UPLOAD, lambda _: RecordDict(), "malformed"),
        (UPLOAD, answer_content, "malformed"),
        (UPLOAD, lambda _: RuntimeError("no memory"), "client_error"),
        (UPLOAD, resized(lambda payload: payload[:-1]), "wrong_length"),
        (UPLOAD, resized(lambda payload: payload + b"\x00"), "wrong_length"),
        (UPLOAD, resized(lambda _: b""), "wrong_length"),
        (UPLOAD, resized(lambda payload: payload * 400), "oversized"),
        (UPLOAD, resized(flipped), "bad_signature"),
        (UPLOAD, spoiled(signature=bytes(64)), "bad_signature"),
        (UPLOAD, spoiled(signature=b""), "bad_signature"),
        (UPLOAD, spoiled(context_digest=bytes(32)), "wrong_context"),
        (UPLOAD, spoiled(run_id="another"), "wrong_run"),
        (UPLOAD, spoiled(round=ROUND - 1), "replayed"),
        (UPLOAD, spoiled(round=ROUND + 1), "wrong_round"),
        (UPLOAD, spoiled(vehicle_id=identity(1).name), "wrong_vehicle"),
        (UPLOAD, spoiled(codec="float32/1"), "wrong_codec"),
        (UPLOAD, spoiled(schema_digest=bytes(32)), "wrong_schema"),
        (UPLOAD, spoiled(parameter_count=PARAMETERS + 1), "wrong_length"),
        (UNMASK, garbage, "malformed"),
        (UNMASK, lambda _: RuntimeError("no memory"), "client_error"),
        (UNMASK, of_another_sum, "wrong_context"),
        (UNMASK, flipped, "bad_signature"),
    ],
)
def test_whatever_a_vehicle_sends_costs_it_alone_and_once(kind, spoil, reason):
    cars, others = make_cars(5), make_cars(3, first=6)
    bad = cars[2]
    (shard, other), _, _ = run_sums([cars, others], spoil={(kind, bad.name, 1): spoil})

    assert [(one.vehicle, one.reason) for one in shard.rejections] == [(bad.name, reason)]
    in_sum = cars if kind == UNMASK else [car for car in cars if car is not bad]
    assert_summed(shard, in_sum)
    assert other.rejections == []
    assert_summed(other, others)


def test_nobody_checks_in_for_another_vehicle():
    cars = make_cars(5)
    stranger, bad = Car(9, cars[2].update_N), cars[2]

    def impersonate(_reply):
        return stranger.answer(CHECK_IN, bad.requests[CHECK_IN])

    (shard,), _, _ = run_sums([cars], spoil={(CHECK_IN, bad.name, 1): impersonate})

    assert [(one.vehicle, one.reason) for one in shard.rejections] == [(bad.name, "untrusted")]
    assert_summed(shard, [car for car in cars if car is not bad])


def test_a_second_upload_is_refused_and_not_added():
    cars = make_cars(4)

    def order(kind, names):
        return [*names, cars[0].name] if kind == UPLOAD else names

    (shard,), _, _ = run_sums([cars], order=order)

    assert [(one.vehicle, one.reason) for one in shard.rejections] == [
        (cars[0].name, "out_of_order")
    ]
    assert_summed(shard, cars)


def test_an_update_that_the_step_cannot_hold_is_its_vehicle_s_error():
    cars = make_cars(5)
    cars[3].update_N = np.full(PARAMETERS, 1e30, np.float32)
    cars[3].lies = {"squared_norm": 0}
    (shard,), _, _ = run_sums([cars])

    assert [one.reason for one in shard.rejections] == ["client_error"]
    assert "absurdly large" in shard.rejections[0].detail
    assert_summed(shard, [car for car in cars if car is not cars[3]])


def test_a_wrong_share_under_a_proper_signature_names_its_sender_and_changes_nothing():
    cars = make_cars(5)
    liar = cars[1]

    def lie(reply):
        message = UnmaskReply.FromString(reply)
        for share in message.shares:
            share.share = bytes(32) + b"\x01"
        pairs = [(share.slot, share.share) for share in message.shares]
        digest = hashlib.sha256(liar.requests[UNMASK]).digest()
        signed = unmask_signed(message.context_digest, digest, pairs)
        message.signature = liar.identity.sign(signed)
        return message.SerializeToString(deterministic=True)

    (shard,), _, _ = run_sums([cars], spoil={(UNMASK, liar.name, 1): lie})

    assert shard.culprits == (liar.name,)
    assert shard.rejections == []
    assert_summed(shard, cars)


@pytest.mark.parametrize(
    ("lies", "words"),
    [
        ({"count": 2}, "counts 5 vehicles, 4 are in it"),
        ({"count": 0}, "counts 3 vehicles, 4 are in it"),
        ({"weight": 10**6}, "examples, 4 vehicles can have"),
        ({"weight": 2**64 - 200}, "examples, 4 vehicles can have"),  # below nothing
        ({"clipped": 5}, "counts 5 clipped updates of 4"),
        ({"clipped": 2**64 - 1}, "clipped updates of 4"),
        ({"loss_weight": 10**4}, "stand behind the loss"),
    ],
)
def test_counters_that_cannot_be_true_end_the_shard_alone(lies, words):
    cars, others = make_cars(4), make_cars(3, first=5)
    cars[2].lies = lies
    (shard, other), _, _ = run_sums([cars, others])

    assert_given_up(shard, words)
    assert_summed(other, others)


@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_replies_does_not_change_a_byte(seed):
    rng = np.random.default_rng(seed)

    def summed(order):
        shards = [make_cars(3), make_cars(3, first=4)]
        results, _, _ = run_sums(shards, order=order)
        return [(shard.decoded.sum_N.tobytes(), shard.counters) for shard in results]

    shuffled = summed(lambda _kind, names: list(rng.permutation(names)))
    assert shuffled == summed(lambda _kind, names: names)


def test_a_list_of_revocations_that_ended_gives_every_shard_up():
    """The vehicles would refuse the roster."""
    cars = make_cars(3)
    fleet, book = MaskedCars(cars), Book(cars)
    ended = authority().trust().revocations.next_update
    (shard,) = run_secure_sums(
        [[car.name for car in cars]],
        book.terms,
        fleet.ask,
        expected=EXPECTED,
        trust=authority().trust(),
        now=ended,
        sigma=RIGHT,
        guessed=False,
        max_attempts=1,
    )
    assert_given_up(shard, "convoy fleet revoke")
