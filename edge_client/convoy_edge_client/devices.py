"""Which device a vehicle trains on, and with how many processor threads."""

import torch

from convoy_edge_client.vehicle_config import VehicleConfig


def prepare_device(vehicle: VehicleConfig) -> str:
    """The torch device the vehicle allows, with its number of processor threads set.

    The thread count is torch's, so the whole process's: a sum over another number of threads ends
    in other last bits, and the same instructions must give the same bytes everywhere.
    """
    if torch.get_num_threads() != vehicle.torch_threads:
        torch.set_num_threads(vehicle.torch_threads)
    if vehicle.device != "auto":
        return vehicle.device
    return "cuda" if torch.cuda.is_available() else "cpu"
