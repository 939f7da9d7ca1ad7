"""Training examples per CPU-second on one thread, and what channels-last and bfloat16 bring.

    python benchmarks/bench_training.py [--examples 2048] [--repetitions 3]

Random frames of 60 x 80 and every augmentation, SGD, batches of 64. "auto" uses bfloat16 only where
the processor multiplies it in hardware (AMX); elsewhere both rows are the same. Best repetition.
"""

import argparse
import json
import time

import numpy as np
import torch

from convoy_driving.dataset import VehicleDataset
from convoy_driving.evaluation import evaluate, torch_predictor
from convoy_driving.models.registry import MODELS, ModelConfig, build_model
from convoy_driving.training import TrainingConfig, fast_at_bfloat16, train

VARIANTS = {
    "plain": {"mixed_precision": "off", "channels_last": "off"},
    "channels_last": {"mixed_precision": "off", "channels_last": "auto"},
    "auto": {"mixed_precision": "auto", "channels_last": "auto"},
}


def main() -> None:
    """Time every network in every variant; then evaluation."""
    options = parse()
    torch.set_num_threads(1)
    dataset = random_dataset(options.examples)
    figures: dict[str, float | bool] = {"bfloat16_in_hardware": fast_at_bfloat16("cpu")}
    for name in MODELS:
        model = build_model(ModelConfig(name=name), 60, 80, seed=0)
        for variant, settings in VARIANTS.items():
            config = TrainingConfig(learning_rate=0.003, brightness=0.2, shift=0.1, **settings)
            seconds = min(
                cpu_seconds(lambda: train(model, dataset, config, seed=0))  # noqa: B023 - called now
                for _ in range(options.repetitions)
            )
            figures[f"{name}_{variant}_examples_per_cpu_s"] = round(options.examples / seconds)
        predict = torch_predictor(model)
        seconds = min(
            cpu_seconds(lambda: evaluate(predict, dataset, dataset.train_indices))  # noqa: B023
            for _ in range(options.repetitions)
        )
        figures[f"{name}_evaluated_per_cpu_s"] = round(options.examples / seconds)
        for figure, value in figures.items():
            if figure.startswith(name):
                print(f"{figure:45} {value:>8}")
    print(json.dumps({"benchmark": "training", "figures": figures}))


def random_dataset(examples: int) -> VehicleDataset:
    """Noise with random labels."""
    rng = np.random.default_rng(0)
    return VehicleDataset(
        vehicle_id="bench",
        frames_NHWC=rng.integers(0, 256, (examples, 60, 80, 3), dtype=np.uint8),
        steering_N=rng.uniform(-1, 1, examples).astype(np.float32),
        throttle_N=rng.uniform(0, 1, examples).astype(np.float32),
        lap_N=np.zeros(examples, np.int32),
        steering_threshold=0.2,
        train_indices=np.arange(examples),
        held_indices=np.arange(0),
    )


def cpu_seconds(work) -> float:
    """CPU time of this process for one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=2048)
    parser.add_argument("--repetitions", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
