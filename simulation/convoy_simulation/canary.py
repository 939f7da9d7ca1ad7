"""The canary check of a simulated run: a global model on recordings that the server may see."""

# Shapes: N parameters.

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convoy_driving.evaluation import evaluate, torch_predictor
from convoy_driving.models.registry import build_model
from convoy_driving.parameters import unflatten
from convoy_server.release.proxy import load_proxy
from convoy_server.robust.canary import CanaryScore
from convoy_server.strategy import Canary
from convoy_simulation.scenario import Scenario


def canary_of(scenario: Scenario, cache_dir: Path) -> Canary | None:
    """Scores a global model on the recordings of section [canary]; None where it names none.

    Raises:
        RecordingError: A path is no recording or holds nothing usable.
    """
    config, data = scenario.canary, scenario.data
    if not config.enabled:
        return None
    examples = load_proxy([Path(path) for path in config.recordings], data, cache_dir)
    count = len(examples.steering_N)
    chosen = np.linspace(0, count - 1, min(config.frames, count)).astype(np.int64)
    model = build_model(scenario.model, data.frame_height, data.frame_width, seed=0)
    predict = torch_predictor(model, "cpu", data.steering_threshold)

    def score(model_N: NDArray[np.float32]) -> CanaryScore:
        unflatten(model_N, model)
        counts = evaluate(predict, examples, chosen)
        return CanaryScore(
            balanced_accuracy=counts.balanced_accuracy,
            loss=counts.loss_sum / counts.example_count,
        )

    return score
