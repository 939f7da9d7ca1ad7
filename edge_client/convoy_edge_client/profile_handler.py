"""Answer `query.profile`: who is behind this node, and how much there is to learn from."""

import numpy as np

from convoy_driving.data_config import DataConfig
from convoy_edge_client.training_breaks import GiveWay, go_on
from convoy_edge_client.vehicle_config import VehicleConfig
from convoy_edge_client.vehicle_party import helper_party_of
from convoy_edge_client.warm_cache import WarmCache
from convoy_privacy.sealing import sign_sealing_key
from convoy_protos.v1.federation_pb2 import VehicleProfile
from convoy_protos.v1.secure_sum_pb2 import HelperKey


def profile_of(
    vehicle: VehicleConfig, data: DataConfig, warm: WarmCache, give_way: GiveWay = go_on
) -> VehicleProfile:
    """Counts of training examples, none where the vehicle keeps them; decodes recordings that were never seen before.

    Args:
        vehicle: Who is asked.
        data: How frames and examples are made.
        warm: Its recordings.
        give_way: Called between two frames that are decoded.

    Raises:
        RecordingsMissingError: They are not where the configuration says.
        VehicleConfigError: The folder of a mask helper is not one.
    """
    if not vehicle.recordings or vehicle.metrics != "clear":
        return VehicleProfile(
            vehicle_id=vehicle.vehicle_id,
            helper=_helper_key(vehicle),
            helper_only=not vehicle.recordings,
        )
    dataset = warm.dataset(vehicle, data, give_way)
    classes_N = dataset.steering_classes()[dataset.train_indices]
    return VehicleProfile(
        vehicle_id=vehicle.vehicle_id,
        train_examples=len(dataset.train_indices),
        class_examples=[int(count) for count in np.bincount(classes_N, minlength=3)],
        helper=_helper_key(vehicle),
    )


def _helper_key(vehicle: VehicleConfig) -> HelperKey | None:
    """What seeds are sealed to; None where this node is no mask helper."""
    if not vehicle.helper_identity:
        return None
    party = helper_party_of(vehicle)
    assert party.sealing_key is not None  # noqa: S101 - helper_party_of sees to it
    return sign_sealing_key(party.sealing_key, party.identity)
