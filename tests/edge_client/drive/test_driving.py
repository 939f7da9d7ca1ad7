"""`convoy drive` from end to end: sources, sinks, the socket, the part for Donkeycar, the settings."""

import json
import signal
import threading
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
from PIL import Image
from small_drive import CONFIG, PICTURE, SmallVehicle

from convoy_edge_client.drive import commands, drive_toml
from convoy_edge_client.drive.camera import Camera
from convoy_edge_client.drive.control_socket import ControlSocket
from convoy_edge_client.drive.drive_config import DriveConfig
from convoy_edge_client.drive.drive_toml import DriveToml, load_drive_toml
from convoy_edge_client.drive.driving import drive
from convoy_edge_client.drive.frame_source import open_source
from convoy_edge_client.drive.loaded_model import Answer
from convoy_edge_client.drive.pilot import ConvoyPilot
from convoy_edge_client.drive.recorded_frames import RecordedFrames
from convoy_edge_client.drive.sinks import drawn
from convoy_edge_client.drive.trial_rules import VehicleMoment
from convoy_edge_client.drive.watchdog import EXIT_CODE, watch
from convoy_edge_client.drive.wheel import Wheel
from convoy_edge_client.errors import FrameSourceError
from convoy_edge_client.toml_file import read_toml
from convoy_edge_client.updates.releases_config import ReleasesConfig
from convoy_edge_client.updates.states import State
from convoy_protos.errors import SettingsError
from convoy_protos.v1.control_pb2 import CommandsRequest, StandRequest
from convoy_protos.v1.control_pb2_grpc import ControlStub

EVERY_KEY = Path(__file__).parents[3] / "deploy" / "drive.toml"
ANSWER = Answer(
    steering=-0.5, throttle=0.25, probabilities=(0.6, 0.3, 0.1), release="spring", latency_ms=1.0
)


@pytest.fixture
def car(tmp_path):
    return SmallVehicle(tmp_path)


@pytest.fixture
def toml(car, tmp_path):  # noqa: ARG001 - makes the folders
    path = tmp_path / "drive.toml"
    path.write_text(
        'vehicle = "car-1"\n[releases]\nfolder = "car"\n[drive]\nrate_hz = 240\n'
        'swap_window = "disengaged"\n'
    )
    return path


class Still:
    """The same picture again and again."""

    is_live = False

    def __init__(self, count=5):
        self.count = count
        self.acted = []

    def pictures(self):
        for _ in range(self.count):
            yield PICTURE

    def act(self, answer):
        self.acted.append(answer)

    def moment(self):
        return VehicleMoment(engaged=True)


def test_every_frame_of_a_recording_becomes_a_line_and_a_picture(
    toml, small_fleet, tmp_path, monkeypatch, capsys
):
    folder = small_fleet.fleet_file.parent
    tub = next(path.parent for path in sorted(folder.rglob("manifest.json")))
    monkeypatch.setattr(
        "convoy_edge_client.drive.frame_source.installed_sources",
        lambda: {"recording": RecordedFrames},
    )
    handlers = {name: signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGINT)}
    try:
        commands.drive(
            config=toml,
            source=f"recording:{tub}",
            json_lines=tmp_path / "lines",
            overlay=tmp_path / "pictures",
            socket=None,
            frames=7,
            no_updates=True,
            roll_back=False,
        )
    finally:
        for name, handler in handlers.items():
            signal.signal(name, handler)
    lines = [json.loads(line) for line in (tmp_path / "lines").read_text().splitlines()]
    assert [line["frame"] for line in lines] == list(range(7))
    assert {line["release"] for line in lines} == {"factory"}
    assert len(list((tmp_path / "pictures").glob("*.jpg"))) == 7
    assert "7 frames driven" in capsys.readouterr().out


def test_the_operator_sends_a_model_back_from_the_command_line(car, toml, capsys):
    car.at(State.COMMITTED, committed=car.release("summer"))
    commands.drive(config=toml, roll_back=True)
    assert car.read().committed is None
    assert "the factory model drives" in capsys.readouterr().out


def test_what_was_decided_comes_back_to_the_source(car):
    source = Still()
    wheel = Wheel(car.file, car.factory, CONFIG)
    fast = DriveConfig(rate_hz=240)
    driven = drive(wheel, source, [], fast, threading.Event())
    assert driven.frames == len(source.acted) == 5


def test_a_slow_loop_says_how_many_frames_were_late(car):
    wheel = Wheel(car.file, car.factory, CONFIG)
    clock = iter(range(1000))  # a second passes at every look
    driven = drive(
        wheel, Still(), [], DriveConfig(rate_hz=20), threading.Event(), now_s=lambda: next(clock)
    )
    assert (driven.frames, driven.late) == (5, 5)


@pytest.mark.parametrize("text", ["radar:1", "camera:", "nowhere"])
def test_a_source_that_is_not_there_is_said(text):
    with pytest.raises((FrameSourceError, SettingsError)):
        open_source(
            text, {"recording": RecordedFrames, "camera": lambda what: Camera(what, Dark())}
        )


