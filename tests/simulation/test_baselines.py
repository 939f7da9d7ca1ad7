"""Baselines are judged fairly, repeat themselves, and survive an interruption."""

import json
from pathlib import Path

import numpy as np
import pytest

from convoy_driving.data_config import DataConfig
from convoy_driving.models.registry import ModelConfig
from convoy_driving.parameters import load_parameters
from convoy_driving.training import TrainingConfig
from convoy_server.rounds import RoundConfig
from convoy_server.run_config import RunConfig
from convoy_simulation.baselines import (
    CENTRAL,
    BaselineConfig,
    baseline_jobs,
    judged_epochs,
    train_or_read,
)
from convoy_simulation.fleet import FleetConfig
from convoy_simulation.roads.donkeycar_tub import TubRecord, TubWriter
from convoy_simulation.vehicles import recorded_vehicles

SMALL = DataConfig(frame_height=40, frame_width=48, blocks=4, guard_frames=0)


@pytest.fixture
def fleet(tmp_path):
    """Two vehicles that steer towards a bright bar, one of them with a dark camera."""
    rng = np.random.default_rng(0)
    for name, light in (("bright", 250), ("dark", 90)):
        tub = TubWriter(tmp_path / "tubs" / name, 90, created_at_s=0.0)
        for number in range(48):
            steering = (-0.8, 0.0, 0.8)[number % 3]
            picture = rng.integers(0, 30, (40, 48, 3), np.uint8)
            centre = 24 + round(steering * 22)
            picture[:, max(0, centre - 6) : centre + 6] = light
            tub.append(
                TubRecord(
                    picture_HWC=picture,
                    angle=steering,
                    throttle=0.3,
                    session_id="drive",
                    timestamp_ms=50 * number,
                )
            )
        tub.close()
    return recorded_vehicles([tmp_path / "tubs"], FleetConfig(), tmp_path / "cache")


def jobs(fleet, folder: Path, **changes):
    run = RunConfig(
        seed=1,
        data=SMALL,
        model=ModelConfig(name="slim", width=0.3),
        training=TrainingConfig(batch_size=8, **changes),
        round=RoundConfig(rounds=4),
    )
    return baseline_jobs(BaselineConfig(curve_points=2), run, fleet, folder)


@pytest.mark.parametrize(
    ("epochs", "points", "judged"),
    [
        (12, 6, {2, 4, 6, 8, 10, 12}),
        (5, 2, {2, 5}),  # the last epoch is always judged
        (3, 6, {1, 2, 3}),  # never more often than once an epoch
        (1, 1, {1}),
    ],
)
def test_judging_is_spread_evenly(epochs, points, judged):
    assert judged_epochs(epochs, points) == judged


def test_the_pooled_baseline_comes_first_and_everyone_trains_alone_once(fleet, tmp_path):
    named = [(job.name, job.trains_on) for job in jobs(fleet, tmp_path)]
    assert named == [
        (CENTRAL, ("bright", "dark")),
        ("bright", ("bright",)),
        ("dark", ("dark",)),
    ]


def test_a_proximal_term_holds_no_baseline_back(fleet, tmp_path):
    free, pulled = (
        train_or_read(jobs(fleet, tmp_path / str(mu), proximal_mu=mu)[1]) for mu in (0.0, 5.0)
    )
    assert free.path.read_bytes() == pulled.path.read_bytes()


@pytest.mark.slow
def test_the_best_point_of_the_curve_is_what_is_kept_and_a_second_run_reads_it_back(
    fleet, tmp_path
):
    (job, *_) = jobs(fleet, tmp_path / "out")
    first = train_or_read(job)
    assert [point.epoch for point in first.curve] == [2, 4]
    assert set(first.best.per_vehicle) == {"bright", "dark"}
    assert first.best.balanced_accuracy == max(p.balanced_accuracy for p in first.curve)
    kept_N, _ = load_parameters(first.path)

    written = first.path.stat().st_mtime_ns
    assert train_or_read(job) == first
    assert first.path.stat().st_mtime_ns == written

    # Another training is another baseline, whatever lies in the folder.
    (other, *_) = jobs(fleet, tmp_path / "out", learning_rate=0.3)
    other_N, _ = load_parameters(train_or_read(other).path)
    assert not np.array_equal(kept_N, other_N)


def test_parameters_without_their_curve_are_trained_again(fleet, tmp_path):
    (_, job, _) = jobs(fleet, tmp_path)
    whole = train_or_read(job)
    bytes_before = whole.path.read_bytes()
    whole.path.write_bytes(b"torn")
    (tmp_path / f"{job.name}.json").unlink()
    again = train_or_read(job)
    assert again.path.read_bytes() == bytes_before
    assert json.loads((tmp_path / f"{job.name}.json").read_text())["curve"]
