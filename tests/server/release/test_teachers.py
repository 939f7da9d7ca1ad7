"""Who teaches: shards where a robust rule trusts them, else earlier global models."""

from dataclasses import replace

import numpy as np
import pytest

from convoy_compression.update.codec import UpdateConfig
from convoy_driving.data_config import DataConfig
from convoy_driving.models.registry import ModelConfig, build_model
from convoy_driving.parameters import flatten, schema_of
from convoy_server.aggregation import combined, trusted
from convoy_server.federation import FederationResult
from convoy_server.release.config import ReleaseConfig
from convoy_server.release.teachers import teachers_of
from convoy_server.robust.registry import RobustConfig
from convoy_server.run_config import RunConfig

SIZE = 32
RUN = RunConfig(
    data=DataConfig(frame_height=SIZE, frame_width=SIZE),
    model=ModelConfig(width=0.5),
    release=ReleaseConfig(teachers=2),
)
MODELS = [build_model(RUN.model, SIZE, SIZE, seed) for seed in range(5)]
SHARDS = FederationResult(
    model_N=flatten(MODELS[-1]),
    schema=schema_of(MODELS[0]),
    records=(),
    per_vehicle={},
    vehicles={},
    snapshots=tuple(map(flatten, MODELS)),
)


@pytest.mark.parametrize(
    ("ensemble", "codec", "members", "kind", "count"),
    [
        ("auto", "masked", 3, "shards", 4),
        ("auto", "masked", 0, "snapshots", 2),
        ("singles", "float32", 3, "vehicles", 4),
        ("snapshots", "masked", 3, "snapshots", 2),
    ],
)
def test_the_ensemble_ends_with_the_global_model(ensemble, codec, members, kind, count):
    run = replace(
        RUN,
        release=replace(RUN.release, ensemble=ensemble),
        update=UpdateConfig(codec=codec),
    )
    result = replace(SHARDS, members=SHARDS.snapshots[:members])

    teachers = teachers_of(run, result)

    assert (teachers.kind, len(teachers.models)) == (kind, count)
    np.testing.assert_array_equal(flatten(teachers.global_model), result.model_N)


def test_one_teacher_is_the_global_model_alone():
    run = replace(RUN, release=replace(RUN.release, teachers=1))

    assert teachers_of(run, SHARDS).kind == "global"


def test_a_shard_that_the_rule_distrusts_does_not_teach():
    rng = np.random.default_rng(0)
    shards = [(f"shard {k}", rng.normal(0, 0.1, 50).astype(np.float32), 10.0) for k in range(5)]
    shards.append(("shard 5", np.full(50, 80.0, np.float32), 10.0))

    aggregate = combined(shards, RobustConfig(rule="geometric_median"), None)

    assert len(aggregate.parts) == 5
    assert max(part.max() for part in aggregate.parts) < 1.0


def test_a_rule_that_decides_by_coordinate_vouches_for_nobody():
    assert trusted([np.ones(2, np.float32)] * 3, None) == ()
