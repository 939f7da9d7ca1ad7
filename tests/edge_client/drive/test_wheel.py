"""Who has the wheel: shadow, trial, commit, and every way back, without losing a frame."""

import os
import signal
import time

import numpy as np
import pytest
from small_drive import CONFIG, PICTURE, SmallVehicle, nan_when_bright

from convoy_driving.errors import InferenceError
from convoy_edge_client.drive import wheel as wheels
from convoy_edge_client.drive.loaded_model import LoadedModel
from convoy_edge_client.drive.trial_rules import (
    DrivenFrames,
    VehicleMoment,
    is_open,
    shadow_objection,
    trial_objection,
)
from convoy_edge_client.drive.wheel import Wheel
from convoy_edge_client.errors import FactoryModelError
from convoy_edge_client.updates import states
from convoy_edge_client.updates.states import State

WHITE = np.full_like(PICTURE, 255)


@pytest.fixture
def car(tmp_path):
    return SmallVehicle(tmp_path)


class Drive:
    """Frames until something is so; every frame must be answered."""

    def __init__(self, car, config=CONFIG, told=lambda _: None):
        self.wheel = Wheel(car.file, car.factory, config, told)
        self.car = car

    def __enter__(self):
        self.wheel.start()
        return self

    def __exit__(self, *_):
        self.wheel.close()

    def until(self, condition, picture=PICTURE, patience_s=60):
        end_s = time.monotonic() + patience_s
        while not condition(self.car.read()):
            assert time.monotonic() < end_s, self.car.read()
            answer = self.wheel.answer(picture)
            assert np.isfinite(answer.steering)
            time.sleep(0.005)
        return self.wheel.answer(picture)


def test_without_any_release_the_factory_drives(car):
    with Drive(car) as drive:
        assert drive.wheel.answer(PICTURE).release == "factory"


def test_a_candidate_looks_on_drives_on_trial_and_is_committed(car):
    car.at(State.SHADOW, candidate=car.release("spring"))
    with Drive(car) as drive:
        answer = drive.until(lambda record: record.state is State.COMMITTED)
    assert answer.release == "spring"
    assert [report.outcome for report in car.read().reports] == ["committed"]


def test_it_waits_for_the_swap_window(car):
    car.at(State.READY, candidate=car.release("spring"))
    config = wheels.replace(CONFIG, swap_window="disengaged")
    with Drive(car, config) as drive:
        drive.wheel.tell(VehicleMoment(engaged=True))
        for _ in range(100):
            assert drive.wheel.answer(PICTURE).release == "factory"
            time.sleep(0.005)
        drive.wheel.tell(VehicleMoment(engaged=False))
        drive.until(lambda record: record.state is State.COMMITTED)


def test_nan_on_trial_is_answered_by_the_model_before_and_quarantined(car):
    old = car.release("old", counter=1)
    car.at(State.TRIAL, candidate=car.release("bad", nan_when_bright(), counter=2), committed=old)
    with Drive(car) as drive:
        assert drive.wheel.answer(PICTURE).release == "bad"
        assert drive.wheel.answer(WHITE).release == "old"
        drive.until(lambda record: record.state is State.QUARANTINED)
    record = car.read()
    assert "NaN" in record.reason
    assert [report.outcome for report in record.reports] == ["rolled_back"]


def test_nan_of_what_is_committed_goes_back_to_the_previous(car):
    bad = car.release("bad", nan_when_bright(), counter=2)
    car.at(State.COMMITTED, committed=bad, previous=car.release("old", counter=1))
    with Drive(car) as drive:
        assert drive.wheel.answer(PICTURE).release == "bad"
        assert drive.wheel.answer(WHITE).release == "old"
    assert car.read().committed.release == "old"


def test_the_factory_s_own_failure_is_told(car):
    car.write(car.factory, nan_when_bright())
    with Drive(car) as drive, pytest.raises(InferenceError):
        drive.wheel.answer(WHITE)


def test_a_hang_on_trial_is_answered_by_the_model_before(car, monkeypatch):
    car.at(State.TRIAL, candidate=car.release("slow"))
    real = LoadedModel.answer

    def hanging(self, picture):
        if self.release == "slow" and picture is WHITE:
            time.sleep(30)
        return real(self, picture)

    monkeypatch.setattr(LoadedModel, "answer", hanging)
    with Drive(car, wheels.replace(CONFIG, watchdog_s=0.3)) as drive:
        assert drive.wheel.answer(WHITE).release == "factory"
        drive.until(lambda record: record.state is State.QUARANTINED)
    assert "no answer within" in car.read().reason


def test_a_crash_in_the_shadow_harms_nobody(car):
    car.at(State.SHADOW, candidate=car.release("spring"))
    with Drive(car, wheels.replace(CONFIG, shadow_frames=10**6)) as drive:
        drive.until(lambda _: drive.wheel._shadow is not None and drive.wheel._shadow.compared > 2)
        os.kill(drive.wheel._shadow._process.pid, signal.SIGSEGV)
        drive.until(lambda record: record.state is State.QUARANTINED)
    assert "SIGSEGV" in car.read().reason


def test_a_candidate_that_disagrees_does_not_drive(car):
    car.at(State.SHADOW, candidate=car.release("spring"))
    config = wheels.replace(CONFIG, largest_disagreement=1e-6)
    with Drive(car, config) as drive:
        answer = drive.until(lambda record: record.state is State.QUARANTINED)
    assert answer.release == "factory"
    assert "off what drives" in car.read().reason


