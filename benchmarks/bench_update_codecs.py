"""Bytes, error and CPU time of the update codecs, on updates that vehicles really make.

    python benchmarks/bench_update_codecs.py [--clients 100] [--optimizers adamw,sgd] [--repetitions 5]

Every client drives a simulated track of its own, in one of six kinds of weather, and trains the
textbook network on the 256 frames that it saw: 12 steps with the settings of the demo. They start
from a network that was trained for one pass over the first twenty tracks together. Nothing is kept on disk;
the 100 clients take some minutes.

Error: NMSE of the mean, |decoded mean - true mean|^2 / |true mean|^2. Masked sums are summed over all
clients at once and over shards of 50, with the step that the true spread of the sum asks for, and once
more with the slack of a run on top; a sum that is refused as overflowed is made again with twice the
step, as in a run, and the doublings are counted. Bits and errors of the sealed codec are over the first
20 clients. All errors depend on how alike the clients' updates are, which is given beside them.

CPU time is that of one thread, best repetition, for a million parameters: a real update repeated.
"""

import argparse
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from convoy_compression.update.masked import DecodedSum, LaneSum, MaskedFormat
from convoy_compression.update.model_delta import apply_delta, encode_delta
from convoy_compression.update.range_control import next_sigma, step_for
from convoy_compression.update.rotation import layout_of, rotate, rotate_back
from convoy_compression.update.sealed import decode_sparse, encode_sparse
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
SHARD = 50
FLEET = FleetConfig()
TRAINING = {
    "adamw": TrainingConfig(optimizer="adamw", learning_rate=0.001, local_epochs=3),
    "sgd": TrainingConfig(optimizer="sgd", learning_rate=0.03, local_epochs=3),
}
MODULUS_BITS = (2, 3, 4, 5, 6, 8)
STEPS = (0.5, 0.75, 1.0, 2.0, 4.0)
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
        for name, value in errors(updates_KN):
            figures[f"{optimizer}_{name}"] = value
            print(f"{optimizer}_{name:45} {value:.4g}", flush=True)
        for name, value in times(updates_KN[0], options.repetitions):
            figures[f"{optimizer}_{name}"] = value
            print(f"{optimizer}_{name:45} {value:.4g}", flush=True)
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
    train(model, pool(drives[:20]), replace(config, local_epochs=1), seed=0)
    global_N = flatten(model)
    updates = []
    for number, dataset in enumerate(drives):
        unflatten(global_N, model)
        train(model, dataset, config, seed=number)
        updates.append(flatten(model) - global_N)
    return np.stack(updates)


def errors(updates_KN: Vectors) -> Iterator[tuple[str, float]]:
    """NMSE of the mean and bits a parameter of every codec."""
    clients, parameters = updates_KN.shape
    mean_N = updates_KN.mean(axis=0, dtype=np.float64)
    yield "parameters", parameters
    yield "kurtosis", float(np.mean(updates_KN[0] ** 4) / np.mean(updates_KN[0] ** 2) ** 2)
    for count in (20, clients):
        yield f"alikeness_of_{count}", alikeness(updates_KN[:count])
    for bits in MODULUS_BITS:
        yield f"masked_m{bits}_bits", bits * layout_of(parameters).padded_count / parameters
        for shard in (clients, SHARD):
            for slack, label in ((1.0, ""), (1.3, "_slack")):
                sums = [
                    masked_sum(updates_KN[start : start + shard], bits, slack)
                    for start in range(0, clients, shard)
                ]
                decoded_N = sum(one.sum_N.astype(np.float64) for one, _ in sums) / clients
                name = f"masked_m{bits}_shards_of_{shard}{label}"
                yield f"{name}_nmse", mean_error(decoded_N, mean_N)
                yield f"{name}_doublings", max(doublings for _, doublings in sums)
    first_N = updates_KN[:20].mean(axis=0, dtype=np.float64)
    for factor in STEPS:
        payloads = [encode_sparse(update_N, factor) for update_N in updates_KN[:20]]
        decoded_KN = [decode_sparse(memoryview(one), parameters) for one in payloads]
        yield f"sealed_step{factor:g}_bits", 8 * sum(map(len, payloads)) / (20 * parameters)
        yield f"sealed_step{factor:g}_nmse_one", mean_error(decoded_KN[0], updates_KN[0])
        yield f"sealed_step{factor:g}_nmse_20", mean_error(np.mean(decoded_KN, axis=0), first_N)


