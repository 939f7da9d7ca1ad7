"""What driving costs on this machine: memory, start, and a swap at 60 Hz.

    python benchmarks/bench_drive.py [--runs 5] [--swaps 20] [--width 1.0]

A student of 3 x 120 x 160 as int8 drives on frames of noise, in processes of their own. Figures are medians of
the runs; start is from the call of the interpreter to the first answer. Frames of a swap are those from the
moment that the candidate is being loaded to a second after it has the wheel; p99 beside the steady p99 of the
same run. Other programs on the machine disturb both alike: a frame counts as
lost if a whole period went by before it could begin, whoever is to blame.

Wanted: RSS at most 110 MB, start within 1.0 s, no frame lost, p99 in a swap at most 1.2 of the steady one.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from convoy_compression.model.onnx_export import export_onnx
from convoy_compression.model.quantization import quantize_int8, ranges_from_frames
from convoy_driving.golden import Answers, GoldenVectors, golden_bytes
from convoy_driving.models.driver import Driver
from convoy_driving.models.registry import ModelConfig, build_model
from convoy_driving.onnx_driver import OnnxDriver
from convoy_protos.release_manifest import GOLDEN_FILE, MANIFEST, MANIFEST_SCHEMA, Variant
from convoy_server.release.manifest import sha256

HEIGHT, WIDTH, RATE_HZ = 120, 160, 60
METADATA = {"convoy.schema": "convoy.model/1"}

_DRIVE = """
import json, re, sys, time
from pathlib import Path
import numpy as np
from convoy_edge_client.drive.drive_toml import load_drive_toml
from convoy_edge_client.drive.vehicle import Vehicle
path = Path(sys.argv[1])
vehicle = Vehicle(load_drive_toml(path), path)
picture = np.zeros((120, 160, 3), np.uint8)
vehicle.wheel.answer(picture)
print(time.time(), flush=True)
vehicle.start()
for _ in range(600):
    vehicle.wheel.answer(picture)
print(int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024)
vehicle.close()
"""

_SWAP = """
import json, sys, time
from dataclasses import replace
from pathlib import Path
import numpy as np
from convoy_edge_client.drive.drive_toml import load_drive_toml
from convoy_edge_client.drive.wheel import Wheel
from convoy_edge_client.updates.states import Record, Slot, State
from convoy_edge_client.updates.update_file import UpdateFile
from convoy_protos.release_manifest import read_manifest
path, swaps, rate_hz = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
config = load_drive_toml(path)
file = UpdateFile(config.releases.folder_path)
def slot(number):
    folder = config.releases.folder_path / "releases" / f"r{number % 2}"
    manifest = read_manifest((folder / "manifest.json").read_bytes())
    models = tuple(facts.sha256 for facts in manifest.files.values())
    return Slot(release=f"r{number % 2}", counter=number + 1, models=models, variant="int8-cpu",
                provider="cpu")
file.step(lambda _: Record(state=State.COMMITTED, committed=slot(0)))
wheel = Wheel(file, Path(config.factory), config.drive)
wheel.start()
pictures = np.random.default_rng(0).integers(0, 256, (16, 120, 160, 3), dtype=np.uint8)
steady, during, swapped, number, due = [], [], 0, 0, time.perf_counter()
late = {False: 0, True: 0}
def frame(in_swap=False):
    global due, number
    due += 1 / rate_hz
    wait = due - time.perf_counter()
    if wait > 0:
        time.sleep(wait)
    begin = time.perf_counter()
    missed = int((begin - due) * rate_hz)  # periods that went by before this frame could begin
    late[in_swap] += missed
    due += missed / rate_hz
    answer = wheel.answer(pictures[number % 16])
    number += 1
    # From when it could begin: the wait for the processor counts; the sleep's own error does not.
    return (time.perf_counter() - begin) * 1e3, answer.release
for _ in range(int(rate_hz)):
    frame()
for swap in range(1, swaps + 1):
    steady += [frame()[0] for _ in range(int(2 * rate_hz))]
    ready = replace(file.read(), state=State.READY, candidate=slot(swap), quarantined=())
    file.step(lambda _: ready)
    left = int(rate_hz)
    while left:
        ms, release = frame(in_swap=True)
        during.append(ms)
        left -= release == f"r{swap % 2}"
        if number > 60_000:
            raise SystemExit("the swap never came")
    while file.read().state is not State.COMMITTED:
        steady.append(frame()[0])
    swapped += 1