class Dark:
    """OpenCV without a camera, or with one that gives a blue picture in its order of colours."""

    def __init__(self, pictures=0):
        self.pictures = pictures

    def VideoCapture(self, _what):  # noqa: N802 - OpenCV's
        return self

    def isOpened(self):  # noqa: N802 - OpenCV's
        return self.pictures > 0

    def read(self):
        self.pictures -= 1
        blue_BGR = np.zeros((4, 4, 3), np.uint8)
        blue_BGR[:, :, 0] = 255
        return self.pictures >= 0, blue_BGR

    def release(self):
        self.pictures = 0


def test_a_camera_gives_red_green_blue_and_its_end_is_an_error():
    pictures = Camera("0", Dark(pictures=1)).pictures()
    assert tuple(next(pictures)[0, 0]) == (0, 0, 255)
    with pytest.raises(FrameSourceError, match="no more pictures"):
        next(pictures)


def test_without_opencv_the_way_out_is_said(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(FrameSourceError, match=r"convoy-fl\[camera\]"):
        Camera("0")


def test_the_overlay_points_to_where_is_steered():
    image = np.asarray(drawn(np.zeros((60, 80, 3), np.uint8), ANSWER))
    yellow = np.argwhere((image == (255, 210, 0)).all(axis=2))
    assert yellow[yellow[:, 0].argmin()][1] < 40  # its far end is left of the middle
    assert isinstance(drawn(np.zeros((60, 80, 3), np.uint8), ANSWER), Image.Image)


@pytest.mark.slow
def test_a_controller_hears_the_newest_command_and_says_how_the_vehicle_stands(tmp_path):
    socket = ControlSocket(tmp_path / "s")
    try:
        assert (tmp_path / "s").stat().st_mode & 0o077 == 0
        with grpc.insecure_channel(f"unix:{tmp_path / 's'}") as channel:
            stub = ControlStub(channel)
            socket.put(0, PICTURE, ANSWER)
            socket.put(1, PICTURE, ANSWER)
            commands_ = stub.Commands(CommandsRequest(), timeout=20)
            first = next(commands_)
            assert (first.frame, first.steering) == (1, -0.5)
            socket.put(2, PICTURE, ANSWER)
            assert next(commands_).frame == 2
            stub.Stand(StandRequest(engaged=False), timeout=20)
            assert socket.moment() == VehicleMoment(engaged=False)
            commands_.cancel()
    finally:
        socket.close()
    assert not (tmp_path / "s").exists()


def test_a_socket_with_too_long_a_name_is_refused(tmp_path):
    with pytest.raises(FrameSourceError, match="at most"):
        ControlSocket(tmp_path / ("x" * 120))


def test_donkeycar_s_loop_gets_angle_and_throttle_and_opens_the_window(car, toml):
    car.at(State.READY, candidate=car.release("spring"))
    pilot = ConvoyPilot(str(toml))
    try:
        assert pilot.run(None) == (0.0, 0.0)
        angle, throttle = pilot.run(PICTURE, "local")
        assert -1 <= angle <= 1
        assert -1 <= throttle <= 1
        end_s = time.monotonic() + 60
        while car.read().state is not State.TRIAL and time.monotonic() < end_s:
            pilot.run(PICTURE, "user")
            time.sleep(0.01)
        assert car.read().state is State.TRIAL
    finally:
        pilot.shutdown()


def test_a_frame_that_hangs_ends_the_process_so_that_it_is_started_anew():
    ended, stop = [], threading.Event()

    def end(code):
        ended.append(code)
        stop.set()

    watch(lambda: 9.0, 0.01, stop, end).join(20)
    assert ended == [EXIT_CODE]


def test_the_commented_file_has_every_key_with_its_default():
    found = drive_toml.from_table(DriveToml, read_toml(EVERY_KEY), "drive.toml")
    assert found == DriveToml(vehicle="car-07")
    text = EVERY_KEY.read_text()
    for config in (DriveToml(vehicle="x"), found.drive, found.preflight, found.releases):
        for name in type(config).__slots__:
            assert f"{name} = " in text or f"[{name}]" in text or f".{name}]" in text, name


@pytest.mark.parametrize(
    "text",
    [
        "",  # no vehicle
        'vehicle = ""',
        'vehicle = "a"\nspeed = 1',
        'vehicle = "a"\n[drive]\nrate_hz = 0',
        'vehicle = "a"\n[drive]\nwatchdog_s = nan',
        'vehicle = "a"\n[drive]\ncrop_top = 0.5\ncrop_bottom = 0.5',
        'vehicle = "a"\n[releases]\nserver = "h:1"\ndepot = "d"',
        'vehicle = "a"\n[releases]\nchannel = "../up"',
        "vehicle = ",
    ],
)
def test_wrong_settings_are_refused(tmp_path, text):
    (tmp_path / "drive.toml").write_text(text)
    with pytest.raises(SettingsError, match=r"drive\.toml"):
        load_drive_toml(tmp_path / "drive.toml")


def test_paths_start_at_the_folder_of_the_file(tmp_path):
    (tmp_path / "drive.toml").write_text('vehicle = "a"\n[releases]\ndepot = "stick"')
    read = load_drive_toml(tmp_path / "drive.toml")
    assert read.releases == ReleasesConfig(
        depot=str(tmp_path / "stick"), folder=str(tmp_path / "releases")
    )
    assert read.factory == str(tmp_path / "factory")
