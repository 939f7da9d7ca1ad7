"""ROS 2 bags, written here with rosbags in both storages."""

import builtins
from itertools import count, islice
from types import SimpleNamespace

import numpy as np
import pytest

from convoy_driving.data_config import DataConfig
from convoy_driving.errors import BrokenRecordingError, MissingExtraError
from convoy_driving.recordings.donkeycar import DonkeycarReader
from convoy_driving.recordings.reader import Sample, Skipped
from convoy_driving.recordings.ros2 import Ros2Reader, raw_picture

MS = 1_000_000
rosbag2 = pytest.importorskip("rosbags.rosbag2", reason="needs the extra convoy-fl[ros]")
typesys = pytest.importorskip("rosbags.typesys")


@pytest.fixture
def write_bag(tmp_path):
    """Writes a bag of pictures and TwistStamped commands at the given times."""
    store = typesys.get_typestore(typesys.Stores.LATEST)
    types = store.types
    numbers = count()

    def stamp(time_ns):
        time = types["builtin_interfaces/msg/Time"](sec=0, nanosec=time_ns)
        return types["std_msgs/msg/Header"](stamp=time, frame_id="")

    def write(images_ns, commands, *, storage="MCAP", topics=("/camera",)):
        path = tmp_path / f"bag{next(numbers)}"
        plugin = rosbag2.StoragePlugin[storage]
        with rosbag2.Writer(path, version=9, storage_plugin=plugin) as bag:
            compressed, twist = "sensor_msgs/msg/CompressedImage", "geometry_msgs/msg/TwistStamped"
            cameras = [bag.add_connection(name, compressed, typestore=store) for name in topics]
            command = bag.add_connection("/cmd", twist, typestore=store)
            for camera in cameras:
                for time_ns in images_ns:
                    data = np.frombuffer(b"\xff\xd8picture", np.uint8)
                    message = types[compressed](header=stamp(time_ns), format="jpeg", data=data)
                    bag.write(camera, time_ns, store.serialize_cdr(message, compressed))
            vector = types["geometry_msgs/msg/Vector3"]
            for time_ns, speed, turn in commands:
                message = types[twist](
                    header=stamp(time_ns),
                    twist=types["geometry_msgs/msg/Twist"](
                        linear=vector(x=speed, y=0.0, z=0.0), angular=vector(x=0.0, y=0.0, z=turn)
                    ),
                )
                bag.write(command, time_ns, store.serialize_cdr(message, twist))
        return path

    return write


def read(path, **settings):
    return list(Ros2Reader(path, DataConfig(**settings)).items())


@pytest.mark.parametrize("storage", ["MCAP", "SQLITE3"])
def test_a_picture_takes_the_nearest_command_and_left_becomes_negative(write_bag, storage):
    bag = write_bag(
        [100 * MS, 150 * MS],
        [(90 * MS, 0.1, 0.9), (107 * MS, 0.5, 0.25), (157 * MS, 0.6, -0.5)],
        storage=storage,
    )

    samples = read(bag)

    assert [(sample.steering, sample.throttle) for sample in samples] == [(-0.25, 0.5), (0.5, 0.6)]
    assert samples[0].picture == b"\xff\xd8picture"
    assert samples[0].time_s == pytest.approx(0.1)


def test_a_picture_without_a_command_in_time_is_counted(write_bag):
    bag = write_bag([100 * MS, 300 * MS], [(107 * MS, 0.5, 0.0)])

    assert [type(item) for item in read(bag)] == [Sample, Skipped]
    assert [type(item) for item in read(bag, ros_time_tolerance_s=0.2)] == [Sample, Sample]
    assert read(bag, ros_time_tolerance_s=0.001)[0] == Skipped("no_command")


def test_sign_and_scale_can_be_set(write_bag):
    bag = write_bag([0], [(0, 2.0, 0.25)])

    (sample,) = read(bag, ros_steering_scale=2.0, ros_throttle_scale=0.25)

    assert (sample.steering, sample.throttle) == (0.5, 0.5)


def test_two_cameras_need_a_choice(write_bag):
    bag = write_bag([0], [(0, 0.0, 0.0)], topics=("/left", "/right"))

    with pytest.raises(BrokenRecordingError, match=r"found 2 in .*name it with ros_image_topic"):
        read(bag)
    assert len(read(bag, ros_image_topic="/right")) == 1


def test_a_field_that_no_topic_has_is_named_with_the_way_out(write_bag):
    bag = write_bag([0], [(0, 0.0, 0.0)])

    with pytest.raises(BrokenRecordingError, match=r"'drive\.angle'.*ros_steering_topic"):
        read(bag, ros_steering_field="drive.angle")


def test_a_torn_bag_is_one_named_error(write_bag):
    bag = write_bag([0], [(0, 0.0, 0.0)])
    (storage,) = bag.glob("*.mcap")
    storage.write_bytes(storage.read_bytes()[:20])

    with pytest.raises(BrokenRecordingError, match="rosbags cannot read it"):
        read(bag)


def test_without_the_extra_the_error_says_what_to_install(write_bag, monkeypatch):
    bag = write_bag([0], [(0, 0.0, 0.0)])
    real_import = builtins.__import__

    def without_rosbags(name, *rest, **named):
        if name.startswith("rosbags"):
            raise ModuleNotFoundError(name)
        return real_import(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without_rosbags)

    with pytest.raises(MissingExtraError, match=r"pip install 'convoy-fl\[ros\]'"):
        read(bag)


@pytest.mark.parametrize(
    ("encoding", "data", "first_pixel"),
    [
        ("rgb8", [1, 2, 3, 4, 5, 6, 0, 0], [1, 2, 3]),
        ("bgr8", [1, 2, 3, 4, 5, 6, 0, 0], [3, 2, 1]),
        ("bgra8", [1, 2, 3, 9, 4, 5, 6, 9], [3, 2, 1]),
        ("mono8", [7, 8, 0, 0, 0, 0, 0, 0], [7, 7, 7]),
    ],
)
def test_a_raw_picture_becomes_rgb_whatever_its_encoding(encoding, data, first_pixel):
    message = SimpleNamespace(encoding=encoding, width=2, height=1, step=8, data=data)

    picture_HWC = raw_picture(message)

    assert picture_HWC.shape == (1, 2, 3)
    assert picture_HWC[0, 0].tolist() == first_pixel


@pytest.mark.parametrize(
    "message",
    [
        SimpleNamespace(encoding="bayer_rggb8", width=1, height=1, step=1, data=[1]),
        SimpleNamespace(encoding="rgb8", width=2, height=2, step=6, data=[1] * 11),  # too short
        SimpleNamespace(encoding="rgb8", width=2, height=1, step=5, data=[1] * 5),  # step too small
    ],
)
def test_a_raw_picture_that_does_not_fit_is_none(message):
    assert raw_picture(message) is None


def test_pictures_of_the_shared_bags_are_those_of_the_tubs_they_were_made_from(shared_data):
    samples = read(shared_data / "ros2_bags" / "drive_sqlite3")

    assert len(samples) == 200
    tub = DonkeycarReader(shared_data / "donkeysim_circuit" / "tub_1_21-09-19", DataConfig())
    originals = list(islice(tub.items(), 200))
    assert [item.steering for item in samples] == pytest.approx([o.steering for o in originals])
    assert [item.picture for item in samples] == [o.picture for o in originals]
