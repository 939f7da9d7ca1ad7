"""Streaming aggregation against Flower's own, on 50 updates of 25 M parameters.

    python benchmarks/compare_flower_aggregation.py [--clients 50] [--repetitions 3]

Both sides get the same numbers in the form in which each takes them from the wire: Flower the 161
arrays of a ResNet-50 in its own serialization, Convoy one envelope. Convoy's side is the path of a
real round: unpack, check every header field, refuse NaN, infinity and absurd values before the sum
is touched, add. The bytes of four clients are used in turn, so that none sits in a cache and fifty
need not fit in memory.

Flower's speed depends on how the parameters are cut into arrays, so two other cuts are timed too:
60 equal arrays, its best case here, and one packed array as Convoy sends it.

Figures: gigabytes of updates per CPU-second of this process, sides taking turns, best repetition of
each; memory above what was there before, in updates, with Convoy's one reply and Flower's fifty
added, because their bytes are in place before the clock starts. SHA-256 over the payload is timed to
show what a digest in the envelope would cost; Flower names every object by its SHA-256 already.
"""

import argparse
import hashlib
import json
import math
import resource
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
from flwr.app import ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords
from numpy.typing import NDArray

from convoy_compression.update.float32 import Float32Codec
from convoy_protos import envelope
from convoy_protos.v1.federation_pb2 import UpdateHeader
from convoy_server.admission import Expectation, admit
from convoy_server.aggregation import SingleUpdates
from convoy_server.robust.registry import RobustConfig

Shapes = list[tuple[int, ...]]

DISTINCT = 4
CODEC = Float32Codec()


def main() -> None:
    """Measure all sides in turn and print the figures."""
    options = parse()
    shapes = resnet50_shapes()
    parameters = sum(math.prod(shape) for shape in shapes)
    cuts = {
        "flower": shapes,
        "flower_60_arrays": [(parameters // 60,)] * 59 + [(parameters - 59 * (parameters // 60),)],
        "flower_1_array": [(parameters,)],
    }
    gigabytes = options.clients * parameters * 4 / 1e9
    rng = np.random.default_rng(0)
    vectors = [rng.standard_normal(parameters, dtype=np.float32) for _ in range(DISTINCT)]
    sides: dict[str, Callable[[], Any]] = {}
    for name, cut in cuts.items():
        replies = [flower_reply(vector_N, cut) for vector_N in vectors]
        records = [replies[index % DISTINCT] for index in range(options.clients)]
        sides[name] = lambda records=records: aggregate_arrayrecords(records, "num-examples")
    envelopes = [convoy_reply(vector_N, index) for index, vector_N in enumerate(vectors)]
    del vectors
    sides["convoy"] = lambda: fold(envelopes, options.clients, parameters)
    check_same(sides["flower"](), sides["convoy"]())

    cpu_s: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(options.repetitions):
        for name, work in sides.items():
            cpu_s[name].append(cpu_time(work))
    sha256_s = cpu_time(lambda: [hashlib.sha256(blob).digest() for blob in envelopes])
    rate = {name: gigabytes / min(times) for name, times in cpu_s.items()}
    sha256_rate = sum(map(len, envelopes)) / 1e9 / sha256_s
    turns = [theirs / ours for theirs, ours in zip(cpu_s["flower"], cpu_s["convoy"], strict=True)]
    rise = {name: memory_rise(sides[name]) / (4 * parameters) for name in ("flower", "convoy")}
    figures = {
        "clients": options.clients,
        "parameters": parameters,
        "gigabytes": gigabytes,
        **{f"{name}_gb_per_cpu_s": value for name, value in rate.items()},
        "ratio": rate["convoy"] / rate["flower"],
        "ratio_median_of_turns": statistics.median(turns),
        "ratio_to_60_arrays": rate["convoy"] / rate["flower_60_arrays"],
        "ratio_to_1_array": rate["convoy"] / rate["flower_1_array"],
        "convoy_memory_in_updates": 1 + rise["convoy"],
        "flower_memory_in_updates": options.clients + rise["flower"],
        "sha256_gb_per_cpu_s": sha256_rate,
        "convoy_with_sha256_gb_per_cpu_s": 1 / (1 / rate["convoy"] + 1 / sha256_rate),
    }
    figures = {name: round(value, 2) for name, value in figures.items()}
    for name, value in figures.items():
        print(f"{name:34} {value}")
    print(json.dumps({"benchmark": "compare_flower_aggregation", "figures": figures}))


def parse() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description="Streaming aggregation against Flower's own.")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--repetitions", type=int, default=3)
    return parser.parse_args()


def resnet50_shapes() -> Shapes:
    """The 161 trained arrays of a ResNet-50: 25,557,032 parameters (He et al., CVPR 2016)."""
    shapes: Shapes = [(64, 3, 7, 7), (64,), (64,)]
    channels = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            convolutions = [(width, channels, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)]
            if block == 0:
                convolutions.append((4 * width, channels, 1, 1))
            for convolution in convolutions:
                shapes += [convolution, (convolution[0],), (convolution[0],)]
            channels = 4 * width
    return [*shapes, (1000, 2048), (1000,)]


def flower_reply(vector_N: NDArray[np.float32], shapes: Shapes) -> RecordDict:
    """What a stock Flower client sends."""
    ends = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
    parts = np.split(vector_N, ends)
    arrays = [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
    metrics = MetricRecord({"num-examples": 10})
    return RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics})