wheel.close()
print(json.dumps({
    "swaps": swapped, "frames": number, "swap_frames": len(during),
    "lost": late[False], "swap_lost": late[True],
    "steady_p50": float(np.percentile(steady, 50)), "steady_p99": float(np.percentile(steady, 99)),
    "swap_p50": float(np.percentile(during, 50)), "swap_p99": float(np.percentile(during, 99)),
}))
"""


def main() -> None:
    """Build two releases, start and swap."""
    options = parse()
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        for number, name in enumerate(("factory", "car/releases/r0", "car/releases/r1")):
            write_release(folder / name, number, options.width)
        toml = folder / "drive.toml"
        toml.write_text(
            'vehicle = "car"\n[releases]\nfolder = "car"\n[drive]\n'
            f'rate_hz = {RATE_HZ}\nswap_window = "any"\ntrial_frames = {2 * RATE_HZ}\n'
            "largest_missed_share = 1.0\nlargest_slowdown = 100\n"
        )
        figures = measure(toml, options)
    for name, value in figures.items():
        print(f"{name:28} {value:>10}")
    print(json.dumps({"benchmark": "drive", "figures": figures}))


def measure(toml: Path, options: argparse.Namespace) -> dict[str, float]:
    """Every figure."""
    started, rss = [], []
    for _ in range(options.runs):
        begin_s = time.time()
        first_s, memory_mb = run(_DRIVE, toml).split()
        started.append(float(first_s) - begin_s)
        rss.append(float(memory_mb))
    swaps = [json.loads(run(_SWAP, toml, options.swaps, RATE_HZ)) for _ in range(options.swap_runs)]

    def median(values: list[float]) -> float:
        return round(statistics.median(values), 3)

    return {
        "runs": options.runs,
        "load_average": round(os.getloadavg()[0], 1),
        "rss_mb": median(rss),
        "start_s": median(started),
        "swaps": sum(one["swaps"] for one in swaps),
        "frames": sum(one["frames"] for one in swaps),
        "frames_lost": sum(one["lost"] for one in swaps),
        "swap_frames": sum(one["swap_frames"] for one in swaps),
        "swap_frames_lost": sum(one["swap_lost"] for one in swaps),
        "steady_p50_ms": median([one["steady_p50"] for one in swaps]),
        "steady_p99_ms": median([one["steady_p99"] for one in swaps]),
        "swap_p50_ms": median([one["swap_p50"] for one in swaps]),
        "swap_p99_ms": median([one["swap_p99"] for one in swaps]),
        "swap_p99_over_steady": median([one["swap_p99"] / one["steady_p99"] for one in swaps]),
    }


def run(code: str, *arguments: Any) -> str:
    """What a process of its own prints."""
    process = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-c", code, *map(str, arguments)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return process.stdout


def write_release(folder: Path, seed: int, width: float) -> None:
    """A student with weights by chance, as int8, with golden vectors."""
    folder.mkdir(parents=True)
    model = build_model(ModelConfig(name="slim", dropout=0.0, width=width), HEIGHT, WIDTH, seed)
    frames = np.random.default_rng(0).integers(0, 256, (8, HEIGHT, WIDTH, 3), dtype=np.uint8)
    driver_module = Driver(model, 0.2)
    fp32 = export_onnx(driver_module, HEIGHT, WIDTH, METADATA)
    int8 = quantize_int8(fp32, ranges_from_frames(fp32, frames), METADATA)
    (folder / Variant.INT8_CPU.file_name).write_bytes(int8.SerializeToString())
    driver = OnnxDriver(folder / Variant.INT8_CPU.file_name)
    golden = GoldenVectors(frames, {Variant.INT8_CPU: Answers(*driver.predict(frames))})
    (folder / GOLDEN_FILE).write_bytes(golden_bytes(golden))
    names = (Variant.INT8_CPU.file_name, GOLDEN_FILE)
    manifest = {
        "schema": MANIFEST_SCHEMA,
        "release_id": folder.name,
        "counter": 1,
        "accepted": True,
        "input": {"height": HEIGHT, "width": WIDTH},
        "files": {
            name: {
                "sha256": sha256((folder / name).read_bytes()),
                "bytes": (folder / name).stat().st_size,
            }
            for name in names
        },
    }
    (folder / MANIFEST).write_text(json.dumps(manifest))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--swap-runs", type=int, default=3)
    parser.add_argument("--swaps", type=int, default=10)
    parser.add_argument("--width", type=float, default=1.0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
