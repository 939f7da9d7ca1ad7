"""Drives are scored as the module says, and a model sees what it would see in training."""

import dataclasses
import itertools

import numpy as np
import pytest
from PIL import Image

from convoy_driving.data_config import DataConfig
from convoy_driving.models.registry import ModelConfig, build_model
from convoy_driving.parameters import flatten
from convoy_driving.pictures import fit
from convoy_protos.errors import SettingsError, UsageError
from convoy_protos.settings import from_table
from convoy_simulation.roads.appearance import appearance_named
from convoy_simulation.roads.camera import CameraSize, picture
from convoy_simulation.roads.car_racing import Road
from convoy_simulation.roads.closed_loop import (
    ClosedLoopConfig,
    ClosedLoopResult,
    Drive,
    camera_steering,
    closed_loop_scores,
    drive_closed_loop,
    expert_steering,
    hold_speed,
    open_driver,
)
from convoy_simulation.roads.torch_driver import TorchDriver

SHORT = ClosedLoopConfig(track_seeds=(3, 4), max_s=3.0, give_up_s=1.0, workers=1)
DATA = DataConfig(frame_height=36, frame_width=48, crop_top=0.25)


def sure_of(class_index: int):
    """A predictor that is certain of one class whatever it sees."""

    def predict(frames_BHWC):
        probabilities_B3 = np.zeros((len(frames_BHWC), 3), np.float32)
        probabilities_B3[:, class_index] = 1.0
        return probabilities_B3, np.zeros(len(frames_BHWC), np.float32)

    return predict


def always_left():
    return sure_of(0)


def always_straight():
    return sure_of(1)


def drive(steer_of, config=SHORT, track_seed=3) -> Drive:
    road = Road(track_seed)
    return drive_closed_loop(road, steer_of(road), config, track_seed)


def test_the_expert_stays_on_the_road_at_the_governors_speed():
    scored = drive(expert_steering)
    assert scored.left_road_at is None
    assert scored.off_road_share == 0.0
    assert 0.05 < scored.track_covered < 0.5
    assert len(scored.path_T2) == 38  # 150 steps, a decision each 4


def test_the_governor_reaches_its_speed_and_holds_it():
    road = Road(3)
    steer = expert_steering(road)
    speeds = []
    for _ in range(300):
        road.step(hold_speed(steer(), road.speed_mps, 30.0))
        speeds.append(road.speed_mps)
    assert max(speeds) < 36
    assert min(speeds[150:]) > 26


def test_a_drive_without_hope_ends_early_and_the_rest_counts_as_off_the_road():
    patient = dataclasses.replace(SHORT, max_s=20.0)
    scored = drive(lambda _road: lambda: -1.0, patient)
    assert scored.left_road_at is not None
    assert len(scored.path_T2) < 75
    assert scored.off_road_share > 0.9
    assert scored.return_ < -50


def test_what_is_covered_after_leaving_the_road_does_not_count():
    config = dataclasses.replace(SHORT, max_s=6.0, give_up_s=6.0)

    def swerve_and_return(road):
        expert, decisions = expert_steering(road), itertools.count()
        return lambda: 1.0 if 20 <= next(decisions) < 24 else expert()

    road = Road(3)
    scored = drive_closed_loop(road, swerve_and_return(road), config, 3)
    assert scored.left_road_at is not None
    assert scored.track_covered < road.track_covered


def test_a_certain_right_steers_by_the_gain_to_the_right():
    steer = camera_steering(
        Road(3),
        sure_of(2),
        appearance=appearance_named("day"),
        data=DATA,
        camera=CameraSize(),
        gain=0.3,
        rng=np.random.default_rng(0),
    )
    assert steer() == pytest.approx(0.3)


