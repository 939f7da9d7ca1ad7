"""Where frames come from. A source is registered by name under the entry-point group `convoy.frame_sources`.

recording:PATH     a Donkeycar tub, a driving log or a ROS 2 bag, at its own pace or at rate_hz
camera:NUMBER      OpenCV; needs the extra convoy-fl[camera]
simulator:SEED     a random track in closed loop; comes with convoy-fl[simulation]
"""

from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from convoy_edge_client.drive.loaded_model import Answer
from convoy_edge_client.drive.trial_rules import VehicleMoment
from convoy_edge_client.errors import FrameSourceError

ENTRY_POINT_GROUP: Final = "convoy.frame_sources"


class FrameSource(Protocol):
    """Gives pictures and takes answers; one that only gives ignores these."""

    def pictures(self) -> Iterator[NDArray[np.uint8]]:
        """uint8 (height, width, 3), RGB, until there are no more; ends its work when closed.

        Raises:
            FrameSourceError: The source is not there, or breaks.
        """
        ...

    def act(self, answer: Answer) -> None:
        """What was decided about the picture that came last."""
        ...

    def moment(self) -> VehicleMoment:
        """What the vehicle says of itself."""
        ...

    @property
    def is_live(self) -> bool:
        """Whether it sets the pace itself; False: whoever drives it waits for the next period."""
        ...


MakeSource = Callable[[str], FrameSource]
"""What stands after the colon -> a source. Raises FrameSourceError."""


def open_source(text: str, makers: dict[str, MakeSource] | None = None) -> FrameSource:
    """The source that a text such as "camera:0" names; a text without a name is a recording.

    Args:
        text: NAME:WHAT.
        makers: By name; None takes those that are installed.

    Raises:
        FrameSourceError: No such kind of source, or it cannot be opened.
    """
    known = installed_sources() if makers is None else makers
    name, colon, what = text.partition(":")
    if name in known and colon:
        return known[name](what)
    if "recording" in known and not (colon and name.isalpha()):
        return known["recording"](text)
    raise FrameSourceError(
        f"{text}: no such source; installed are {', '.join(sorted(known)) or 'none'}"
    )


def installed_sources() -> dict[str, MakeSource]:
    """By name; a source is imported when it is opened."""
    return {point.name: _late(point) for point in entry_points(group=ENTRY_POINT_GROUP)}


def _late(point: Any) -> MakeSource:
    def make(what: str) -> FrameSource:
        source: FrameSource = point.load()(what)
        return source

    return make
