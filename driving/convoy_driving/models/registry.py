"""Section [model] of a scenario, and which networks there are."""

from collections.abc import Callable
from dataclasses import dataclass

from convoy_driving.models.controls import SteeringForm
from convoy_driving.models.driving_model import DrivingModel
from convoy_driving.models.layers import initialise
from convoy_driving.models.teacher import teacher
from convoy_driving.models.textbook import textbook

Builder = Callable[[int, int, SteeringForm, float, float], DrivingModel]
"""frame height, frame width, steering form, dropout, width -> network, not yet initialised."""

SLIM_WIDTH = 0.6


def _slim(
    frame_height: int, frame_width: int, steering: SteeringForm, dropout: float, width: float
) -> DrivingModel:
    """A narrower textbook network, for students: 118 thousand parameters at 60 x 80."""
    return textbook(frame_height, frame_width, steering, dropout, width * SLIM_WIDTH)


MODELS: dict[str, Builder] = {"textbook": textbook, "slim": _slim, "teacher": teacher}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Which network learns.

    Attributes:
        name: "textbook" (five convolutions), "slim" (the same, narrower) or "teacher" (residual).
        steering: "classes" (left, straight, right), "bins" (15) or "regression".
        dropout: Share of the last features dropped while training; 0 drops none.
        width: Factor on the channels of every layer.
    """

    name: str = "textbook"
    steering: SteeringForm = "classes"
    dropout: float = 0.1
    width: float = 1.0

    def __post_init__(self) -> None:
        if self.name not in MODELS:
            raise ValueError(f"name must be one of {', '.join(MODELS)}, got {self.name!r}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")
        if not 0.05 <= self.width <= 8:
            raise ValueError(f"width must be in 0.05..8, got {self.width}")


def build_model(
    config: ModelConfig, frame_height: int, frame_width: int, seed: int
) -> DrivingModel:
    """Build a network whose parameters depend on the configuration and the seed alone."""
    build = MODELS[config.name]
    model = build(frame_height, frame_width, config.steering, config.dropout, config.width)
    initialise(model, seed)
    return model