def alikeness(updates_KN: Vectors) -> float:
    """Mean |update|^2 over |mean update|^2: 1 where all are alike, K where they have nothing in common.

    The error of a mean grows with it: what updates do not share averages out, their rounding does not
    know.
    """
    mean_N = updates_KN.mean(axis=0, dtype=np.float64)
    return float(np.square(updates_KN).sum(axis=1).mean() / (mean_N @ mean_N))


def mean_error(decoded_N: NDArray[np.floating], true_N: NDArray[np.floating]) -> float:
    """NMSE."""
    return float(np.square(decoded_N - true_N).sum() / np.square(true_N).sum())


def masked_sum(updates_KN: Vectors, bits: int, slack: float) -> tuple[DecodedSum, int]:
    """One shard with the step that its true sum asks for, doubled until it is not refused."""
    true_N = updates_KN.sum(axis=0, dtype=np.float64)
    padded_count = layout_of(true_N.size).padded_count
    sigma = next_sigma(float(np.linalg.norm(true_N)) / math.sqrt(padded_count), slack)
    for doublings in itertools.count():
        lanes = MaskedFormat(
            parameter_count=true_N.size,
            modulus_bits=bits,
            step=step_for(sigma * 2**doublings, bits),
            seed=SEED,
        )
        total = LaneSum(lanes)
        for slot, update_N in enumerate(updates_KN, start=1):
            total.add(lanes.quantize(update_N, slot))
        decoded = lanes.decode(total.lanes_P, len(updates_KN))
        if not decoded.overflowed:
            return decoded, doublings
    raise AssertionError


def times(update_N: Vector, repetitions: int) -> Iterator[tuple[str, float]]:
    """CPU milliseconds and megabytes of float32 a second of each stage, for a million parameters."""
    update_N = np.resize(update_N, MILLION)
    rotated_P = rotate(update_N, SEED)
    stages: dict[str, Callable[[], object]] = {
        "rotate": lambda: rotate(update_N, SEED),
        "rotate_back": lambda: rotate_back(rotated_P, MILLION, SEED),
    }
    for bits in (6, 8):
        lanes = MaskedFormat(
            parameter_count=MILLION,
            modulus_bits=bits,
            step=step_for(float(rotated_P.std()) * 10, bits),
            seed=SEED,
        )
        quantized_P = lanes.quantize(update_N, 1)
        payload = lanes.pack(quantized_P)
        total = LaneSum(lanes)
        stages |= {
            f"masked_m{bits}_rotate_and_quantize": lambda f=lanes: f.quantize(update_N, 1),
            f"masked_m{bits}_pack": lambda f=lanes, q=quantized_P: f.pack(q),
            f"masked_m{bits}_unpack_and_add": lambda f=lanes, p=payload, s=total: s.add(
                f.unpack(p)
            ),
            f"masked_m{bits}_decode": lambda f=lanes, s=total: f.decode(s.lanes_P, 1),
        }
    sealed = memoryview(encode_sparse(update_N, 1.0))
    base_N = np.zeros_like(update_N)
    stages |= {
        "sealed_encode": lambda: encode_sparse(update_N, 1.0),
        "sealed_decode": lambda: decode_sparse(sealed, MILLION),
        "delta_encode": lambda: encode_delta(update_N, base_N, 0.25),
        "delta_apply": lambda: apply_delta(base_N, sealed),
    }
    for name, work in stages.items():
        seconds = min(cpu_seconds(work) for _ in range(repetitions))
        yield f"{name}_cpu_ms", 1e3 * seconds
        yield f"{name}_mb_per_s", 4 * MILLION / 1e6 / seconds


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU time of this process for one call."""
    start_s = time.process_time()
    work()
    return time.process_time() - start_s


if __name__ == "__main__":
    main()
