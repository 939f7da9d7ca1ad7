"""What the variants of a release cost and change, on one thread of this machine.

    python benchmarks/bench_release.py [--frames 1600] [--epochs 6] [--repetitions 400] [--width 1.0]

A student of 3 x 120 x 160 learns from recordings of the simulator, is exported and quantized, and
answers the frames held back. Times are medians of thread CPU time, the runners taking turns (see
convoy_compression.model.latency): other work on the machine moves the ratios by a few per cent only.
Wanted of int8-cpu: p50 at most 0.5 of onnxruntime float32 and 0.3 of torch, file at most 0.28 of float32, the
same class on 0.97 of the frames, mean change of the steering (in -1..1) at most 0.005.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from convoy_compression.model.latency import interleaved_p50_ms
from convoy_compression.model.onnx_export import export_onnx
from convoy_compression.model.parity import compare
from convoy_compression.model.quantization import (
    quantize_for_tensorrt,
    quantize_int8,
    ranges_from_frames,
)
from convoy_driving.data_config import DataConfig
from convoy_driving.dataset import DrivingData
from convoy_driving.evaluation import evaluate, torch_predictor
from convoy_driving.golden import Answers, GoldenVectors, golden_bytes
from convoy_driving.models.driver import Driver
from convoy_driving.models.registry import ModelConfig, build_model
from convoy_driving.onnx_driver import OnnxDriver
from convoy_driving.training import TrainingConfig, train
from convoy_edge_client.preflight.preflight import examine_release
from convoy_edge_client.preflight.preflight_config import PreflightConfig
from convoy_protos.release_manifest import GOLDEN_FILE, MANIFEST, MANIFEST_SCHEMA, Variant
from convoy_server.release.manifest import sha256
from convoy_simulation.fleet import FleetConfig
from convoy_simulation.proxy import load_proxy, simulated_proxy

HEIGHT, WIDTH = 120, 160
CALIBRATION_FRAMES = 128
METADATA = {"convoy.schema": "convoy.model/1"}


def main() -> None:
    """Train, export, quantize, measure."""
    options = parse()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), options)
    for name, value in figures.items():
        print(f"{name:40} {value:>10}")
    print(json.dumps({"benchmark": "release", "figures": figures}))


def measure(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Every figure."""
    data = DataConfig(frame_height=HEIGHT, frame_width=WIDTH)
    recordings = simulated_proxy(
        FleetConfig(), options.frames, 0, folder / "cache", lambda *_: None
    )
    proxy = load_proxy(recordings, data, folder / "cache")
    model = build_model(
        ModelConfig(name="slim", dropout=0.0, width=options.width), HEIGHT, WIDTH, 0
    )
    train(
        model,
        proxy,
        TrainingConfig(optimizer="adamw", learning_rate=0.002, brightness=0.2),
        seed=0,
        epochs=options.epochs,
    )
    release = folder / "release"
    release.mkdir()
    write_variants(release, model, proxy, data, seven_bit_weights=not options.eight_bit_weights)
    drivers = {variant: OnnxDriver(release / variant.file_name) for variant in Variant}
    held_MHWC = proxy.frames_at(proxy.held_indices)
    write_golden_and_manifest(release, drivers, held_MHWC[:8])
    torch_driver = torch_predictor(model, steering_threshold=data.steering_threshold)
    accuracy = {
        name: evaluate(predict, proxy, proxy.held_indices).balanced_accuracy
        for name, predict in (
            ("fp32", drivers[Variant.FP32].predict),
            ("int8_cpu", drivers[Variant.INT8_CPU].predict),
            ("int8_trt", drivers[Variant.INT8_TRT].predict),
        )
    }
    frame_1HWC = held_MHWC[:1]
    p50_ms = interleaved_p50_ms(
        {
            "torch": lambda: torch_driver(frame_1HWC),
            **{
                variant.value: lambda driver=driver: driver.predict(frame_1HWC)
                for variant, driver in drivers.items()
            },
        },
        options.repetitions,
    )
    sizes = {variant: (release / variant.file_name).stat().st_size for variant in Variant}
    parities = {
        variant: compare(drivers[Variant.FP32].predict, drivers[variant].predict, held_MHWC)
        for variant in (Variant.INT8_CPU, Variant.INT8_TRT)
    }
    started_s = time.perf_counter()
    report = examine_release(release, PreflightConfig(providers=("cpu",)))
    preflight_s = time.perf_counter() - started_s
    int8, trt = Variant.INT8_CPU, Variant.INT8_TRT
    figures = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "held_frames": len(held_MHWC),
        **{f"{name}_balanced_accuracy": value for name, value in accuracy.items()},
        **{f"{name.replace('-', '_')}_p50_ms": value for name, value in p50_ms.items()},
        "fp32_bytes": sizes[Variant.FP32],
        "int8_cpu_bytes": sizes[int8],
        "int8_trt_bytes": sizes[trt],
        "int8_cpu_to_fp32_latency": p50_ms[int8.value] / p50_ms[Variant.FP32.value],
        "int8_cpu_to_torch_latency": p50_ms[int8.value] / p50_ms["torch"],
        "int8_trt_to_fp32_latency": p50_ms[trt.value] / p50_ms[Variant.FP32.value],
        "int8_cpu_to_fp32_bytes": sizes[int8] / sizes[Variant.FP32],
        "int8_cpu_agreement": parities[int8].class_agreement,
        "int8_trt_agreement": parities[trt].class_agreement,
        "int8_cpu_mean_steering_change": parities[int8].mean_steering_change,
        "int8_trt_mean_steering_change": parities[trt].mean_steering_change,
        "preflight_s": preflight_s,
        "preflight_passed": float(report.passed),
    }
    return {name: float(f"{value:.4g}") for name, value in figures.items()}


def write_variants(
    folder: Path,
    model: torch.nn.Module,
    proxy: DrivingData,
    data: DataConfig,
    *,
    seven_bit_weights: bool,
) -> None:
    """The three ONNX files, as a release has them."""
    fp32 = export_onnx(Driver(model, data.steering_threshold), HEIGHT, WIDTH, METADATA)
    step = max(1, len(proxy.train_indices) // CALIBRATION_FRAMES)
    ranges = ranges_from_frames(fp32, proxy.frames_at(proxy.train_indices[::step]))
    models = {
        Variant.FP32: fp32,
        Variant.INT8_CPU: quantize_int8(
            fp32, ranges, METADATA, seven_bit_weights=seven_bit_weights
        ),
        Variant.INT8_TRT: quantize_for_tensorrt(fp32, ranges, METADATA),
    }
    for variant, made in models.items():
        (folder / variant.file_name).write_bytes(made.SerializeToString(deterministic=True))


def write_golden_and_manifest(
    folder: Path, drivers: dict[Variant, OnnxDriver], frames_NHWC: np.ndarray
) -> None:
    """What the preflight needs beside the models."""
    answers = {
        variant: Answers(*driver.predict(frames_NHWC)) for variant, driver in drivers.items()
    }
    (folder / GOLDEN_FILE).write_bytes(golden_bytes(GoldenVectors(frames_NHWC, answers)))
    manifest = {
        "schema": MANIFEST_SCHEMA,
        "release_id": "bench",
        "counter": 0,
        "accepted": True,
        "input": {"height": HEIGHT, "width": WIDTH},
        "files": {
            path.name: {"sha256": sha256(path.read_bytes()), "bytes": path.stat().st_size}
            for path in sorted(folder.iterdir())
        },
    }
    (folder / MANIFEST).write_text(json.dumps(manifest))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=1600)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--repetitions", type=int, default=400)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--eight-bit-weights", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
