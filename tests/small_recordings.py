"""Small recordings and data sets, for the tests of whoever reads or learns from them."""

import io
import json
from collections.abc import Mapping, Sequence
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from convoy_driving.data_config import DataConfig
from convoy_driving.dataset import VehicleDataset
from convoy_driving.frame_cache import cached_frames
from convoy_driving.recordings.donkeycar import DonkeycarReader
from convoy_driving.steering_classes import classes_of


def jpeg(red: int = 100, width: int = 32, height: int = 24) -> bytes:
    """A picture of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), (red, 50, 150)).save(file, "JPEG")
    return file.getvalue()


def record(index: int, **changes: Any) -> dict[str, Any]:
    """A Donkeycar record; 20 Hz, steering left, straight, right in turn."""
    return {
        "_index": index,
        "_session_id": "a",
        "_timestamp_ms": 1_700_000_000_000 + 50 * index,
        "cam/image_array": f"{index}_cam_image_array_.jpg",
        "user/angle": (index % 3 - 1) * 0.5,
        "user/throttle": 0.25,
        "user/mode": "user",
    } | changes


def write_tub(
    tub: Path,
    records: Sequence[Mapping[str, Any]],
    *,
    deleted: Sequence[int] = (),
    pictures: Mapping[int, bytes | None] | None = None,
    max_len: int = 10,
    catalogs_lost: Sequence[int] = (),
) -> Path:
    """Write a tub and give its folder."""
    (tub / "images").mkdir(parents=True)
    count = -(-len(records) // max_len)
    manifest = {
        "paths": [f"catalog_{number}.catalog" for number in range(count)],
        "current_index": len(records),
        "max_len": max_len,
        "deleted_indexes": list(deleted),
    }
    lines = [["cam/image_array"], ["image_array"], {}, {"created_at": 0.0}, manifest]
    (tub / "manifest.json").write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    for number in range(count):
        if number not in catalogs_lost:
            part = records[number * max_len : (number + 1) * max_len]
            text = "".join(json.dumps(item) + "\n" for item in part)
            (tub / f"catalog_{number}.catalog").write_text(text)
    for item in records:
        index = item["_index"]
        picture = (pictures or {}).get(index, jpeg(red=index % 256))
        if picture is not None:
            (tub / "images" / item["cam/image_array"]).write_bytes(picture)
    return tub


def make_dataset(
    count: int = 96, *, seed: int = 0, size: tuple[int, int] = (32, 40)
) -> VehicleDataset:
    """Examples whose steering can be seen in the picture: the bright third is the way."""
    rng = np.random.default_rng(seed)
    height, width = size
    steering_N = rng.choice(np.array([-0.8, 0.0, 0.8], np.float32), count)
    frames_NHWC = rng.integers(0, 60, (count, height, width, 3), dtype=np.uint8)
    for frame, place in zip(frames_NHWC, classes_of(steering_N, 0.2), strict=True):
        third = width // 3
        frame[:, place * third : (place + 1) * third] += 150
    held = count // 4
    return VehicleDataset(
        vehicle_id=f"car{seed}",
        frames_NHWC=frames_NHWC,
        steering_N=steering_N,
        throttle_N=rng.uniform(0, 0.5, count).astype(np.float32),
        lap_N=np.zeros(count, np.int32),
        steering_threshold=0.2,
        train_indices=np.arange(count - held),
        held_indices=np.arange(count - held, count),
    )


def build_frames(
    tub: Path,
    config: DataConfig,
    cache_dir: Path,
    barrier: Barrier,
    queue: "Queue[tuple[int, int]]",
) -> None:
    """Build a frame cache at the same moment as others; for a process of its own.

    A process that starts fresh finds this function by the module's name, which a test file lacks.
    """
    barrier.wait(30)
    cached = cached_frames([DonkeycarReader(tub, config)], config, cache_dir)
    queue.put((int(cached.frames_NHWC.astype(np.int64).sum()), len(cached.lap_N)))
