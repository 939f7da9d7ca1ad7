"""What replies to `train` amount to: sealed updates one by one, masked ones shard by shard."""

import numpy as np
import pytest
from masked_cars import (
    MODEL,
    ROUND,
    RUN_ID,
    SCHEMA,
    SETTINGS,
    MaskedCars,
    make_cars,
    plain_mean,
    reply_with,
)
from small_sum import NOW, authority, fixed_random, identity, new_authority

from convoy_compression.update.codec import UpdateConfig, codec_on_wire
from convoy_compression.update.range_control import first_sigma, next_sigma, step_for
from convoy_compression.update.rotation import layout_of
from convoy_privacy.certificates import Role
from convoy_privacy.party import Party
from convoy_privacy.privacy_config import PrivacyConfig
from convoy_privacy.sealed_update import seal_update
from convoy_privacy.sealing import X25519_SUITE, generate_sealing_key, sign_sealing_key
from convoy_protos import envelope
from convoy_protos.flower_messages import (
    CHECK_IN,
    TRAIN,
    UNMASK,
    UPLOAD,
    trained_content,
    update_content,
)
from convoy_protos.v1.federation_pb2 import Trained, UpdateHeader
from convoy_protos.v1.secure_sum_pb2 import SumTerms
from convoy_server.admission import Expectation
from convoy_server.errors import RefusedReplyError
from convoy_server.intake import NORM_WITHOUT_A_BOUND, MaskedIntake, SingleIntake
from convoy_server.noise import NoisePlan
from convoy_server.robust.registry import RobustConfig
from convoy_server.rounds import RoundConfig
from convoy_server.run_config import RunConfig
from convoy_server.update_state import UpdateState

PARAMETERS = 200
PADDED = layout_of(PARAMETERS).padded_count
KEY = generate_sealing_key(X25519_SUITE, fixed_random("intake"))
AGGREGATOR = identity(90, Role.AGGREGATOR)


def keys():
    return Party(
        identity=AGGREGATOR, role=Role.AGGREGATOR, trust=authority().trust(), sealing_key=KEY
    )


def expectation(codec="masked/1", **changes):
    fields = {
        "run_id": RUN_ID,
        "round_number": ROUND,
        "schema_digest": SCHEMA,
        "parameter_count": PARAMETERS,
        "codec": codec,
        "max_examples": 1000,
    }
    return Expectation(**(fields | changes))


def a_run(*, weighting="examples", rule="mean", clip_norm=None, seed=5, **update):
    settings = {"codec": "masked", "modulus_bits": 12, "minimum_cohort": 2} | update
    return RunConfig(
        seed=seed,
        round=RoundConfig(weighting=weighting),
        update=UpdateConfig(**settings),
        privacy=PrivacyConfig(clip_norm=clip_norm),
        aggregation=RobustConfig(rule=rule),
    )


# Masked updates.


def notice(car, **changes):
    """A vehicle's reply to `train`: it has trained."""
    trained = Trained(
        run_id=RUN_ID,
        round=ROUND,
        vehicle_id=car.name,
        schema_digest=SCHEMA,
        example_count=car.examples,
        metrics={"train_loss": car.train_loss},
    )
    for name, value in changes.items():
        setattr(trained, name, value)
    return reply_with(TRAIN, trained_content(trained))


def masked_intake(
    cars, run=None, state=None, *, spoil=None, round_number=ROUND, withheld=(), noise=None
):
    """An intake in which all these cars have trained; and their fleet."""
    fleet = MaskedCars(cars, spoil)
    intake = MaskedIntake(
        run or a_run(),
        expectation(round_number=round_number),
        state or UpdateState(),
        MODEL,
        SETTINGS,
        keys=keys(),
        ask=fleet.ask,
        now=lambda: NOW,
        noise=NoisePlan(noise, PARAMETERS, (run or a_run()).update.modulus_bits) if noise else None,
    )
    for car in cars:
        count = 0 if car.name in withheld else car.examples
        intake.take(car.name, notice(car, round=round_number, example_count=count))
    return intake, fleet