def test_the_model_sees_the_developed_picture_cropped_and_resized_as_in_training():
    road, seen = Road(3), []

    def watch(frames_BHWC):
        seen.append(frames_BHWC)
        return sure_of(1)(frames_BHWC)

    camera_steering(
        road,
        watch,
        appearance=appearance_named("dark"),
        data=DATA,
        camera=CameraSize(),
        gain=0.3,
        rng=np.random.default_rng(5),
    )()
    dark = appearance_named("dark")
    clean_HWC = picture(road.ground_map(), road.pose, dark.mount, CameraSize())
    expected_HWC = fit(Image.fromarray(dark.develop(clean_HWC, np.random.default_rng(5))), DATA)
    (frames_BHWC,) = seen
    assert frames_BHWC.dtype == np.uint8
    assert np.array_equal(frames_BHWC, expected_HWC[None])


def test_everybody_drives_every_track_under_every_appearance_and_the_expert_once():
    result = closed_loop_scores(
        {"left": always_left, "straight": always_straight}, SHORT, ["day", "dark", "day"], DATA
    )
    report = result.report()
    assert list(report) == ["day", "dark"]
    for scores in report.values():
        assert set(scores) == {"left", "straight", "expert"}
        assert set(scores["left"]) == {"track_covered", "off_road_share", "return"}
        assert scores["left"]["track_covered"] < scores["expert"]["track_covered"]
    drives = result.drives["dark"]["left"]
    assert [scored.track_seed for scored in drives] == [3, 4]
    assert result.drives["day"]["expert"] is result.drives["dark"]["expert"]


def test_the_sections_appearances_come_before_the_fleets():
    chosen = dataclasses.replace(SHORT, appearances=("fog",), max_s=0.1)
    result = closed_loop_scores({"left": always_left}, chosen, ["day"], DATA, expert=False)
    assert list(result.report()) == ["fog"]


@pytest.mark.slow
def test_processes_give_the_same_drives_as_none():
    narrow = ModelConfig(width=0.1)
    network = build_model(narrow, DATA.frame_height, DATA.frame_width, seed=0)
    drivers = {"untrained": TorchDriver(flatten(network), narrow, DATA)}
    alone = closed_loop_scores(drivers, SHORT, ["glare"], DATA)
    together = closed_loop_scores(drivers, dataclasses.replace(SHORT, workers=2), ["glare"], DATA)
    assert alone.report() == together.report()
    for driver in ("untrained", "expert"):
        pairs = zip(alone.drives["glare"][driver], together.drives["glare"][driver], strict=True)
        assert all(np.array_equal(one.path_T2, other.path_T2) for one, other in pairs)


def test_the_mean_of_a_driver_is_over_tracks_and_chosen_appearances():
    def drives(*covered: float) -> tuple[Drive, ...]:
        return tuple(
            Drive(1, share, 0.0, 0.0, np.zeros((1, 2), np.float32), None) for share in covered
        )

    result = ClosedLoopResult({"day": {"a": drives(0.2, 0.4)}, "fog": {"a": drives(0.6, 1.0)}})
    assert result.track_covered("a") == pytest.approx(0.55)
    assert result.track_covered("a", ["fog"]) == pytest.approx(0.8)


class FakeOnnxDriver:
    """A file that wants 60x80."""

    frame_height, frame_width = 60, 80

    def __init__(self, path):
        self.path = path


def test_a_file_for_other_frames_is_refused_with_both_sizes(monkeypatch, tmp_path):
    monkeypatch.setattr("convoy_simulation.roads.closed_loop.OnnxDriver", FakeOnnxDriver)
    with pytest.raises(UsageError, match=r"model\.onnx: sees frames of 60x80.* are 36x48"):
        open_driver(tmp_path / "model.onnx", DATA)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"track_seeds": []}, "one or more seeds"),
        ({"appearances": ["dusk"]}, "one of day"),
        ({"speed_mps": 0}, "speed_mps must be positive, got 0"),
        ({"physics_steps": 0}, "physics_steps must be at least 1"),
        ({"trackseeds": [1]}, "did you mean 'track_seeds'"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_name(table, message):
    with pytest.raises(SettingsError, match=message):
        from_table(ClosedLoopConfig, table, "[closed_loop]")
