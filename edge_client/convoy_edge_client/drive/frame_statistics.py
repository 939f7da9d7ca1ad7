"""What is counted of every frame, in a few additions: times, deadlines, outputs. No picture is kept.

Times fall into buckets that grow by a twentieth, so that any quantile is known to 5 % without a list.
"""

import math
from dataclasses import dataclass, field
from typing import Final

_SMALLEST_MS: Final = 0.01
_GROWTH: Final = math.log(1.05)
_BUCKETS: Final = 320
"""Up to 60 s."""
STEERING_BINS: Final = 15


@dataclass(slots=True)
class FrameStatistics:
    """Counts since the last look; one thread adds.

    Attributes:
        deadline_ms: A frame that took longer has missed it.
        frames: How many.
        missed: That missed their deadline.
        failures: That the model in charge did not answer.
        longest_ms: Of a frame.
        entropy_sum: Of the entropies of the class probabilities, in bits.
        buckets: Frames by their time.
        steering_bins: Frames by their steering, from full left to full right.
    """

    deadline_ms: float
    frames: int = 0
    missed: int = 0
    failures: int = 0
    longest_ms: float = 0.0
    entropy_sum: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * _BUCKETS)
    steering_bins: list[int] = field(default_factory=lambda: [0] * STEERING_BINS)

    def add(
        self, latency_ms: float, steering: float, probabilities: tuple[float, float, float]
    ) -> None:
        """One frame."""
        self.frames += 1
        self.missed += latency_ms > self.deadline_ms
        self.longest_ms = max(self.longest_ms, latency_ms)
        self.buckets[_bucket(latency_ms)] += 1
        self.entropy_sum += entropy_bits(probabilities)
        self.steering_bins[round((steering + 1) / 2 * (STEERING_BINS - 1))] += 1

    def quantile_ms(self, share: float) -> float:
        """Time that this share of the frames does not exceed, known to 5 %; 0 without frames."""
        wanted, counted = share * self.frames, 0
        for index, count in enumerate(self.buckets):
            counted += count
            if count and counted >= wanted:
                return min(_SMALLEST_MS * math.exp((index + 0.5) * _GROWTH), self.longest_ms)
        return self.longest_ms

    @property
    def mean_entropy(self) -> float:
        """In bits, 0 to log2(3); 0 without frames."""
        return self.entropy_sum / self.frames if self.frames else 0.0


def entropy_bits(probabilities: tuple[float, float, float]) -> float:
    """How undecided an answer is."""
    return -sum(share * math.log2(share) for share in probabilities if share > 0)


def _bucket(latency_ms: float) -> int:
    if latency_ms <= _SMALLEST_MS:
        return 0
    return min(_BUCKETS - 1, int(math.log(latency_ms / _SMALLEST_MS) / _GROWTH))