def terms_of(cars, run=None, state=None, **kwargs):
    """The first terms that each car got, by name; nobody answers them."""
    spoil = {(CHECK_IN, car.name, 1): lambda _reply: None for car in cars}
    intake, fleet = masked_intake(cars, run, state, spoil=spoil, **kwargs)
    intake.settle()
    return {name: SumTerms.FromString(car.requests[CHECK_IN]) for name, car in fleet.cars.items()}


def one_terms(cars, run=None, state=None, **kwargs):
    """Of a round with one shard."""
    (terms,) = {
        one.SerializeToString(): one for one in terms_of(cars, run, state, **kwargs).values()
    }.values()
    return terms


def test_the_terms_say_what_the_round_is_about():
    terms = one_terms(make_cars(3), a_run(exchange_deadline_s=7.4, modulus_bits=9))

    assert (terms.run_id, terms.round, terms.shard, terms.attempt) == (RUN_ID, ROUND, 0, 1)
    assert (terms.model_digest, terms.schema_digest) == (MODEL, SCHEMA)
    assert terms.settings_digest == SETTINGS
    assert (terms.parameter_count, terms.modulus_bits) == (PARAMETERS, 9)
    assert (terms.minimum_cohort, terms.deadline_s) == (2, 7)
    assert not terms.helpers
    assert terms.noise_variance == 0.0


def test_the_heaviest_vehicle_that_declares_its_examples_is_the_cap():
    cars = make_cars(4)
    terms = one_terms(cars)
    assert terms.weight_cap == max(car.examples for car in cars)
    assert not terms.equal_weights


def test_one_cap_holds_for_all_shards_of_a_round():
    """Their weights could not be compared otherwise."""
    cars = make_cars(6)
    caps = {terms.weight_cap for terms in terms_of(cars, a_run(shard_size=2)).values()}
    assert caps == {max(car.examples for car in cars)}


@pytest.mark.parametrize(
    ("weighting", "withheld", "equal"),
    [
        ("examples", 0, False),
        ("examples", 2, False),  # they may weigh up to the cap
        ("examples", 3, True),  # nobody says what it weighs
        ("equal", 0, True),
    ],
)
def test_updates_weigh_the_same_where_the_run_says_so_or_nobody_declares(
    weighting, withheld, equal
):
    cars = make_cars(3)
    names = [car.name for car in cars[:withheld]]

    terms = one_terms(cars, a_run(weighting=weighting), withheld=names)

    assert terms.equal_weights is equal
    assert (terms.weight_cap == 1) is equal


@pytest.mark.parametrize(
    ("state", "sigma"),
    [
        (UpdateState(), first_sigma(NORM_WITHOUT_A_BOUND, PADDED)),
        (UpdateState(clip_norm=0.5), first_sigma(0.5, PADDED)),
        (UpdateState(sum_sigma=0.02), next_sigma(0.02, 1.5)),
        (UpdateState(sum_sigma=0.02, clip_norm=0.5), next_sigma(0.02, 1.5)),  # what was, counts
    ],
)
@pytest.mark.parametrize("withheld", [False, True])
def test_the_step_follows_the_last_sum_with_slack_or_else_the_bound(state, sigma, withheld):
    cars = make_cars(3)
    names = [cars[0].name] if withheld else []
    cap = max(car.examples for car in cars)
    weight = sum(cap if car.name in names else car.examples for car in cars) / cap

    terms = one_terms(cars, a_run(range_slack=1.5), state, withheld=names)

    assert terms.step == pytest.approx(step_for(sigma * weight, 12))
    assert terms.clip_norm == (state.clip_norm or 0.0)


