"""`convoy simulate` from recordings to a report, small enough for a test."""

import json

import pytest
from rich.console import Console
from small_fleet import record_small_tub

from convoy_compression.update.codec import UpdateConfig
from convoy_driving.data_config import DataConfig
from convoy_driving.models.registry import ModelConfig
from convoy_driving.training import TrainingConfig
from convoy_edge_client.preflight.preflight import examine_release
from convoy_edge_client.preflight.preflight_config import PreflightConfig
from convoy_protos.errors import UsageError
from convoy_server.errors import RunInterruptedError
from convoy_server.observer import SilentObserver
from convoy_server.release.config import ReleaseConfig
from convoy_server.release.manifest import broken_files
from convoy_server.rounds import RoundConfig
from convoy_simulation.baselines import BaselineConfig
from convoy_simulation.evaluation import evaluate_on_recordings, evaluate_on_roads, table_of
from convoy_simulation.fleet import FleetConfig
from convoy_simulation.roads.closed_loop import ClosedLoopConfig
from convoy_simulation.run import SimulationPlan, simulate
from convoy_simulation.scenario import Scenario

OPEN_GATES = ReleaseConfig(
    proxy_frames=60,
    epochs=1,
    latency_repetitions=10,
    student_width=0.5,
    max_student_accuracy_drop=1.0,
    max_int8_accuracy_drop=1.0,
    max_int8_size_ratio=1.0,
    max_int8_latency_ratio=100.0,
    max_parity_difference=1.0,
    min_int8_agreement=0.0,
    max_steering_change=2.0,
    min_closed_loop_score=0.0,
)


def scenario(**sections) -> Scenario:
    quick = {
        "fleet": FleetConfig(vehicles=2, frames_per_vehicle=60, engine="serial", workers=1),
        "data": DataConfig(frame_height=32, frame_width=32),
        "model": ModelConfig(name="slim", width=0.5),
        "training": TrainingConfig(batch_size=16),
        "round": RoundConfig(rounds=2),
        "update": UpdateConfig(minimum_cohort=2),  # masked, as where nobody says otherwise
        "release": OPEN_GATES,
        "closed_loop": ClosedLoopConfig(track_seeds=(1,), max_s=2.0, workers=1),
    }
    return Scenario(name="small", seed=3, **(quick | sections))


class InterruptAfterRoundOne(SilentObserver):
    """Presses Ctrl-C in the first pause."""

    def round_finished(self, record):
        """Only once."""
        if record.round == 1:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_a_simulated_fleet_leaves_every_file_of_the_contract(tmp_path):
    out = tmp_path / "run"
    report = simulate(
        scenario(), SimulationPlan(out=out, cache_dir=tmp_path / "cache"), SilentObserver()
    )
    assert report.release.accepted
    assert broken_files(out / "release") == []
    for name in ("report.html", "audit.jsonl", "model.safetensors", "checkpoint/latest"):
        assert (out / name).exists(), name

    written = json.loads((out / "report.json").read_text())
    assert written["schema"] == "convoy.report/1"
    assert written["fleet"]["vehicles"] == 2
    assert len(written["rounds"]) == len((out / "rounds.jsonl").read_text().splitlines()) == 2
    assert set(written["final"]["per_vehicle"]) == {"car0-day", "car1-dark"}
    assert 0 <= written["baselines"]["single_vehicle"]["balanced_accuracy"] <= 1
    assert set(written["closed_loop"]) == {"day", "dark"}
    assert set(written["closed_loop"]["dark"]) == {
        "federated_int8",
        "single_vehicle",
        "central",
        "expert",
    }
    assert set(written["closed_loop"]["dark"]["expert"]) == {
        "track_covered",
        "off_road_share",
        "return",
    }
    update = written["update"]
    assert update["float32_bytes"] == 4 * written["fleet"]["parameters"]
    assert update["codec"] == "masked/1"
    assert update["bytes"] < 0.5 * update["float32_bytes"]
    # Four updates, of which the first two were summed twice; beside them what vehicles say of their laps.
    uplink_bytes = sum(line["uplink_bytes"] for line in written["rounds"])
    assert 4 * update["bytes"] <= uplink_bytes <= 4 * update["bytes"] + 1000

    driven = evaluate_on_roads(
        out / "release" / "model.int8.onnx", ClosedLoopConfig(track_seeds=(1,), max_s=1.0)
    )
    assert driven["closed_loop"]["fog"]["model"]["track_covered"] <= 1
    Console(quiet=True).print(table_of(driven))


