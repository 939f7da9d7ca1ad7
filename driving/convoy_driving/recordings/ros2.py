"""ROS 2 bags, MCAP or sqlite3, through `rosbags` (https://gitlab.com/ternaris/rosbags).

A bag is a folder with metadata.yaml. Pictures come from one topic (sensor_msgs/CompressedImage or
sensor_msgs/Image), steering and throttle from fields of one or two others; each picture takes the
commands nearest in time. ROS counts steering to the left as positive (REP 103), so the default
scale is -1. Neither ROS nor any package beyond the extra `convoy-fl[ros]` is needed.
"""

import bisect
import contextlib
import hashlib
from array import array
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from convoy_driving.data_config import DataConfig
from convoy_driving.errors import BrokenRecordingError, MissingExtraError
from convoy_driving.recordings.reader import (
    Picture,
    Sample,
    Skipped,
    SkipReason,
    files_in,
    identify_content,
    identify_files,
)

if TYPE_CHECKING:
    from rosbags.highlevel import AnyReader
    from rosbags.interfaces import Connection
    from rosbags.typesys.store import Typestore

METADATA = "metadata.yaml"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
RAW = "sensor_msgs/msg/Image"

_CHANNELS = {
    "rgb8": [0, 1, 2],
    "bgr8": [2, 1, 0],
    "rgba8": [0, 1, 2],
    "bgra8": [2, 1, 0],
    "mono8": [0, 0, 0],
}
"""Where red, green and blue stand in a pixel."""
_PIXEL_BYTES = {"rgba8": 4, "bgra8": 4, "mono8": 1}


class Ros2Reader:
    """Reads one bag."""

    format: ClassVar[str] = "ros2"

    def __init__(self, path: Path, config: DataConfig) -> None:
        self._path = path
        self._config = config

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """A folder with the metadata.yaml of rosbag2."""
        metadata = path / METADATA
        if not metadata.is_file():
            return False
        with metadata.open("rb") as file:
            return b"rosbag2_bagfile_information" in file.read(4096)

    def items(self) -> Iterator[Sample | Skipped]:
        """Every picture, with the nearest commands; the commands are read first, once."""
        config = self._config
        with self._opened() as bag:
            image = _image_connection(bag, self._path, config)
            steering = _Commands(
                bag,
                self._path,
                topic=config.ros_steering_topic,
                field=config.ros_steering_field,
                scale=config.ros_steering_scale,
            )
            throttle = _Commands(
                bag,
                self._path,
                topic=config.ros_throttle_topic or steering.topic,
                field=config.ros_throttle_field,
                scale=config.ros_throttle_scale,
            )
            tolerance_ns = round(config.ros_time_tolerance_s * 1e9)
            for _, time_ns, raw in bag.messages([image]):
                command = steering.nearest(time_ns, tolerance_ns)
                throttle_command = throttle.nearest(time_ns, tolerance_ns)
                if command is None or throttle_command is None:
                    yield Skipped(SkipReason.NO_COMMAND)
                    continue
                picture = _picture(bag.deserialize(raw, image.msgtype), image.msgtype)
                if picture is None:
                    yield Skipped(SkipReason.UNDECODABLE)
                    continue
                yield Sample(
                    picture=picture,
                    steering=command,
                    throttle=throttle_command,
                    time_s=time_ns / 1e9,
                )

    def identify(self, digest: "hashlib._Hash") -> None:
        """metadata.yaml by content; the rest of the folder by name, size and modification time."""
        identify_content(digest, self._path / METADATA)
        identify_files(digest, files_in(self._path))

    @contextlib.contextmanager
    def _opened(self) -> Iterator["AnyReader"]:
        try:
            from rosbags.highlevel import AnyReader, AnyReaderError  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise MissingExtraError(
                f"{self._path}: reading ROS 2 bags needs the package rosbags; "
                "install it with: pip install 'convoy-fl[ros]'"
            ) from error
        store = _message_store(self._config)
        try:
            with AnyReader([self._path], default_typestore=store) as bag:
                yield bag
        except (AnyReaderError, OSError) as error:
            raise BrokenRecordingError(
                f"{self._path}: rosbags cannot read it ({error}); check the bag with "
                "`ros2 bag info`, or name missing message definitions with ros_message_folder"
            ) from error