def test_the_codec_seed_is_the_same_again_and_another_for_every_shard_round_attempt_and_run():
    def seeds(**kwargs):
        cars = make_cars(4)
        run = a_run(shard_size=2, seed=kwargs.pop("seed", 5))
        return {terms.codec_seed for terms in terms_of(cars, run, **kwargs).values()}

    first = seeds()
    assert len(first) == 2
    assert first == seeds()
    assert not first & seeds(round_number=ROUND + 1)
    assert not first & seeds(seed=6)


def test_the_shards_together_are_the_plain_mean_over_all_vehicles():
    cars = make_cars(7)
    for car, factor in zip(cars, (1, 10, 3, 20, 1, 1, 4), strict=True):
        car.examples *= factor  # shards of very different weights

    intake, _ = masked_intake(cars, a_run(shard_size=3, modulus_bits=16))
    settled = intake.settle()

    assert settled.summed == {car.name for car in cars}
    assert [len(shard.summed) for shard in settled.shards] == [3, 2, 2]
    wanted_N = plain_mean(cars)
    error_N = settled.aggregate.update_M - wanted_N
    assert np.linalg.norm(error_N) < 0.01 * np.linalg.norm(wanted_N)
    weights = [car.examples for car in cars]
    losses = [car.train_loss for car in cars]
    assert settled.aggregate.train_loss == pytest.approx(np.average(losses, weights=weights))


def test_a_vehicle_that_withholds_its_examples_weighs_what_it_has_up_to_the_cap():
    cars = make_cars(4)
    cars[0].examples, cars[1].examples = 5000, 12
    intake, _ = masked_intake(cars, a_run(modulus_bits=16), withheld=[cars[0].name, cars[1].name])

    aggregate = intake.settle().aggregate

    cars[0].examples = max(car.examples for car in cars[2:])
    np.testing.assert_allclose(aggregate.update_M, plain_mean(cars), atol=1e-3)


def test_the_next_range_follows_the_sum_that_was():
    cars = make_cars(4)
    settled = masked_intake(cars)[0].settle()

    padded_rms = np.linalg.norm(plain_mean(cars)) / np.sqrt(PADDED)
    assert settled.state.sum_sigma == pytest.approx(padded_rms, rel=0.05)
    # With it the next round's first attempt fits at once.
    (shard,) = masked_intake(make_cars(4), state=settled.state)[0].settle().shards
    assert shard.attempts == 1
    assert shard.wrap_ratio == pytest.approx(1 / (4.25 * 1.3), rel=0.1)


def test_a_shard_that_is_given_up_leaves_the_others_and_says_why():
    cars = make_cars(6)
    spoil = {(UPLOAD, car.name, 1): lambda _reply: None for car in cars[:5]}
    state = UpdateState(sum_sigma=0.05)
    intake, _ = masked_intake(cars, a_run(shard_size=6), state, spoil=spoil)

    settled = intake.settle()

    (shard,) = settled.shards
    assert "uploads: 1, needed are 5" in shard.given_up
    assert (shard.summed, shard.wrap_ratio) == ((), None)
    assert settled.aggregate is None
    assert settled.summed == frozenset()
    assert settled.state == state


def test_who_is_refused_in_a_secure_sum_is_told_to_the_round():
    cars = make_cars(5)
    spoil = {(UNMASK, cars[1].name, 1): lambda _reply: b"garbage"}
    # The range of the sum before: one attempt, in which the vehicle is asked once.
    intake, _ = masked_intake(cars, state=UpdateState(sum_sigma=0.05), spoil=spoil)

    settled = intake.settle()

    assert [(one.vehicle, one.reason) for one in settled.rejections] == [
        (cars[1].name, "malformed")
    ]
    assert settled.summed == {car.name for car in cars}


def test_a_robust_rule_without_enough_shards_moves_nothing():
    cars = make_cars(4)
    settled = masked_intake(cars, a_run(rule="coordinate_median", shard_size=4))[0].settle()
    assert settled.aggregate is None
    assert settled.summed == {car.name for car in cars}