@pytest.mark.slow
def test_vehicles_calibrate_the_release_which_passes_their_preflight(tmp_path):
    out = tmp_path / "run"
    fleet = FleetConfig(vehicles=4, frames_per_vehicle=60, engine="serial", workers=1)
    asked = scenario(
        fleet=fleet,
        round=RoundConfig(rounds=1),
        baselines=BaselineConfig(enabled=False),
        closed_loop=ClosedLoopConfig(enabled=False),
    )

    report = simulate(
        asked, SimulationPlan(out=out, cache_dir=tmp_path / "cache"), SilentObserver()
    )

    assert report.release.accepted, report.release.reasons
    manifest = json.loads((out / "release" / "manifest.json").read_text())
    assert manifest["calibration"] == "vehicles"
    preflight = examine_release(
        out / "release", PreflightConfig(providers=("cpu",), frame_period_ms=1e6, repetitions=5)
    )
    assert preflight.passed, preflight.findings


@pytest.fixture
def tubs(tmp_path):
    for number in range(3):
        record_small_tub(tmp_path / "tubs" / f"car{number}", frames=40, seed=number)
    return tmp_path / "tubs"


@pytest.mark.slow
def test_with_own_recordings_the_release_needs_frames_that_the_server_may_see(
    tubs, tmp_path, caplog
):
    plan = SimulationPlan(
        out=tmp_path / "run",
        cache_dir=tmp_path / "cache",
        recordings=[tubs / "car0", tubs / "car1"],
    )
    without = simulate(scenario(baselines=BaselineConfig(enabled=False)), plan, SilentObserver())
    assert without.release is None
    assert "--proxy" in caplog.text
    assert without.closed_loop is None
    assert without.baselines.central is None

    given = SimulationPlan(
        out=tmp_path / "run",
        cache_dir=tmp_path / "cache",
        recordings=[tubs / "car0", tubs / "car1"],
        proxy=[tubs / "car2"],
        resume=True,
    )
    report = simulate(scenario(baselines=BaselineConfig(enabled=False)), given, SilentObserver())
    assert report.release.accepted
    assert [record.round for record in report.rounds] == [1, 2]

    figures = evaluate_on_recordings(
        tmp_path / "run" / "release" / "model.int8.onnx", [tubs], tmp_path / "cache"
    )
    assert [row["vehicle"] for row in figures["recordings"]] == ["car0", "car1", "car2"]
    assert [row["examples"] for row in figures["recordings"]] == [40, 40, 40]
    Console(quiet=True).print(table_of(figures))


@pytest.mark.slow
def test_an_interrupted_run_goes_on_and_ends_with_the_same_model(tubs, tmp_path):
    bare = scenario(baselines=BaselineConfig(enabled=False), release=ReleaseConfig(enabled=False))

    def plan(name, *, resume=False):
        return SimulationPlan(
            out=tmp_path / name, cache_dir=tmp_path / "cache", recordings=[tubs], resume=resume
        )

    simulate(bare, plan("undisturbed"), SilentObserver())
    with pytest.raises(RunInterruptedError, match="--resume"):
        simulate(bare, plan("stopped"), InterruptAfterRoundOne())
    simulate(bare, plan("stopped", resume=True), SilentObserver())
    models = [
        (tmp_path / name / "model.safetensors").read_bytes() for name in ("undisturbed", "stopped")
    ]
    assert models[0] == models[1]


def test_a_directory_with_a_run_is_not_written_over_by_mistake(tubs, tmp_path):
    bare = scenario(
        baselines=BaselineConfig(enabled=False),
        release=ReleaseConfig(enabled=False),
        round=RoundConfig(rounds=1),
        update=UpdateConfig(codec="float32"),
    )
    plan = SimulationPlan(
        out=tmp_path / "run", cache_dir=tmp_path / "cache", recordings=[tubs / "car0"]
    )
    simulate(bare, plan, SilentObserver())
    with pytest.raises(UsageError, match="--overwrite"):
        simulate(bare, plan, SilentObserver())


def test_one_recording_is_too_few_for_masks_and_nothing_is_run(tubs, tmp_path):
    plan = SimulationPlan(
        out=tmp_path / "run", cache_dir=tmp_path / "cache", recordings=[tubs / "car0"]
    )
    with pytest.raises(UsageError, match="minimum_cohort"):
        simulate(scenario(), plan, SilentObserver())
    assert not (tmp_path / "run").exists()
