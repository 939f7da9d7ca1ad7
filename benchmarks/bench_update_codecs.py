"""Bytes, error and CPU time of the update codecs, on updates that vehicles really make.

    python benchmarks/bench_update_codecs.py [--clients 100] [--optimizers adamw,sgd] [--repetitions 5]

Every client drives a simulated track of its own, in one of six kinds of weather, and trains the
textbook network on the 256 frames that it saw: 12 steps with the settings of the demo. They start
from a network that was trained a little on the first twenty tracks together. Nothing is kept on disk;
the 100 clients take some minutes.

Error: NMSE of the mean, |decoded mean - true mean|^2 / |true mean|^2. Masked sums are summed over all
clients at once and over shards of 50, with the step that the true spread of the sum asks for (and,
for the default of 6 bits, with the slack of a run on top). Sealed means are over the first 20
clients. Bits are those of whole payloads over all clients.

CPU time is that of one thread, best repetition, for a million parameters: a real update repeated.
"""

import argparse
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from convoy_driving.dataset import VehicleDataset, pool
from convoy_driving.models.registry import ModelConfig, build_model
from convoy_driving.parameters import flatten, unflatten
from convoy_driving.training import TrainingConfig, train
from convoy_simulation.fleet import FleetConfig
from convoy_simulation.roads.appearance import appearance_named
from convoy_simulation.roads.car_racing import Road
from convoy_simulation.roads.recorder import record_drive

Vector = NDArray[np.float32]
Vectors = NDArray[np.float32]
Figures = dict[str, float]

FRAMES = 256
FLEET = FleetConfig()
TRAINING = {
    "adamw": TrainingConfig(optimizer="adamw", learning_rate=0.001, local_epochs=3),
    "sgd": TrainingConfig(optimizer="sgd", learning_rate=0.03, local_epochs=3),
}
MODULUS_BITS = (2, 3, 4, 6, 8)
STEPS = (0.5, 1.0, 2.0, 4.0)
MILLION = 1_000_000
SEED = bytes(range(32))


def main() -> None:
    """Make the updates, then measure error, bytes and time."""
    options = parse()
    torch.set_num_threads(1)
    drives = [drive(number) for number in range(options.clients)]
    figures: Figures = {}
    for optimizer in options.optimizers.split(","):
        updates_KN = local_updates(drives, TRAINING[optimizer])
        for name, value in errors(updates_KN).items():
            figures[f"{optimizer}_{name}"] = value
            print(f"{optimizer}_{name:40} {value:.5g}", flush=True)
        for name, value in times(updates_KN[0], options.repetitions).items():
            figures[f"{optimizer}_{name}"] = value
            print(f"{optimizer}_{name:40} {value:.4g}", flush=True)
    rounded = {name: float(f"{value:.4g}") for name, value in figures.items()}
    print(json.dumps({"benchmark": "update_codecs", "figures": rounded}))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--optimizers", default="adamw,sgd")
    parser.add_argument("--repetitions", type=int, default=5)
    return parser.parse_args()


def drive(number: int) -> VehicleDataset:
    """What one client saw."""
    moments = list(
        itertools.islice(
            record_drive(
                Road(FLEET.first_track_seed + number),
                appearance_named(FLEET.appearances[number % len(FLEET.appearances)]),
                FLEET.camera,
                FLEET.recording,
                np.random.default_rng(number),
            ),
            FRAMES,
        )
    )
    return VehicleDataset(
        vehicle_id=f"car{number}",
        frames_NHWC=np.stack([moment.picture_HWC for moment in moments]),
        steering_N=np.array([moment.steering for moment in moments], np.float32),
        throttle_N=np.array([moment.throttle for moment in moments], np.float32),
        lap_N=np.zeros(FRAMES, np.int32),
        steering_threshold=0.2,
        train_indices=np.arange(FRAMES),
        held_indices=np.arange(0),
    )


def local_updates(drives: Sequence[VehicleDataset], config: TrainingConfig) -> Vectors:
    """One round: every client from the same model, float32, shape (K, N)."""
    height, width = drives[0].frames_NHWC.shape[1:3]
    model = build_model(ModelConfig(), height, width, seed=0)
    train(model, pool(drives[:20]), replace(config, local_epochs=2), seed=0)
    global_N = flatten(model)
    updates = []
    for number, dataset in enumerate(drives):
        unflatten(global_N, model)
        train(model, dataset, config, seed=number)
        updates.append(flatten(model) - global_N)
    return np.stack(updates)


def errors(updates_KN: Vectors) -> Iterator[tuple[str, float]]:
    """NMSE of the mean and bits a parameter of every codec."""


def mean_error(decoded_N: NDArray[np.floating], true_N: NDArray[np.floating]) -> float:
    """NMSE."""
    return float(np.square(decoded_N - true_N).sum() / np.square(true_N).sum())


def masked_sum(updates_KN: Vectors, bits: int, slack: float) -> tuple[Vector, float]:
    """Sum of one shard and its wrap ratio."""


if __name__ == "__main__":
    main()
