"""Is there anything to learn from? The first frames of each recording are enough to say."""

from collections import Counter
from itertools import islice
from typing import Final

from convoy_driving.data_config import DataConfig
from convoy_driving.errors import RecordingError
from convoy_driving.recordings.reader import find_recordings
from convoy_driving.recordings.screening import Tally, usable_frames
from convoy_edge_client.errors import RecordingsMissingError
from convoy_edge_client.vehicle_config import VehicleConfig
from convoy_protos.findings import Finding, ok, problem, warning

LOOKED_AT: Final = 200
"""Frames of each recording; `convoy data check` reads them all."""


def look_at_recordings(vehicle: VehicleConfig) -> Finding:
    """Read the beginning of each."""
    usable, skipped, count = 0, Counter[str](), 0
    try:
        for ref in find_recordings(vehicle.recording_paths):
            tally, config = Tally(), DataConfig()
            frames = usable_frames(ref.reader(ref.path, config), config, tally)
            usable += sum(1 for _ in islice(frames, LOOKED_AT))
            skipped.update(tally.skipped)
            count += 1
    except (RecordingError, RecordingsMissingError) as error:
        return problem("recordings", str(error))
    return recordings_finding(count, usable, skipped)


def recordings_finding(count: int, usable: int, skipped: Counter[str]) -> Finding:
    """What was seen in the first frames of so many recordings."""
    reasons = ", ".join(
        f"{number} {why.replace('_', ' ')}" for why, number in sorted(skipped.items())
    )
    text = f"{count}; of their first {LOOKED_AT} frames {usable} usable"
    if not usable:
        return problem(
            "recordings", f"{text} ({reasons or 'they are empty'}): look with `convoy data check`"
        )
    if skipped.total() > usable:
        return warning("recordings", f"{text} ({reasons}): look with `convoy data check`")
    return ok("recordings", f"{text} ({reasons})" if reasons else text)