def test_of_nobody_there_is_no_aggregate():
    settled = masked_intake([])[0].settle()
    assert (settled.aggregate, settled.shards, settled.summed) == (None, (), frozenset())


@pytest.mark.parametrize(
    ("clip_norm", "share"),
    [
        (None, None),  # there is no bound
        (1.0, 0.75),
    ],
)
def test_the_share_of_clipped_updates_is_known_where_updates_are_clipped(clip_norm, share):
    cars = make_cars(4)
    for car in cars[1:]:
        car.lies = {"clipped": 1}
    settled = masked_intake(cars, state=UpdateState(clip_norm=clip_norm))[0].settle()
    assert settled.clipped_share == share


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"run_id": "another"}, "wrong_run"),
        ({"round": ROUND - 1}, "replayed"),
        ({"round": ROUND + 1}, "wrong_round"),
        ({"vehicle_id": "vehicle 009"}, "wrong_vehicle"),
        ({"schema_digest": bytes(32)}, "wrong_schema"),
        ({"example_count": 1001}, "bad_example_count"),
    ],
)
def test_a_notice_of_something_else_is_refused_and_its_vehicle_not_asked(changes, reason):
    (car,) = make_cars(1, first=9)
    others = make_cars(3)
    intake, fleet = masked_intake(others)
    wrong = changes | ({"vehicle_id": "vehicle 001"} if "vehicle_id" in changes else {})

    with pytest.raises(RefusedReplyError) as error:
        intake.take(car.name, notice(car, **wrong))

    assert error.value.reason == reason
    intake.settle()
    assert fleet.asked[0] == (CHECK_IN, tuple(sorted(fleet.cars)))


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (RuntimeError("no light"), "client_error"),
        (update_content(b"an update in the clear"), "malformed"),
    ],
)
def test_a_reply_that_is_no_notice_is_refused(reply, reason):
    intake, _ = masked_intake(make_cars(2))
    with pytest.raises(RefusedReplyError) as error:
        intake.take("vehicle 003", reply_with(TRAIN, reply))
    assert error.value.reason == reason


# Sealed updates.

CONTEXT = bytes(range(32))
CODEC = codec_on_wire("sealed/1", UpdateConfig(codec="sealed", sealed_step=0.01))


def sealed_intake(cars, codec=CODEC):
    run = a_run(codec="sealed")
    return SingleIntake(
        codec,
        run,
        expectation(codec.name),
        UpdateState(),
        keys=keys(),
        contexts={car.name: CONTEXT for car in cars},
        now=lambda: NOW,
    )


def sealed_reply(car, *, sender=None, key=KEY, payload=None, after=lambda _header: None, **changes):
    """A sealed update; `after` alters the header once it is signed."""
    sender = sender or car.identity
    header = UpdateHeader(
        run_id=RUN_ID,
        round=ROUND,
        vehicle_id=car.name,
        schema_digest=SCHEMA,
        codec="sealed/1",
        parameter_count=PARAMETERS,
        example_count=car.examples,
        metrics={"train_loss": car.train_loss},
        context_digest=CONTEXT,
        certificate=sender.certificate,
    )
    for name, value in changes.items():
        setattr(header, name, value)
    payload = CODEC.encode(car.update_N) if payload is None else payload
    sealed, header.signature = seal_update(
        payload, header, sign_sealing_key(key, AGGREGATOR), sender
    )
    after(header)
    return reply_with(TRAIN, update_content(envelope.pack(header, sealed)))


def test_sealed_updates_are_opened_and_weighted():
    cars = make_cars(3)
    intake = sealed_intake(cars)
    for car in cars:
        intake.take(car.name, sealed_reply(car))

    settled = intake.settle()

    np.testing.assert_allclose(settled.aggregate.update_M, plain_mean(cars), atol=0.01)
    assert settled.aggregate.train_loss == pytest.approx(0.5)
    assert settled.summed is None
    assert settled.state == UpdateState()


