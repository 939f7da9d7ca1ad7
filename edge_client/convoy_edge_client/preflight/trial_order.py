"""What a trial is asked and answers, between this process and the one that tries (worker.py)."""

from dataclasses import dataclass

from convoy_edge_client.preflight.preflight_config import ProviderName
from convoy_protos.release_manifest import FileFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialOrder:
    """What to try.

    Attributes:
        folder: With the release's files.
        variant: Value of Variant.
        provider: Value of Provider.
        model: What its file must be.
        golden: What the golden vectors must be.
        repetitions: Frames to time.
        engine_cache: Folder in which TensorRT keeps its engines; empty: none are kept.
    """

    folder: str
    variant: str
    provider: ProviderName
    model: FileFacts
    golden: FileFacts
    repetitions: int
    engine_cache: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialResult:
    """What came of it.

    Attributes:
        fault: Why the model cannot drive here, one line; empty: it can.
        absent: This onnxruntime does not have the provider at all.
        difference: Largest difference to the golden vectors.
        p50_ms: Median wall time of one frame.
        p99_ms: 99th percentile.
        load_ms: From the file to a session.
    """

    fault: str = ""
    absent: bool = False
    difference: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    load_ms: float = 0.0
