"""A network as the vehicle uses it: camera frames in, probabilities and throttle out."""

# Shapes: B batch, H height, W width, 3 colour channels in, 3 steering classes out.

from torch import Tensor, nn

from convoy_driving.models.controls import steering_probabilities
from convoy_driving.models.driving_model import DrivingModel


class Driver(nn.Module):
    """The contract of a released model; what is exported to ONNX.

    Input frames are uint8 (B, H, W, 3), RGB. Outputs are the probabilities of left, straight,
    right, float32 (B, 3), and the throttle in [-1, 1], float32 (B,).
    """

    def __init__(self, model: DrivingModel, steering_threshold: float = 0.2) -> None:
        super().__init__()
        self.model = model
        self.steering_threshold = steering_threshold

    def forward(self, frames_BHWC: Tensor) -> tuple[Tensor, Tensor]:
        """Scale, run the network, read its controls."""
        controls = self.model(frames_BHWC.permute(0, 3, 1, 2).float() / 255.0)
        probabilities_B3 = steering_probabilities(controls, self.steering_threshold)
        return probabilities_B3, controls.throttle_B.clamp(-1.0, 1.0)
