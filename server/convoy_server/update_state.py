"""What the updates of the next round depend on: carried from round to round in the checkpoint.

The range of masked sums follows the sum before, the clipping bound follows the share of clipped
updates, privacy spent adds up, and the server remembers which model each vehicle has.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from convoy_privacy.dp_accountant import PrivacySpent
from convoy_protos.settings import from_table, to_table


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateState:
    """Of a run after its last finished round.

    Attributes:
        sum_sigma: Deviation of a rotated coordinate of the last masked sum, for each unit of weight;
            None before the first.
        clip_norm: Bound on an update's 2-norm; None: no bound.
        held: Digest of the model that each vehicle has, hex, by vehicle id.
        spent: Differential privacy.
    """

    sum_sigma: float | None = None
    clip_norm: float | None = None
    held: Mapping[str, str] = field(default_factory=dict)
    spent: PrivacySpent = field(default_factory=PrivacySpent)

    def replace(self, **changes: Any) -> "UpdateState":
        """A copy with changes."""
        return dataclasses.replace(self, **changes)


def to_state_table(state: UpdateState) -> dict[str, Any]:
    """For the checkpoint."""
    return to_table(state)


def from_state_table(table: Mapping[str, Any]) -> UpdateState:
    """The inverse of `to_state_table`."""
    return from_table(UpdateState, table, "checkpoint update_state")
