"""Recordings and networks kept between messages, so that a round pays for training and no more.

Bounded, because one process of a simulation plays hundreds of vehicles: frames are memory maps,
whose pages count as this process's memory while they are mapped, so the least recently used
vehicle is let go when all of them together exceed a budget. Opening one again costs about 10 ms.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from convoy_driving.data_config import DataConfig
from convoy_driving.dataset import VehicleDataset, load_vehicle
from convoy_driving.models.driving_model import DrivingModel
from convoy_driving.models.registry import ModelConfig, build_model
from convoy_driving.parameters import ParameterSchema, schema_of
from convoy_edge_client.model_store import MODELS_FOLDER, ModelStore
from convoy_edge_client.training_breaks import GiveWay, go_on
from convoy_edge_client.vehicle_config import VehicleConfig

_DatasetKey = tuple[VehicleConfig, DataConfig]
_ModelKey = tuple[ModelConfig, int, int, str]


class Network(NamedTuple):
    """A network and what its parameters look like."""

    model: DrivingModel
    schema: ParameterSchema


class WarmCache:
    """What one process keeps; safe to use from several threads; its pickle is that of an empty one."""

    def __init__(self, *, frame_bytes: int = 2**30, idle_models: int = 4) -> None:
        """Keep nothing yet.

        Args:
            frame_bytes: Frames of the vehicles kept, together; the last one is kept in any case.
            idle_models: Networks kept that nobody trains right now.
        """
        self._frame_bytes = frame_bytes
        self._idle_models = idle_models
        self._datasets: OrderedDict[_DatasetKey, VehicleDataset] = OrderedDict()
        self._models: dict[Path, ModelStore] = {}
        self._idle: list[tuple[_ModelKey, Network]] = []
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Callable[[int, int], "WarmCache"], tuple[int, int]]:
        return _empty, (self._frame_bytes, self._idle_models)

    def dataset(
        self, vehicle: VehicleConfig, data: DataConfig, give_way: GiveWay = go_on
    ) -> VehicleDataset:
        """The vehicle's recordings, decoded at most once ever and opened at most once in a while.

        Args:
            vehicle: Whose.
            data: How frames and examples are made.
            give_way: Called between two frames that are decoded.

        Raises:
            RecordingsMissingError: They are not where the configuration says.
        """
        paths = vehicle.recording_paths
        key = (vehicle, data)
        with self._lock:
            if key in self._datasets:
                self._datasets.move_to_end(key)
                return self._datasets[key]
        loaded = load_vehicle(
            vehicle.vehicle_id, paths, data, vehicle.cache_path, between_frames=give_way
        )
        with self._lock:
            self._datasets[key] = loaded
            self._datasets.move_to_end(key)
            while len(self._datasets) > 1 and self._mapped_bytes() > self._frame_bytes:
                self._datasets.popitem(last=False)
        return loaded

    def models(self, vehicle: VehicleConfig) -> ModelStore:
        """The global models that the vehicle has."""
        folder = vehicle.cache_path / MODELS_FOLDER
        with self._lock:
            return self._models.setdefault(folder, ModelStore(folder))

    @contextmanager
    def network(
        self, config: ModelConfig, frame_height: int, frame_width: int, device: str
    ) -> Iterator[Network]:
        """A network nobody else uses meanwhile; its parameters are those its last user left."""
        key = (config, frame_height, frame_width, device)
        network = self._take(key) or _build(*key)
        try:
            yield network
        finally:
            with self._lock:
                self._idle.append((key, network))
                del self._idle[: -self._idle_models]

    def _mapped_bytes(self) -> int:
        return sum(dataset.frames_NHWC.nbytes for dataset in self._datasets.values())

    def _take(self, key: _ModelKey) -> Network | None:
        with self._lock:
            for index, (idle_key, _) in enumerate(self._idle):
                if idle_key == key:
                    return self._idle.pop(index)[1]
        return None


def _build(config: ModelConfig, frame_height: int, frame_width: int, device: str) -> Network:
    # The seed is of no consequence: the global model replaces every parameter.
    model = build_model(config, frame_height, frame_width, seed=0).to(device)
    return Network(model, schema_of(model))


def _empty(frame_bytes: int, idle_models: int) -> WarmCache:
    return WarmCache(frame_bytes=frame_bytes, idle_models=idle_models)