def convoy_reply(vector_N: NDArray[np.float32], index: int) -> bytes:
    """What a Convoy vehicle sends."""
    header = UpdateHeader(
        run_id="run",
        round=1,
        vehicle_id=f"car{index}",
        schema_digest=b"s" * 32,
        codec=CODEC.name,
        parameter_count=vector_N.size,
        example_count=10,
        metrics={"train_loss": 0.5},
    )
    return envelope.pack(header, CODEC.encode(vector_N))


def fold(envelopes: list[bytes], clients: int, parameters: int) -> NDArray[np.float32]:
    """The server's path of a round, without the grid: admission and aggregation."""
    expected = Expectation(
        run_id="run",
        round_number=1,
        schema_digest=b"s" * 32,
        parameter_count=parameters,
        codec=CODEC.name,
        max_examples=10**6,
    )
    updates = SingleUpdates(CODEC, expected, "examples", RobustConfig())
    limit = CODEC.payload_limit(parameters)
    for index in range(clients):
        vehicle = index % DISTINCT
        update = admit(envelopes[vehicle], f"car{vehicle}", expected, limit)
        updates.add(update, update.payload)
    aggregate = updates.result()
    assert aggregate is not None
    return aggregate.update_M


def check_same(theirs: ArrayRecord, mean_N: NDArray[np.float32]) -> None:
    """Both sides must have computed the same mean, or comparing them means nothing."""
    flat_N = np.concatenate([array.numpy().reshape(-1) for array in theirs.values()])
    np.testing.assert_allclose(mean_N, flat_N, rtol=1e-3, atol=1e-5)


def cpu_time(work: Callable[[], Any]) -> float:
    """CPU seconds of this process, all threads."""
    begin_s = time.process_time()
    work()
    return time.process_time() - begin_s


def memory_rise(work: Callable[[], Any]) -> int:
    """Bytes by which resident memory rises above where it stood, looked at every 5 ms."""
    with MemoryPeak() as memory:
        work()
    return memory.peak_bytes - memory.base_bytes


class MemoryPeak:
    """Watches this process from a thread."""

    def __enter__(self) -> Self:
        self.base_bytes = self.peak_bytes = resident_bytes()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            self.peak_bytes = max(self.peak_bytes, resident_bytes())


def resident_bytes() -> int:
    """Resident memory of this process (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    main()
