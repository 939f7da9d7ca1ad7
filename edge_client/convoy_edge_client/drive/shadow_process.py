"""The process in which a candidate looks on: a crash in it is seen, and harms nobody.

    python -m convoy_edge_client.drive.shadow_process FD     standard input: one line of JSON, then a byte a
                                                             frame; standard output: one line of JSON a frame

The frame itself lies in memory that is shared through the file descriptor.
"""

import json
import mmap
import sys
from pathlib import Path

import numpy as np

from convoy_driving.errors import InferenceError, ModelFileError
from convoy_edge_client.drive.drive_config import DriveConfig
from convoy_edge_client.drive.loaded_model import load_model
from convoy_edge_client.errors import ReleaseFileError
from convoy_edge_client.updates.states import Slot
from convoy_protos.settings import from_table


def main() -> None:
    """Answer until standard input ends."""
    order = json.loads(sys.stdin.buffer.readline())
    shape = tuple(order["shape"])
    shared = mmap.mmap(int(sys.argv[1]), int(np.prod(shape)))
    picture_HWC = np.frombuffer(shared, np.uint8).reshape(shape)
    try:
        model = load_model(
            Path(order["folder"]),
            from_table(Slot, order["slot"], "slot"),
            from_table(DriveConfig, order["drive"], "drive"),
            Path(order["engines"]),
        )
        _say({})
        while sys.stdin.buffer.read(1):
            answer = model.answer(picture_HWC)
            _say({"steering": answer.steering, "ms": answer.latency_ms})
    except (ReleaseFileError, ModelFileError, InferenceError) as error:
        _say({"fault": str(error)})


def _say(table: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(table) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
