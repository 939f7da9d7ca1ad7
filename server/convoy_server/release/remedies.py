"""What is tried before a gate refuses a student: remove channels, or train for int8. Pure rules."""

from collections.abc import Collection, Sequence
from enum import Enum
from typing import Final

from convoy_server.release.config import ReleaseConfig
from convoy_server.report.contract import Gate


class Remedy(Enum):
    """What may help, in the order in which it is tried: a pruned student still has to be trained for int8."""

    PRUNE = "pruned"
    TRAIN_FOR_INT8 = "trained for int8"


_GATES: Final = {
    Remedy.PRUNE: frozenset({"int8_bytes", "int8_ms"}),
    Remedy.TRAIN_FOR_INT8: frozenset(
        {
            "int8_accuracy_drop",
            "int8_agreement",
            "int8_steering_change",
            "trt_agreement",
            "trt_steering_change",
        }
    ),
}
"""Which failed gates it may mend."""


def next_remedy(
    gates: Sequence[Gate], config: ReleaseConfig, tried: Collection[Remedy]
) -> Remedy | None:
    """The first one that is wanted, may help and was not tried; None where there is none.

    Args:
        gates: Of the student as it is.
        config: Which remedies are wanted.
        tried: Each helps once.
    """
    wanted = {
        Remedy.PRUNE: config.prune_ratio > 0.0,
        Remedy.TRAIN_FOR_INT8: config.qat_epochs > 0,
    }
    failed = {gate.name for gate in gates if gate.value is not None and not gate.passed}
    return next(
        (
            remedy
            for remedy in Remedy
            if wanted[remedy] and remedy not in tried and _GATES[remedy] & failed
        ),
        None,
    )
