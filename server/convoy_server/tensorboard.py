"""The figures of every round as TensorBoard events, where tensorboard is installed.

Look at them with `tensorboard --logdir DIR/tensorboard`.
"""

import importlib.util
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from convoy_server.observer import SilentObserver
from convoy_server.round_log import RoundRecord
from convoy_server.run_config import RunConfig

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FOLDER = "tensorboard"


def tensorboard_installed() -> bool:
    """Whether `TensorBoardObserver` can be used."""
    return importlib.util.find_spec("tensorboard") is not None


class TensorBoardObserver(SilentObserver):
    """Writes one point a round and figure."""

    def __init__(self, out: Path) -> None:
        self._folder = out / FOLDER
        self._writer: SummaryWriter | None = None

    def run_started(self, run: RunConfig, vehicles: Mapping[str, int], first_round: int) -> None:  # noqa: ARG002 - as RunObserver
        """Begin, or go on: points from `first_round` on replace those of the interrupted run."""
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - an optional library

        if first_round == 1:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._writer = SummaryWriter(str(self._folder), purge_step=first_round)

    def round_finished(self, record: RoundRecord) -> None:
        """The round's points."""
        if self._writer is None:
            raise ValueError("a round finished before its run started")
        for tag, value in figures(record).items():
            self._writer.add_scalar(tag, value, record.round)
        self._writer.flush()

    def close(self) -> None:
        """Write what is left and close the file."""
        if self._writer is not None:
            self._writer.close()


def figures(record: RoundRecord) -> dict[str, float]:
    """What one round shows, by tag; nothing for what was not measured."""
    measured: dict[str, float | None] = {
        "model/balanced_accuracy": record.balanced_accuracy,
        "model/accuracy": record.accuracy,
        "model/throttle_mae": record.throttle_mae,
        "model/train_loss": record.train_loss,
        "round/completed": record.completed,
        "round/lost": record.lost,
        "round/rejected": sum(record.rejected.values()),
        "round/wall_s": record.wall_s,
        "bytes/uplink": record.uplink_bytes,
        "bytes/downlink": record.downlink_bytes,
        "privacy/epsilon": record.epsilon,
    }
    for vehicle, score in record.per_vehicle.items():
        measured[f"vehicles/{vehicle}"] = score.balanced_accuracy
    return {tag: float(value) for tag, value in measured.items() if value is not None}
