"""Two small JSON files of a release repository: a channel's pointer and the policy.

channels/CHANNEL.json  signed online: {"schema": "convoy.channel/1", "channel", "release", "counter",
                       "percent", "salt", "state", "tags": {tag: [values]}, "withdrawn": [releases]}
policy.json            signed offline: {"schema": "convoy.release-policy/1", "minimum_counter"}

The pointer only chooses among releases that the offline keys signed, and below the minimum counter it
chooses none.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar

from convoy_privacy.errors import ReleaseFormatError
from convoy_privacy.releases.layout import (
    MAX_SMALL_FILE_BYTES,
    check_counter_range,
    check_name,
)
from convoy_protos.errors import SettingsError
from convoy_protos.settings import from_table, to_table

POINTER_SCHEMA: Final = "convoy.channel/1"
POLICY_SCHEMA: Final = "convoy.release-policy/1"
MAX_WITHDRAWN: Final = 32
"""The newest stay in the pointer; older ones are below what a vehicle would still try."""

RolloutState = Literal["rolling", "paused"]
Text = TypeVar("Text")

_SALT: Final = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelPointer:
    """Which release a channel's vehicles shall have.

    Attributes:
        channel: Its name.
        release: The release that is rolled out.
        counter: Of that release.
        percent: Of vehicles that may install it, in 0..100; 0: canaries alone.
        salt: 16 bytes in hexadecimal, new for each release: other vehicles are the first each time.
        state: paused: nobody begins to install or to drive it.
        tags: A vehicle has, for every tag named here, one of its values; empty: no filter.
        withdrawn: Releases that nobody may try any more, newest last; `release` may be one.
    """

    channel: str
    release: str
    counter: int
    percent: int
    salt: str
    state: RolloutState = "rolling"
    tags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    withdrawn: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in (self.channel, self.release, *self.withdrawn, *self.tags):
            check_name(name)
        for value in (value for values in self.tags.values() for value in values):
            check_name(value)
        check_counter_range(self.counter)
        if not 0 <= self.percent <= 100:
            raise ReleaseFormatError(f"percent must be in 0..100, got {self.percent}")
        if not _SALT.fullmatch(self.salt):
            raise ReleaseFormatError("salt must be 32 hexadecimal digits")
        if len(self.withdrawn) > MAX_WITHDRAWN:
            raise ReleaseFormatError(f"withdrawn must name at most {MAX_WITHDRAWN} releases")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleasePolicy:
    """What the offline keys forbid the online ones.

    Attributes:
        minimum_counter: Releases with a smaller counter are neither installed nor driven.
    """

    minimum_counter: int = 1

    def __post_init__(self) -> None:
        check_counter_range(self.minimum_counter)


def write_pointer(pointer: ChannelPointer) -> bytes:
    """The text of channels/CHANNEL.json."""
    return _write(POINTER_SCHEMA, pointer)


def read_pointer(data: bytes, channel: str) -> ChannelPointer:
    """The pointer of a channel.

    Raises:
        ReleaseFormatError: The text is none, or another channel's.
    """
    pointer = _read(ChannelPointer, data, POINTER_SCHEMA)
    if pointer.channel != channel:
        raise ReleaseFormatError(
            f"expected the pointer of {channel}, got that of {pointer.channel}"
        )
    return pointer


def write_policy(policy: ReleasePolicy) -> bytes:
    """The text of policy.json."""
    return _write(POLICY_SCHEMA, policy)


def read_policy(data: bytes) -> ReleasePolicy:
    """The policy.

    Raises:
        ReleaseFormatError: The text is none.
    """
    return _read(ReleasePolicy, data, POLICY_SCHEMA)


def _write(schema: str, text: ChannelPointer | ReleasePolicy) -> bytes:
    document = {"schema": schema, **to_table(text)}
    return json.dumps(document, indent=1, sort_keys=True, allow_nan=False).encode() + b"\n"


def _read(kind: type[Text], data: bytes, schema: str) -> Text:
    if len(data) > MAX_SMALL_FILE_BYTES:
        raise ReleaseFormatError(
            f"expected at most {MAX_SMALL_FILE_BYTES} bytes of {schema}, got {len(data)}"
        )
    table = parse_object(data, schema)
    if table.pop("schema", None) != schema:
        raise ReleaseFormatError(f"expected a text of {schema}, got another schema")
    try:
        return from_table(kind, table, schema)
    except SettingsError as error:
        raise ReleaseFormatError(str(error)) from error


def parse_object(data: bytes, what: str) -> dict[str, Any]:
    """A JSON object.

    Args:
        data: UTF-8; the caller bounds its length.
        what: For the message.

    Raises:
        ReleaseFormatError: It is none.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ReleaseFormatError(f"{what}: not JSON ({error!r:.80})") from error
    if not isinstance(document, dict):
        raise ReleaseFormatError(f"{what}: expected a JSON object, got {type(document).__name__}")
    return document
