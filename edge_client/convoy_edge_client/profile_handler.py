"""Answer `query.profile`: who is behind this node, and how much there is to learn from."""

import numpy as np

from convoy_driving.data_config import DataConfig
from convoy_edge_client.vehicle_config import VehicleConfig
from convoy_edge_client.warm_cache import WarmCache
from convoy_protos.v1.federation_pb2 import VehicleProfile


def profile_of(vehicle: VehicleConfig, data: DataConfig, warm: WarmCache) -> VehicleProfile:
    """Counts of training examples, none where the vehicle keeps them; decodes recordings that were never seen before.

    Raises:
        RecordingsMissingError: They are not where the configuration says.
    """
    if vehicle.metrics != "clear":
        return VehicleProfile(vehicle_id=vehicle.vehicle_id)
    dataset = warm.dataset(vehicle, data)
    classes_N = dataset.steering_classes()[dataset.train_indices]
    return VehicleProfile(
        vehicle_id=vehicle.vehicle_id,
        train_examples=len(dataset.train_indices),
        class_examples=[int(count) for count in np.bincount(classes_N, minlength=3)],
    )
