"""How well a driver does on held-back frames, as counts that add up over vehicles."""

# Shapes: B batch, M examples evaluated, H height, W width, 3 colour channels; B3 and 3: classes.

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from convoy_driving.dataset import DrivingData
from convoy_driving.models.driver import Driver
from convoy_driving.models.driving_model import DrivingModel

Predictor = Callable[[NDArray[np.uint8]], tuple[NDArray[np.float32], NDArray[np.float32]]]
"""frames_BHWC -> probabilities of left, straight, right (B, 3) and throttle (B,), float32."""

BATCH = 256
LEAST_PROBABILITY = 1e-7


@dataclass(frozen=True, slots=True)
class EvaluationCounts:
    """What happened on a set of examples.

    Attributes:
        class_examples: Examples by steering class: left, straight, right.
        class_correct: Of these, predicted right.
        throttle_absolute_error_sum: Sum of |predicted - recorded| throttle.
        loss_sum: Sum of 0.9 cross-entropy + 0.1 squared throttle error, unweighted.
    """

    class_examples: tuple[int, int, int] = (0, 0, 0)
    class_correct: tuple[int, int, int] = (0, 0, 0)
    throttle_absolute_error_sum: float = 0.0
    loss_sum: float = 0.0

    @property
    def example_count(self) -> int:
        """All examples."""
        return sum(self.class_examples)

    @property
    def balanced_accuracy(self) -> float:
        """Mean over the classes present of the share predicted right; NaN without examples."""
        shares = [
            correct / examples
            for correct, examples in zip(self.class_correct, self.class_examples, strict=True)
            if examples
        ]
        return sum(shares) / len(shares) if shares else float("nan")

    @property
    def accuracy(self) -> float:
        """Share of all examples predicted right; NaN without examples."""
        return self._per_example(sum(self.class_correct))

    @property
    def throttle_mae(self) -> float:
        """Mean absolute throttle error; NaN without examples."""
        return self._per_example(self.throttle_absolute_error_sum)

    @property
    def loss(self) -> float:
        """Mean loss; NaN without examples."""
        return self._per_example(self.loss_sum)

    def __add__(self, other: "EvaluationCounts") -> "EvaluationCounts":
        left, straight, right = (
            mine + its for mine, its in zip(self.class_examples, other.class_examples, strict=True)
        )
        left_correct, straight_correct, right_correct = (
            mine + its for mine, its in zip(self.class_correct, other.class_correct, strict=True)
        )
        return EvaluationCounts(
            class_examples=(left, straight, right),
            class_correct=(left_correct, straight_correct, right_correct),
            throttle_absolute_error_sum=(
                self.throttle_absolute_error_sum + other.throttle_absolute_error_sum
            ),
            loss_sum=self.loss_sum + other.loss_sum,
        )

    def _per_example(self, total: float) -> float:
        return total / self.example_count if self.example_count else float("nan")


def evaluate(
    predict: Predictor,
    dataset: DrivingData,
    indices: NDArray[np.int64],
    *,
    between_batches: Callable[[], None] = lambda: None,
) -> EvaluationCounts:
    """Let a driver predict the chosen frames and count.

    Args:
        predict: Of a torch network, an ONNX file, or anything else.
        dataset: A vehicle's recordings, or several vehicles' pooled.
        indices: Which examples; usually dataset.held_indices.
        between_batches: Called before every batch; may wait, or raise to leave it for later.
    """
    classes_N = dataset.steering_classes()
    counts = EvaluationCounts()
    for start in range(0, len(indices), BATCH):
        between_batches()
        chosen_B = indices[start : start + BATCH]
        probabilities_B3, throttle_B = predict(dataset.frames_at(chosen_B))
        counts += count(
            probabilities_B3, throttle_B, classes_N[chosen_B], dataset.throttle_N[chosen_B]
        )
    return counts


def count(
    probabilities_B3: NDArray[np.float32],
    predicted_throttle_B: NDArray[np.float32],
    classes_B: NDArray[np.int64],
    throttle_B: NDArray[np.float32],
) -> EvaluationCounts:
    """Compare a batch of predictions with what was recorded."""
    correct_B = probabilities_B3.argmax(axis=1) == classes_B
    examples_3 = np.bincount(classes_B, minlength=3)
    correct_3 = np.bincount(classes_B[correct_B], minlength=3)
    chosen_B = probabilities_B3[np.arange(len(classes_B)), classes_B].astype(np.float64)
    cross_entropy_B = -np.log(np.maximum(chosen_B, LEAST_PROBABILITY))
    error_B = predicted_throttle_B.astype(np.float64) - throttle_B
    return EvaluationCounts(
        class_examples=(int(examples_3[0]), int(examples_3[1]), int(examples_3[2])),
        class_correct=(int(correct_3[0]), int(correct_3[1]), int(correct_3[2])),
        throttle_absolute_error_sum=float(np.abs(error_B).sum()),
        loss_sum=float((0.9 * cross_entropy_B + 0.1 * error_B**2).sum()),
    )


def torch_predictor(
    model: DrivingModel, device: str = "cpu", steering_threshold: float = 0.2
) -> Predictor:
    """A torch network as a predictor; it is put into evaluation mode on every call."""
    driver = Driver(model, steering_threshold).to(device)

    def predict(
        frames_BHWC: NDArray[np.uint8],
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        driver.eval()
        with torch.inference_mode():
            frames = torch.from_numpy(np.require(frames_BHWC, requirements=["C", "W"])).to(device)
            probabilities_B3, throttle_B = driver(frames)
        return probabilities_B3.cpu().numpy(), throttle_B.cpu().numpy()

    return predict
