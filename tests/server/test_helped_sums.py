"""Secure sums with mask helpers: what is summed, what is made again, what a lost helper costs."""

import re

import numpy as np
import pytest
from flwr.app import RecordDict
from masked_cars import Car, MaskedCars, Unit, make_cars, plain_mean
from shard_book import EXPECTED, RIGHT, Book, assert_given_up, assert_summed
from small_sum import NOW, authority

from convoy_privacy.certificates import Role
from convoy_privacy.fleet_authority import FleetAuthority
from convoy_privacy.secure_sum.messages import helper_seeds_signed
from convoy_protos.flower_messages import HELPED_UPLOAD, MASK_SUM
from convoy_protos.v1.secure_sum_pb2 import HelperRequest, HelperSeeds
from convoy_server.helped_sums import run_helped_sums
from convoy_server.secure_sums import run_secure_sums

UNITS = ("unit 1", "unit 2")


def sums_with(shards, run, *, units=(), spoil=None, order=None, **arguments):
    cars = [car for shard in shards for car in shard]
    fleet = MaskedCars(cars, spoil, order or (lambda _kind, names: names), helpers=units)
    results = run(
        [[car.name for car in shard] for shard in shards],
        Book(cars).terms,
        fleet.ask,
        **{
            "expected": EXPECTED,
            "trust": authority().trust(),
            "now": NOW,
            "sigma": RIGHT,
            "guessed": False,
            "max_attempts": 4,
        }
        | arguments,
    )
    return results, fleet


def run_sums(shards, *, helpers=None, **arguments):
    """The shards' helped sums and the fleet that was asked."""
    units = [Unit(1), Unit(2)] if helpers is None else helpers
    offers = {unit.name: unit.key for unit in units}
    return sums_with(
        shards, run_helped_sums, units=units, helpers=offers, wanted_helpers=2, **arguments
    )


def test_the_mean_of_every_shard_is_the_plain_weighted_mean():
    shards = [make_cars(4), make_cars(3, first=5), make_cars(2, first=8)]

    results, fleet = run_sums(shards)

    for number, (shard, cars) in enumerate(zip(results, shards, strict=True)):
        assert (shard.number, shard.attempts) == (number, 1)
        assert (shard.rejections, shard.culprits) == ([], ())
        assert (shard.helpers, shard.helpers_lost) == (UNITS, ())
        assert_summed(shard, cars)
    # Vehicles of all shards together; then a helper gets one request at a time.
    everybody = tuple(sorted(fleet.cars))
    assert fleet.asked == [(HELPED_UPLOAD, everybody)] + 3 * [(MASK_SUM, UNITS)]


def test_no_byte_differs_from_the_sum_with_pairwise_masks():
    def lost(kind):
        return {(kind, make_cars(1, first=2)[0].name, 1): lambda _reply: None}

    (helped,), _ = run_sums([make_cars(4)], spoil=lost(HELPED_UPLOAD))
    (peers,), _ = sums_with([make_cars(4)], run_secure_sums, spoil=lost("train.upload"))

    assert helped.summed == peers.summed
    assert helped.counters == peers.counters
    assert helped.decoded.sum_N.tobytes() == peers.decoded.sum_N.tobytes()


def test_no_order_of_arrival_changes_a_byte():
    (one,), _ = run_sums([make_cars(4)])
    (other,), _ = run_sums([make_cars(4)], order=lambda _kind, names: names[::-1])
    assert one.decoded.sum_N.tobytes() == other.decoded.sum_N.tobytes()


def test_an_overflowed_sum_is_made_again_with_twice_the_range_until_it_fits():
    cars = make_cars(4, length=6.0)
    (shard,), fleet = run_sums([cars])

    assert shard.attempts == 3
    assert len(fleet.asked) == 3 * 2
    assert_summed(shard, cars)


def test_a_sum_that_never_fits_is_given_up_and_never_applied():
    cars, fine = make_cars(4, length=100.0), make_cars(3, first=5)
    (shard, other), _ = run_sums([cars, fine], max_attempts=2)

    assert_given_up(shard, "overflowed its range 2 times")
    assert_summed(other, fine)


def test_who_is_lost_in_the_first_attempt_is_not_missed_in_the_next():
    cars = make_cars(5, length=6.0)
    spoil = {(HELPED_UPLOAD, cars[4].name, 1): lambda _reply: None}
    (shard,), _ = run_sums([cars], spoil=spoil)

    assert shard.attempts > 1
    assert_summed(shard, cars[:4])


def test_without_one_of_its_vehicles_an_overflowed_sum_is_not_made_again():
    cars = make_cars(4, length=3.0)
    spoil = {(HELPED_UPLOAD, cars[1].name, 2): lambda _reply: None}
    (shard,), fleet = run_sums([cars], spoil=spoil)

    assert_given_up(shard, "vehicles of a sum made again: 3, needed are 4")
    assert [kind for kind, _ in fleet.asked].count(MASK_SUM) == 1


def test_all_but_the_minimum_may_go():
    cars = make_cars(5)
    spoil = {(HELPED_UPLOAD, car.name, 1): lambda _reply: None for car in cars[:3]}
    (shard,), _ = run_sums([cars], spoil=spoil)
    assert_summed(shard, cars[3:])


