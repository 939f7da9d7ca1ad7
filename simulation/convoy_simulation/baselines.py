"""What the fleet's model is compared with: every vehicle alone, and all recordings in one place.

Both see as many passes over their data as a vehicle sees in the federated run, with the same
network, the same first parameters and the same training. Each is judged at its best moment, the
federated model at its last: a baseline that was merely stopped too late is not beaten.
"""

# Shapes: N parameters.

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray

from convoy_driving.dataset import VehicleDataset, pool
from convoy_driving.evaluation import evaluate, torch_predictor
from convoy_driving.models.driving_model import DrivingModel
from convoy_driving.models.registry import build_model
from convoy_driving.parameters import ParameterSchema, flatten, save_parameters, unflatten
from convoy_driving.training import train, vehicle_seed
from convoy_edge_client.vehicle_config import VehicleConfig
from convoy_server.app import initial_model
from convoy_server.run_config import RunConfig
from convoy_simulation.vehicles import load
from convoy_simulation.worker_pool import Progress, run_jobs

CENTRAL = "central"


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineConfig:
    """Section [baselines]: what the fleet's model is compared with.

    Attributes:
        enabled: Train them at all; they cost about twice what the federated run costs.
        epochs: Passes over the data; 0 means as many as a vehicle makes in the federated run.
        curve_points: How often a baseline is judged on every vehicle's held laps while it trains.
    """

    enabled: bool = True
    epochs: int = 0
    curve_points: int = 6

    def __post_init__(self) -> None:
        if self.epochs < 0:
            raise ValueError(f"epochs must be 0 or more, got {self.epochs}")
        if self.curve_points < 1:
            raise ValueError(f"curve_points must be at least 1, got {self.curve_points}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """How a model does at one moment of its training.

    Attributes:
        epoch: Passes over the data so far.
        balanced_accuracy: Mean over the vehicles of each one's own held-back laps.
        per_vehicle: The same by vehicle.
    """

    epoch: int
    balanced_accuracy: float
    per_vehicle: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """One model trained without federation.

    Attributes:
        name: "central", or the vehicle that trained alone.
        curve: In the order of training.
        path: Parameters at the best point of the curve, safetensors.
    """

    name: str
    curve: Sequence[CurvePoint]
    path: Path

    @property
    def best(self) -> CurvePoint:
        """The point with the highest balanced accuracy."""
        return max(self.curve, key=lambda point: point.balanced_accuracy)


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineJob:
    """All that a worker process needs to train one baseline."""

    name: str
    trains_on: tuple[str, ...]
    fleet: tuple[VehicleConfig, ...]
    run: RunConfig
    epochs: int
    curve_points: int
    folder: Path


def train_baselines(
    jobs: Sequence[BaselineJob], workers: int, progress: Progress
) -> list[Baseline]:
    """Train each in a process of its own, `workers` at a time; finished ones are read back.

    Args:
        jobs: From `baseline_jobs`, the longest first.
        workers: Processes at a time; 0 is one a core.
        progress: Called whenever one is finished.
    """
    return run_jobs(train_or_read, jobs, workers, progress)


def baseline_jobs(
    config: BaselineConfig, run: RunConfig, fleet: Sequence[VehicleConfig], folder: Path
) -> list[BaselineJob]:
    """One job for all recordings together, then one for each vehicle alone."""
    everyone = tuple(vehicle.vehicle_id for vehicle in fleet)
    alone = [(vehicle_id, (vehicle_id,)) for vehicle_id in everyone]
    return [
        BaselineJob(
            name=name,
            trains_on=trains_on,
            fleet=tuple(fleet),
            run=run,
            epochs=config.epochs or run.round.rounds * run.training.local_epochs,
            curve_points=config.curve_points,
            folder=folder,
        )
        for name, trains_on in [(CENTRAL, everyone), *alone]
    ]


def train_or_read(job: BaselineJob) -> Baseline:
    """Train one baseline, or read what an earlier, interrupted run of the same command left."""
    parameters = job.folder / f"{job.name}.safetensors"
    curve_file = job.folder / f"{job.name}.json"
    if curve_file.is_file() and parameters.is_file():
        kept = json.loads(curve_file.read_text())
        if kept["job"] == _fingerprint(job):
            curve = [CurvePoint(**point) for point in kept["curve"]]
            return Baseline(name=job.name, curve=curve, path=parameters)
    curve, best_N, schema = train_baseline(job)
    job.folder.mkdir(parents=True, exist_ok=True)
    partial = parameters.with_suffix(".partial")
    save_parameters(best_N, schema, partial, {"convoy.baseline": job.name})
    partial.replace(parameters)
    # The curve is written last: it vouches for the parameters beside it.
    partial.write_text(
        json.dumps({"job": _fingerprint(job), "curve": [asdict(point) for point in curve]})
    )
    partial.replace(curve_file)
    return Baseline(name=job.name, curve=curve, path=parameters)


def train_baseline(
    job: BaselineJob,
) -> tuple[list[CurvePoint], NDArray[np.float32], ParameterSchema]:
    """Train on one thread; returns the curve and the parameters (N,) at its best point."""
    torch.set_num_threads(1)
    run = job.run
    datasets = {vehicle.vehicle_id: load(vehicle, run.data) for vehicle in job.fleet}
    own = [datasets[vehicle_id] for vehicle_id in job.trains_on]
    training_data = own[0] if len(own) == 1 else pool(own)
    start_N, schema = initial_model(run)
    model = build_model(run.model, run.data.frame_height, run.data.frame_width, run.seed)
    unflatten(start_N, model)
    curve: list[CurvePoint] = []
    best_N = start_N
    judged = judged_epochs(job.epochs, job.curve_points)

    def judge(epoch: int, _loss: float) -> None:
        nonlocal best_N
        if epoch in judged:
            point = judge_model(epoch, model, datasets)
            if not curve or point.balanced_accuracy > max(p.balanced_accuracy for p in curve):
                best_N = flatten(model)
            curve.append(point)

    train(
        model,
        training_data,
        replace(run.training, proximal_mu=0.0),
        seed=vehicle_seed(run.seed, 0, job.name),
        epochs=job.epochs,
        on_epoch=judge,
    )
    return curve, best_N, schema


def judge_model(
    epoch: int, model: DrivingModel, datasets: Mapping[str, VehicleDataset]
) -> CurvePoint:
    """Score a model on every vehicle's held-back laps."""
    training, predict = model.training, torch_predictor(model)
    scores = {
        vehicle_id: evaluate(predict, dataset, dataset.held_indices).balanced_accuracy
        for vehicle_id, dataset in datasets.items()
    }
    model.train(training)
    return CurvePoint(epoch=epoch, balanced_accuracy=fmean(scores.values()), per_vehicle=scores)


def judged_epochs(epochs: int, points: int) -> frozenset[int]:
    """Epochs after which a baseline is judged: evenly spread, the last one always among them."""
    count = min(points, epochs)
    return frozenset(round(epochs * (point + 1) / count) for point in range(count))


def _fingerprint(job: BaselineJob) -> str:
    """SHA-256 over everything that shapes the result; the folder does not."""
    shaping = {**asdict(job), "folder": ""}
    return hashlib.sha256(json.dumps(shaping, sort_keys=True).encode()).hexdigest()
