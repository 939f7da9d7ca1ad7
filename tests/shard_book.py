"""Terms for the sums of a few vehicles in memory, and what must come of them."""

import hashlib

import numpy as np
from masked_cars import MODEL, ROUND, RUN_ID, SCHEMA, SETTINGS, plain_mean

from convoy_compression.update.range_control import first_sigma, step_for
from convoy_compression.update.rotation import layout_of
from convoy_protos.v1.secure_sum_pb2 import SumTerms
from convoy_server.admission import Expectation

PARAMETERS = 200
PADDED = layout_of(PARAMETERS).padded_count
MODULUS_BITS = 12
RIGHT = first_sigma(1.0, PADDED)
"""What sums of updates of length 1 need, for each unit of weight."""

EXPECTED = Expectation(
    run_id=RUN_ID,
    round_number=ROUND,
    schema_digest=SCHEMA,
    parameter_count=PARAMETERS,
    codec="masked/1",
    max_examples=1000,
)


class Book:
    """Makes the terms of every attempt and keeps them."""

    def __init__(self, cars, modulus_bits=MODULUS_BITS):
        self.examples = {car.name: car.examples for car in cars}
        self.modulus_bits = modulus_bits
        self.made = []

    def terms(self, shard, vehicles, attempt, sigma):
        """As convoy_server.secure_sums wants them."""
        cap = max(self.examples[name] for name in vehicles)
        weight = sum(self.examples[name] for name in vehicles) / cap
        seed = f"{shard} {attempt}".encode()
        self.made.append(
            SumTerms(
                run_id=RUN_ID,
                round=ROUND,
                shard=shard,
                attempt=attempt,
                model_digest=MODEL,
                schema_digest=SCHEMA,
                settings_digest=SETTINGS,
                parameter_count=PARAMETERS,
                modulus_bits=self.modulus_bits,
                step=step_for(sigma * weight, self.modulus_bits),
                weight_cap=cap,
                codec_seed=hashlib.sha256(seed).digest(),
                minimum_cohort=2,
                deadline_s=20,
            )
        )
        return self.made[-1]

    def steps(self, shard):
        """Of the shard's attempts."""
        return [terms.step for terms in self.made if terms.shard == shard]


def assert_summed(shard, cars):
    """The shard's mean is the plain one, up to rounding."""
    assert shard.why == ""
    assert shard.summed == tuple(sorted(car.name for car in cars))
    assert shard.counters["count"] == len(cars)
    assert shard.counters["weight"] == sum(car.examples for car in cars)
    error_N = shard.mean() - plain_mean(cars)
    # A coordinate's rounding error is below a step for each vehicle; rotation keeps its 2-norm.
    bound = shard.terms.step * np.sqrt(PADDED) * len(cars) / shard.weight
    assert np.linalg.norm(error_N) < bound < 0.05 * np.linalg.norm(plain_mean(cars)) + 0.05


def assert_given_up(shard, words):
    assert words in shard.why
    assert (shard.summed, shard.decoded) == ((), None)