def test_below_the_minimum_no_helper_is_asked():
    cars = make_cars(4)
    spoil = {(HELPED_UPLOAD, car.name, 1): lambda _reply: None for car in cars[:3]}
    (shard,), fleet = run_sums([cars], spoil=spoil)

    assert_given_up(shard, "uploads: 1, needed are 2")
    assert [kind for kind, _ in fleet.asked] == [HELPED_UPLOAD]


def test_one_vehicle_alone_is_not_even_asked():
    (shard,), fleet = run_sums([make_cars(1)])
    assert_given_up(shard, "vehicles: 1, needed are 2")
    assert fleet.asked == []


def garbage(_reply):
    return b"\xff" * 40


def flipped(reply):
    """The last byte is another one; in every message it is part of a signature or a payload."""
    return reply[:-1] + bytes((reply[-1] ^ 1,))


def without_seeds(_reply):
    return RecordDict()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (garbage, "truncated"),
        (without_seeds, "malformed"),
        (flipped, "bad_signature"),
        (lambda reply: reply + b"\0", "truncated"),
        (lambda _: RuntimeError("no memory"), "client_error"),
    ],
)
def test_whatever_a_vehicle_sends_costs_it_alone(spoil, reason):
    cars = make_cars(4)
    (shard,), _ = run_sums([cars], spoil={(HELPED_UPLOAD, cars[1].name, 1): spoil})

    assert [(one.vehicle, one.reason) for one in shard.rejections] == [(cars[1].name, reason)]
    assert_summed(shard, [cars[0], *cars[2:]])


# Helpers that go and helpers that lie.


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda _: None, "helper unit 2: no answer"),
        (garbage, "helper unit 2: malformed: "),
        (flipped, "helper unit 2: bad_signature: "),
        (lambda _: RecordDict(), "helper unit 2: malformed: "),
        (lambda _: RuntimeError("no memory"), "helper unit 2: client_error: .*no memory"),
    ],
)
def test_a_lost_helper_costs_its_shard_and_the_other_goes_on(spoil, why):
    cars, others = make_cars(4), make_cars(3, first=5)
    (shard, other), _ = run_sums([cars, others], spoil={(MASK_SUM, "unit 2", 1): spoil})

    assert re.match(why, shard.why)
    assert (shard.summed, shard.decoded, shard.opened) == ((), None, False)
    assert shard.helpers_lost == ("unit 2",)
    assert_summed(other, others)


def test_a_helper_with_a_larger_minimum_of_its_own_ends_the_sum_with_its_words():
    (shard,), _ = run_sums([make_cars(3)], helpers=[Unit(1), Unit(2, minimum_cohort=4)])
    assert_given_up(shard, "uploads: 3, needed are 4")
    assert shard.helpers_lost == ("unit 2",)


def test_the_second_reply_of_a_helper_changes_nothing():
    cars = make_cars(3)
    (shard,), _ = run_sums(
        [cars], order=lambda kind, names: names + names if kind == MASK_SUM else names
    )
    assert_summed(shard, cars)


def test_without_enough_helpers_nobody_is_asked():
    (shard,), fleet = run_sums([make_cars(3)], helpers=[Unit(1)])
    assert_given_up(shard, "mask helpers: 1, needed are 2")
    assert fleet.asked == []


def test_a_helper_that_nobody_vouches_for_ends_the_sums():
    stranger = Unit(2)
    foreign = FleetAuthority.create(NOW).issue("helper 002", Role.HELPER, NOW)
    stranger.identity = foreign
    (shard,), fleet = run_sums([make_cars(3)], helpers=[Unit(1), stranger])
    assert_given_up(shard, "not trusted")
    assert fleet.asked == []


def test_every_helper_gets_the_same_request_and_the_fleet_s_list_of_revocations():
    seen = []

    class Listening(Unit):
        def answer(self, kind, request):
            seen.append(request)
            return super().answer(kind, request)

    run_sums([make_cars(3)], helpers=[Listening(1), Listening(2)])

    assert seen[0] == seen[1]
    request = HelperRequest.FromString(seen[0])
    assert request.revocations == authority().revocation_list
    assert len(request.accepted) == 3


def test_a_vehicle_whose_seed_does_not_open_is_named():
    """It costs its shard the sum: nobody can tell such a seed before it is opened."""
    cars = make_cars(3)
    answer = cars[1].answer

    def with_bad_seed(kind, request):
        reply = answer(kind, request)
        seeds = HelperSeeds.FromString(cars[1].seeds)
        seeds.sealed[1] = bytes(80)
        seeds.signature = cars[1].identity.sign(
            helper_seeds_signed(seeds.context_digest, seeds.sealed)
        )
        cars[1].seeds = seeds.SerializeToString(deterministic=True)
        return reply

    cars[1].answer = with_bad_seed
    (shard,), _ = run_sums([cars])

    assert_given_up(
        shard, f"helper unit 2: client_error: BadSharesError: no seed from {cars[1].name}"
    )


def test_updates_of_nothing_sum_to_nothing():
    cars = [Car(number, np.zeros(200, np.float32)) for number in (1, 2, 3)]
    (shard,), _ = run_sums([cars], guessed=True)
    assert shard.why == ""
    assert not shard.mean().any()
    assert not plain_mean(cars).any()
