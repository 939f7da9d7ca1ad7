"""The final figures: every vehicle's own where it tells them, the fleet's alone where it does not."""

from dataclasses import replace

import numpy as np

from convoy_driving.parameters import ParameterSchema
from convoy_server.federation import FederationResult
from convoy_server.round_log import RoundRecord, ShardRecord, VehicleScore
from convoy_simulation.report_assembly import final_of

RECORD = RoundRecord(
    round=1,
    outcome="done",
    invited=3,
    completed=3,
    lost=0,
    surplus=0,
    rejected={},
    uplink_bytes=1,
    downlink_bytes=1,
    wall_s=1.0,
    balanced_accuracy=0.7,
    accuracy=0.8,
    throttle_mae=0.1,
)
SUM = ShardRecord(
    vehicles=("car0", "car1"), summed=("car0", "car1"), attempts=1, modulus_bits=2, step=1.0
)
GOOD, BAD = (
    VehicleScore(examples=9, balanced_accuracy=share, accuracy=share, throttle_mae=0.2)
    for share in (0.9, 0.3)
)


def result(record, **per_vehicle):
    return FederationResult(
        model_N=np.zeros(1, np.float32),
        schema=ParameterSchema(names=("w",), shapes=((1,),)),
        records=(record, replace(record, round=2, balanced_accuracy=None)),
        per_vehicle=per_vehicle,
        vehicles={},
        snapshots=(),
    )


def test_where_every_vehicle_tells_its_own_the_final_figures_are_their_means():
    final = final_of(result(RECORD, car0=GOOD, car1=BAD), {})
    assert (final.balanced_accuracy, final.worst_vehicle.id, final.summed) == (0.6, "car1", 0)


def test_where_scores_go_into_sums_the_final_figures_are_those_of_the_last_sum():
    final = final_of(result(replace(RECORD, score_sums=(SUM,))), {})
    assert (final.balanced_accuracy, final.accuracy, final.throttle_mae) == (0.7, 0.8, 0.1)
    assert (final.worst_vehicle, final.per_vehicle, final.summed) == (None, {}, 2)


def test_a_fleet_that_tells_nothing_has_no_final_figures():
    assert final_of(result(replace(RECORD, balanced_accuracy=None)), {}) is None
