"""Do the proxy frames look like what the fleet drives? Told by the global model's certainty of both.

A student learns only what its teachers show on the proxy frames. Pictures of another kind teach it
answers that no vehicle needs, calibrate the wrong ranges and pass gates that are measured on them too.
"""

# Shapes: N frames, C cells of the histogram.

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from convoy_driving.certainty import certainty_counts, distance, mean_entropy, straight_share
from convoy_driving.evaluation import Predictor

FEWEST_VEHICLES: Final = 3
"""Of fewer, one could turn the verdict."""
FEWEST_FRAMES: Final = 100
"""Histograms of fewer frames differ by chance."""


@dataclass(frozen=True, slots=True)
class FleetCertainty:
    """How sure the global model is of the vehicles' held-back frames.

    Attributes:
        counts_C: int64, summed over the vehicles; see convoy_driving.certainty.
        vehicles: How many told.
    """

    counts_C: NDArray[np.int64]
    vehicles: int

    @property
    def telling(self) -> bool:
        """Whether they are enough to judge by."""
        return self.vehicles >= FEWEST_VEHICLES and int(self.counts_C.sum()) >= FEWEST_FRAMES


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyFit:
    """How the proxy frames compare with those of the fleet; shares and entropies in 0..1.

    Attributes:
        distance: Of the two histograms: 0 alike, 1 nothing in common; None where the vehicles told too
            little.
        vehicles: How many told.
        fleet_frames: Frames that they counted.
        proxy_entropy: Mean entropy of the global model's answers to the proxy frames.
        fleet_entropy: To the vehicles' frames; None where none told.
        proxy_straight: Share of the proxy frames answered with straight.
        fleet_straight: Likewise of the vehicles'.
    """

    distance: float | None
    vehicles: int
    fleet_frames: int
    proxy_entropy: float
    fleet_entropy: float | None
    proxy_straight: float
    fleet_straight: float | None

    def figures(self) -> str:
        """For whoever chose the proxy frames."""
        if self.fleet_entropy is None or self.fleet_straight is None:
            return f"entropy {self.proxy_entropy:.2f} of 1, straight {self.proxy_straight:.0%}"
        return (
            f"on the proxy frames the global model has entropy {self.proxy_entropy:.2f} of 1 and says "
            f"straight to {self.proxy_straight:.0%}, on {self.fleet_frames} frames of {self.vehicles} "
            f"vehicles {self.fleet_entropy:.2f} and {self.fleet_straight:.0%}"
        )


def proxy_fit(
    predict: Predictor, frames_NHWC: NDArray[np.uint8], fleet: FleetCertainty | None
) -> ProxyFit:
    """Measure.

    Args:
        predict: The global model.
        frames_NHWC: The proxy frames that teach.
        fleet: What the vehicles told; None: nobody was asked.
    """
    proxy_C = certainty_counts(predict, frames_NHWC)
    told = fleet is not None and fleet.counts_C.any()
    return ProxyFit(
        distance=distance(proxy_C, fleet.counts_C) if fleet and fleet.telling else None,
        vehicles=fleet.vehicles if fleet else 0,
        fleet_frames=int(fleet.counts_C.sum()) if fleet else 0,
        proxy_entropy=mean_entropy(proxy_C),
        fleet_entropy=mean_entropy(fleet.counts_C) if fleet and told else None,
        proxy_straight=straight_share(proxy_C),
        fleet_straight=straight_share(fleet.counts_C) if fleet and told else None,
    )