class _Commands:
    """One number over time, from one field of one topic."""

    def __init__(
        self, bag: "AnyReader", path: Path, *, topic: str, field: str, scale: float
    ) -> None:
        connections = _connections_with(bag, path, topic, field)
        self.topic = connections[0].topic
        names = field.split(".")
        self._times_ns = array("q")
        self._values = array("d")
        for connection, time_ns, raw in bag.messages(connections):
            message = bag.deserialize(raw, connection.msgtype)
            self._times_ns.append(time_ns)
            value: Any = reduce(getattr, names, message)
            self._values.append(scale * float(value))

    def nearest(self, time_ns: int, tolerance_ns: int) -> float | None:
        """The value nearest in time, the earlier of two as near; None beyond the tolerance."""
        after = bisect.bisect_left(self._times_ns, time_ns)
        near = [place for place in (after - 1, after) if 0 <= place < len(self._times_ns)]
        if not near:
            return None
        best = min(near, key=lambda place: abs(self._times_ns[place] - time_ns))
        if abs(self._times_ns[best] - time_ns) > tolerance_ns:
            return None
        return self._values[best]


def _image_connection(bag: "AnyReader", path: Path, config: DataConfig) -> "Connection":
    cameras = [
        connection
        for connection in bag.connections
        if connection.msgtype in (COMPRESSED, RAW)
        and config.ros_image_topic in ("", connection.topic)
    ]
    if len(cameras) != 1:
        wanted = repr(config.ros_image_topic) if config.ros_image_topic else "exactly one"
        raise BrokenRecordingError(
            f"{path}: expected {wanted} image topic, found {len(cameras)} in {_topics(bag)}; "
            "name it with ros_image_topic in [data]"
        )
    return cameras[0]


def _connections_with(bag: "AnyReader", path: Path, topic: str, field: str) -> "list[Connection]":
    """Connections of the topic, or of the only topic that has the field."""
    found = [
        connection
        for connection in bag.connections
        if topic in ("", connection.topic) and _has_field(bag, connection, field)
    ]
    if len({connection.topic for connection in found}) != 1:
        raise BrokenRecordingError(
            f"{path}: expected one topic{f' {topic!r}' if topic else ''} with a field {field!r}, "
            f"found {len(found)} in {_topics(bag)}; name topic and field with "
            "ros_steering_topic, ros_steering_field, ros_throttle_topic, ros_throttle_field"
        )
    return found


def _has_field(bag: "AnyReader", connection: "Connection", field: str) -> bool:
    """Whether the connection's first message has the field, and a number in it."""
    for _, _, raw in bag.messages([connection]):
        message: Any = bag.deserialize(raw, connection.msgtype)
        for name in field.split("."):
            if not hasattr(message, name):
                return False
            message = getattr(message, name)
        return isinstance(message, int | float | np.number)
    return False


def _topics(bag: "AnyReader") -> str:
    return ", ".join(f"{item.topic} ({item.msgtype})" for item in bag.connections) or "no topic"


def raw_picture(message: Any) -> NDArray[np.uint8] | None:
    """RGB of a sensor_msgs/Image; None for an unknown encoding or sizes that do not fit."""
    order = _CHANNELS.get(message.encoding)
    if order is None:
        return None
    pixel_bytes = _PIXEL_BYTES.get(message.encoding, 3)
    rows = np.asarray(message.data, np.uint8)
    if len(rows) < message.height * message.step or message.step < message.width * pixel_bytes:
        return None
    rows = rows[: message.height * message.step].reshape(message.height, message.step)
    pixels = rows[:, : message.width * pixel_bytes].reshape(message.height, message.width, -1)
    return np.ascontiguousarray(pixels[:, :, order])


def _picture(message: Any, message_type: str) -> Picture | None:
    return bytes(message.data) if message_type == COMPRESSED else raw_picture(message)


def _message_store(config: DataConfig) -> "Typestore":
    """The common ROS 2 messages, and those of ros_message_folder (package/msg/Name.msg)."""
    from rosbags.typesys import (  # noqa: PLC0415 - an extra
        Stores,
        get_types_from_msg,
        get_typestore,
    )

    store = get_typestore(Stores.LATEST)
    if config.ros_message_folder:
        folder = Path(config.ros_message_folder)
        definitions = sorted(folder.rglob("*.msg"))
        if not definitions:
            raise BrokenRecordingError(
                f"ros_message_folder {folder}: no .msg file; expected package/msg/Name.msg"
            )
        for definition in definitions:
            package = definition.parent.parent.name
            name = f"{package}/msg/{definition.stem}"
            store.register(get_types_from_msg(definition.read_text(), name))
    return store
