"""What a release took from outside the run directory, kept so that it can be made again, byte for byte.

    OUT/release_inputs.json
        recordings    where the proxy frames came from
        ranges        merged over the vehicles, by SHA-256 of the observer they ran
        certainty     summed over the vehicles, by SHA-256 of the global model
        closed_loop   what an int8 file drove, by its SHA-256

Every answer stands under what it answers: another model finds none. Nothing in it is a single vehicle's.
"""

# Shapes: T tensors, C cells of the histogram of certainty.

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from convoy_compression.model.errors import CalibrationError
from convoy_compression.model.tensor_ranges import TensorRanges
from convoy_driving.certainty import COUNTS
from convoy_protos.errors import UsageError
from convoy_server.release.proxy_fit import FleetCertainty
from convoy_server.storage import write_file

ANSWERS_FILE: Final = "release_inputs.json"
_SCHEMA: Final = "convoy.release-inputs/1"


@dataclass(slots=True, kw_only=True)
class KnownAnswers:
    """Grows while a release is made.

    Attributes:
        recordings: Paths of the proxy recordings.
        ranges: Merged, by SHA-256 of the observer, hexadecimal.
        certainty: Summed, by SHA-256 of the global model, hexadecimal.
        closed_loop: Scores by SHA-256 of the int8 file, hexadecimal.
    """

    recordings: tuple[str, ...] = ()
    ranges: dict[str, TensorRanges] = field(default_factory=dict)
    certainty: dict[str, FleetCertainty] = field(default_factory=dict)
    closed_loop: dict[str, float] = field(default_factory=dict)


def save_answers(out: Path, answers: KnownAnswers) -> None:
    """Write OUT/release_inputs.json.

    Raises:
        StorageError: The run directory cannot be written.
    """
    table = {
        "schema": _SCHEMA,
        "recordings": list(answers.recordings),
        "ranges": {digest: _from_ranges(told) for digest, told in answers.ranges.items()},
        "certainty": {
            digest: {"counts": told.counts_C.tolist(), "vehicles": told.vehicles}
            for digest, told in answers.certainty.items()
        },
        "closed_loop": answers.closed_loop,
    }
    text = json.dumps(table, indent=1, sort_keys=True, allow_nan=False) + "\n"
    write_file(out / ANSWERS_FILE, text.encode())


def load_answers(out: Path) -> KnownAnswers:
    """Read it; nothing is known where there is no such file.

    Raises:
        UsageError: It is not what `save_answers` writes.
    """
    path = out / ANSWERS_FILE
    if not path.exists():
        return KnownAnswers()
    try:
        table = json.loads(path.read_text("utf-8"))
        return _to_answers(table)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, CalibrationError) as error:
        raise UsageError(
            f"{path}: not what a release wrote ({error}); delete it and make the release with --proxy"
        ) from error


def _to_answers(table: Mapping[str, Any]) -> KnownAnswers:
    if table["schema"] != _SCHEMA:
        raise ValueError(f"expected schema {_SCHEMA}, got {table['schema']!r:.40}")
    return KnownAnswers(
        recordings=tuple(map(str, table["recordings"])),
        ranges={digest: _to_ranges(told) for digest, told in table["ranges"].items()},
        certainty={digest: _to_certainty(told) for digest, told in table["certainty"].items()},
        closed_loop={str(key): float(score) for key, score in table["closed_loop"].items()},
    )


def _from_ranges(ranges: TensorRanges) -> dict[str, Any]:
    return {
        "names": list(ranges.names),
        # A float32 is the same again after it was a decimal of a double.
        "low": ranges.low_T.astype(np.float64).tolist(),
        "high": ranges.high_T.astype(np.float64).tolist(),
    }


def _to_ranges(table: Mapping[str, Any]) -> TensorRanges:
    return TensorRanges(
        names=tuple(map(str, table["names"])),
        low_T=np.asarray(table["low"], np.float32),
        high_T=np.asarray(table["high"], np.float32),
    )


def _to_certainty(table: Mapping[str, Any]) -> FleetCertainty:
    counts_C = np.asarray(table["counts"], np.int64)
    if counts_C.shape != (COUNTS,) or counts_C.min() < 0:
        raise ValueError(f"expected {COUNTS} counts, got {counts_C.shape}")
    return FleetCertainty(counts_C=counts_C, vehicles=int(table["vehicles"]))