def test_withdrawn_in_trial_the_model_before_drives_again(car):
    old = car.release("old")
    car.at(State.TRIAL, candidate=car.release("spring", counter=2), committed=old)
    config = wheels.replace(CONFIG, trial_frames=10**6)
    with Drive(car, config) as drive:
        assert drive.wheel.answer(PICTURE).release == "spring"
        car.file.step(lambda r: states.judged(r, minimum=1, keep_candidate=False, may_advance=True))
        drive.until(lambda _: drive.wheel.answer(PICTURE).release == "old")


def test_the_operator_s_signal_sends_back_what_is_committed(car):
    car.at(
        State.COMMITTED,
        committed=car.release("summer", counter=2),
        previous=car.release("spring", counter=1),
    )
    with Drive(car) as drive:
        assert drive.wheel.answer(PICTURE).release == "summer"
        car.file.step(lambda r: states.sent_back(r, "operator"))
        drive.until(lambda _: drive.wheel.answer(PICTURE).release == "spring")


@pytest.mark.parametrize("fault", ["missing", "damaged", "no manifest"])
def test_what_cannot_be_loaded_gives_way_to_the_previous_then_to_the_factory(car, fault):
    slots = [car.release("summer", counter=2), car.release("spring", counter=1)]
    car.at(State.COMMITTED, committed=slots[0], previous=slots[1])
    drove = []
    for name in ("summer", "spring"):
        folder = car.folder / "releases" / name
        if fault == "no manifest":
            (folder / "manifest.json").unlink()
        elif fault == "missing":
            (folder / "model.fp32.onnx").unlink()
        else:
            content = bytearray((folder / "model.fp32.onnx").read_bytes())
            content[-20] ^= 1
            (folder / "model.fp32.onnx").write_bytes(content)
        with Drive(car) as drive:
            drove.append(drive.wheel.answer(PICTURE).release)
    assert drove == ["spring", "factory"]


def test_a_process_that_ends_twice_in_trial_starts_with_the_model_before(car):
    """A candidate that crashes after ten seconds takes its process with it."""
    car.at(State.TRIAL, candidate=car.release("crashes", counter=2), committed=car.release("old"))
    drove = [Wheel(car.file, car.factory, CONFIG).answer(PICTURE).release for _ in range(3)]
    assert drove == ["crashes", "crashes", "old"]


def test_on_a_disk_that_cannot_be_written_no_candidate_drives(car, monkeypatch):
    car.at(State.TRIAL, candidate=car.release("new", counter=2), committed=car.release("old"))

    def refuse(*_args, **_named):
        raise wheels.ReleaseStoreError("read-only disk")

    monkeypatch.setattr(type(car.file), "step", refuse)
    assert Wheel(car.file, car.factory, CONFIG).answer(PICTURE).release == "old"


def test_without_a_factory_model_the_way_out_is_said(car):
    (car.factory / "manifest.json").unlink()
    with pytest.raises(FactoryModelError, match="put a release's folder there"):
        Wheel(car.file, car.factory, CONFIG)


def test_pictures_of_another_size_are_cropped_and_resized(car):
    with Drive(car) as drive:
        assert -1 <= drive.wheel.answer(np.zeros((48, 64, 3), np.uint8)).steering <= 1


@pytest.mark.parametrize(
    ("window", "moment", "opened"),
    [
        ("any", VehicleMoment(), True),
        ("parked", VehicleMoment(), False),  # what is not said is not so
        ("parked", VehicleMoment(parked=True), True),
        ("parked", VehicleMoment(engaged=False), False),  # a person drives
        ("disengaged", VehicleMoment(engaged=False), True),
        ("disengaged", VehicleMoment(parked=True, engaged=True), True),
        ("disengaged", VehicleMoment(engaged=True), False),
        ("disengaged", VehicleMoment(), False),
    ],
)
def test_the_swap_window(window, moment, opened):
    assert is_open(window, moment) is opened


@pytest.mark.parametrize(
    ("before", "trial", "outcome"),
    [
        ((1000, 2.0, 0), (49, 9.0, 49), "goes on"),  # too few to say
        ((1000, 2.0, 0), (60, 2.9, 0), "goes on"),
        ((1000, 2.0, 0), (60, 3.1, 0), "ends"),  # slower than 1.5 times
        ((1000, 0.2, 0), (60, 0.6, 0), "goes on"),  # not noticeable
        ((1000, 2.0, 0), (60, 2.0, 3), "ends"),  # misses deadlines
        ((1000, 2.0, 50), (60, 2.0, 3), "goes on"),  # as the model before did
        ((0, 0.0, 0), (60, 9.0, 0), "goes on"),  # nothing to compare with
        ((1000, 2.0, 0), (1200, 2.0, 0), "passes"),
    ],
)
def test_a_trial_is_judged_by_what_drove_before(before, trial, outcome):
    def counted(values):
        return DrivenFrames(frames=values[0], p50_ms=values[1], missed=values[2])

    verdict = trial_objection(counted(before), counted(trial), wheels.DriveConfig())
    assert {None: "goes on", "": "passes"}.get(verdict, "ends") == outcome


def test_a_shadow_that_answers_nan_is_objected_to():
    assert shadow_objection(200, float("nan"), wheels.DriveConfig())
    assert shadow_objection(199, float("nan"), wheels.DriveConfig()) is None
    assert shadow_objection(200, 0.1, wheels.DriveConfig()) == ""
