"""When a transfer is too slow to go on: the slow retrieval attack of TUF, section 1.5.2.

A sender that gives one byte now and then could hold a vehicle up for ever.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferLimits:
    """What one transfer may take.

    Attributes:
        slowest_bytes_per_s: Mean rate below which it is given up; 0: no bound.
        patience_s: Seconds from the start before the rate is looked at.
        longest_s: Seconds after which it is given up, whatever its rate; what came is kept.
        reserve_bytes: Free on the disk when a release has been fetched.
    """

    slowest_bytes_per_s: float = 1000.0
    patience_s: float = 20.0
    longest_s: float = 1800.0
    reserve_bytes: int = 64 << 20

    def __post_init__(self) -> None:
        if self.slowest_bytes_per_s < 0 or self.reserve_bytes < 0:
            raise ValueError("slowest_bytes_per_s and reserve_bytes must not be negative")
        if self.patience_s <= 0 or self.longest_s <= 0:
            raise ValueError("patience_s and longest_s must be positive")


def is_too_slow(received_bytes: int, elapsed_s: float, limits: TransferLimits) -> bool:
    """Whether a transfer is to be given up.

    Args:
        received_bytes: Since its start.
        elapsed_s: Since its start.
        limits: Of the transfer.
    """
    if elapsed_s >= limits.longest_s:
        return True
    return (
        elapsed_s >= limits.patience_s and received_bytes < elapsed_s * limits.slowest_bytes_per_s
    )