def foreigner(car):
    """The same name, certified by another fleet's CA."""
    return new_authority("another fleet").issue(car.name, Role.VEHICLE, NOW)


CAR, OTHER = make_cars(2)
ANOTHER_KEY = generate_sealing_key(X25519_SUITE, fixed_random("another"))


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (sealed_reply(CAR, sender=foreigner(CAR)), "untrusted"),
        (sealed_reply(CAR, sender=OTHER.identity), "untrusted"),  # the certificate of another car
        (sealed_reply(CAR, certificate=OTHER.identity.certificate), "untrusted"),
        (sealed_reply(CAR, certificate=b""), "untrusted"),
        (
            sealed_reply(CAR, sender=OTHER.identity, certificate=CAR.identity.certificate),
            "bad_signature",
        ),
        (
            sealed_reply(CAR, after=lambda header: setattr(header, "example_count", 999)),
            "bad_signature",
        ),
        (
            sealed_reply(CAR, after=lambda header: header.metrics.update({"train_loss": 0.0})),
            "bad_signature",
        ),
        (
            sealed_reply(CAR, after=lambda header: setattr(header, "signature", b"")),
            "bad_signature",
        ),
        (sealed_reply(CAR, context_digest=bytes(32)), "wrong_context"),  # other instructions
        (sealed_reply(CAR, key=ANOTHER_KEY), "unreadable"),
        (sealed_reply(CAR, payload=b"\x00"), "wrong_length"),  # sealed and signed nonsense
        (sealed_reply(CAR, payload=b"\xff" * 200), "malformed"),
        (sealed_reply(CAR, codec="float32/1"), "wrong_codec"),
        (sealed_reply(CAR, round=ROUND - 1), "replayed"),
        (sealed_reply(CAR, example_count=0), "bad_example_count"),
        (sealed_reply(CAR, payload=bytes(10**5)), "oversized"),
        (sealed_reply(OTHER), "wrong_vehicle"),
    ],
)
def test_a_sealed_update_that_is_not_as_it_should_be_is_refused_and_leaves_no_trace(reply, reason):
    intake = sealed_intake([CAR, OTHER])
    with pytest.raises(RefusedReplyError) as error:
        intake.take(CAR.name, reply)
    assert error.value.reason == reason
    assert "\n" not in error.value.detail

    intake.take(OTHER.name, sealed_reply(OTHER))
    np.testing.assert_allclose(
        intake.settle().aggregate.update_M, OTHER.update_N, atol=0.01, rtol=0.01
    )


def test_a_vehicle_that_was_told_nothing_cannot_have_sealed_under_these_instructions():
    intake = sealed_intake([OTHER])
    with pytest.raises(RefusedReplyError) as error:
        intake.take(CAR.name, sealed_reply(CAR))
    assert error.value.reason == "wrong_context"


def test_where_nothing_came_there_is_no_aggregate():
    assert sealed_intake([]).settle().aggregate is None


@pytest.mark.parametrize(
    ("clip_quantile", "claimed", "share"),
    [
        (None, 3, None),  # without noise of its own the count is not told
        (0.5, 3, 0.75),
        (0.5, 2**64 - 2, -0.5),  # noise takes it below nothing
        (0.5, 9, 2.25),
    ],
)
def test_a_noised_count_of_clipped_updates_may_be_any_number(clip_quantile, claimed, share):
    cars = make_cars(4)
    cars[0].lies = {"clipped": claimed}
    privacy = PrivacyConfig(clip_norm=1.0, noise_multiplier=0.5, clip_quantile=clip_quantile)
    intake, _ = masked_intake(
        cars, a_run(modulus_bits=16), UpdateState(clip_norm=1.0), noise=privacy
    )
    settled = intake.settle()
    assert settled.clipped_share == share
    assert not settled.state.spent.unsupported
