"""From the global model to the file a vehicle drives with.

    candidate -> gates -> card.json, card.html, manifest.json -> release/

A candidate that fails anywhere, or at any gate, is refused and reported; the release that stood
before stays. Only wrong input (no proxy frames, an unknown student) is an error of the caller.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from convoy_compression.model.distillation import DistillationResult
from convoy_compression.model.errors import ModelCompressionError
from convoy_compression.update.one_thread import one_thread
from convoy_driving.dataset import DrivingData
from convoy_driving.errors import ModelFileError
from convoy_protos.release_manifest import GOLDEN_FILE, MANIFEST, Variant
from convoy_server.errors import NotReleasableError, WrongProxyError
from convoy_server.federation import FederationResult
from convoy_server.release.candidate import AskCertainty, AskVehicles, Candidate, Drive, Progress
from convoy_server.release.card import CARD_FILE, CARD_PAGE_FILE, card_json, card_of
from convoy_server.release.card_page import render_card
from convoy_server.release.gates import PROXY_DISTANCE, refusal
from convoy_server.release.known_answers import load_answers, save_answers
from convoy_server.release.manifest import ReleaseName, manifest_json, sha256
from convoy_server.release.proxy import choose_proxy_frames
from convoy_server.release.proxy_fit import FEWEST_FRAMES, FEWEST_VEHICLES, ProxyFit
from convoy_server.release.release_folder import accept, open_candidate, refuse
from convoy_server.release.teachers import untaught_student
from convoy_server.report.contract import LatencyMs, Release
from convoy_server.run_config import RunConfig
from convoy_server.storage import write_file

logger = logging.getLogger(__name__)

FP32_FILE: Final = Variant.FP32.file_name
INT8_FILE: Final = Variant.INT8_CPU.file_name
TRT_FILE: Final = Variant.INT8_TRT.file_name

UNSURE_ENTROPY: Final = 0.9
"""Above this the teachers know next to nothing about the proxy frames."""
POOR_ACCURACY: Final = 0.5
"""Guessing reaches a third; a global model that does not do much better there was not made for
such frames, and what a student learns from it is worth little."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseOutcome:
    """What came of a release.

    Attributes:
        report: The "release" object of report.json.
        folder: Where the candidate's files stand: OUT/release if accepted, OUT/release.refused if
            not. The latter may lack an ONNX file that could not be made.
        proxy_accuracy: The global model's balanced accuracy on the held-back proxy frames.
        proxy_entropy: How unsure the teachers are of the proxy frames, 0..1.
        proxy_disagreement: How often a teacher is of another opinion than the ensemble, 0..1.
    """

    report: Release
    folder: Path
    proxy_accuracy: float | None
    proxy_entropy: float | None
    proxy_disagreement: float | None


def build_release(
    *,
    run: RunConfig,
    result: FederationResult,
    proxy: DrivingData,
    out: Path,
    run_id: str,
    release_id: str = "",
    counter: int = 0,
    ask_vehicles: AskVehicles | None = None,
    ask_certainty: AskCertainty | None = None,
    closed_loop_score: Drive | None = None,
    recordings: Sequence[Path] = (),
    answers_from: Path | None = None,
    on_progress: Progress | None = None,
    created: str | None = None,
) -> ReleaseOutcome:
    """Build a release from a finished run, and put it in place if it passes every gate.

    Args:
        run: Sections [data], [model] and [release] and the seed are used.
        result: The global model and the last ones before it.
        proxy: Labelled examples that the server may see: a VehicleDataset or a pool of several,
            loaded with run.data. Its train_indices teach and calibrate, its held_indices measure.
        out: The run directory.
        run_id: Written into the files; the same id, model and seed give the same ONNX bytes.
        release_id: Likewise; empty means the run's id and its last round.
        counter: Likewise; grows with every release of a fleet, 0 means not numbered.
        ask_vehicles: Lets vehicles calibrate on their private frames, if run.release.calibration
            wants it; None: what they told about the same network before counts.
        ask_certainty: Lets vehicles tell how sure the global model is of their frames; None: likewise.
        closed_loop_score: Drives an int8 file and says how well; None leaves that gate out.
        recordings: Where the proxy frames come from, remembered for whoever makes the release again.
        answers_from: Run directory of what was told before; None: `out`.
        on_progress: Told which phase has come how far.
        created: UTC, ISO 8601, for the manifest; None leaves it out.

    Returns:
        Also where the release was refused: see report.accepted and report.reasons. The command
        that asked for the release then ends with exit code 1.

    Raises:
        UsageError: The proxy frames cannot be used, or [release] names no known student.
        StorageError: The run directory cannot be written.
    """
    frames = choose_proxy_frames(proxy, run.data, run.release.proxy_frames)
    student = untaught_student(run)
    answers = load_answers(answers_from or out)
    answers.recordings = tuple(str(path.resolve()) for path in recordings)
    folder = open_candidate(out)
    candidate = Candidate(
        run=run,
        result=result,
        name=ReleaseName(run_id=run_id, release_id=release_id, counter=counter),
        frames=frames,
        folder=folder,
        answers=answers,
        ask_vehicles=ask_vehicles,
        ask_certainty=ask_certainty,
        drive=closed_loop_score,
        progress=on_progress or _silent,
    )
    reasons: list[str] = []
    try:
        with one_thread():  # the same files whatever the number of cores
            candidate.make(student)
    except (
        ModelCompressionError,
        ModelFileError,
        WrongProxyError,
        NotReleasableError,
    ) as error:
        reasons.append(str(error))
    # Where a step failed, the gates behind it say only that they were not reached.
    reasons += [
        refusal(gate)
        for gate in candidate.gates
        if not gate.passed
        and gate.name != PROXY_DISTANCE
        and (gate.value is not None or not reasons)
    ]
    warnings = proxy_warnings(candidate.measured.global_accuracy, candidate.lessons, candidate.fit)
    files = _files(folder, FP32_FILE, INT8_FILE, TRT_FILE, GOLDEN_FILE)
    card = card_of(candidate, student, files, reasons, warnings)
    write_file(folder / CARD_FILE, card_json(card).encode())
    write_file(folder / CARD_PAGE_FILE, render_card(card).encode())
    files |= _files(folder, CARD_FILE, CARD_PAGE_FILE)
    origin, gates = card.lineage.origin, card.gates
    manifest = manifest_json(origin, files, gates, accepted=card.accepted, created=created)
    write_file(folder / MANIFEST, manifest.encode())
    save_answers(out, answers)
    logger.info("release %s: %s", "accepted" if card.accepted else "refused", reasons or "-")
    stands = accept(folder, out) if card.accepted else refuse(folder, out)
    measured = candidate.measured
    report = Release(
        accepted=card.accepted,
        gates=gates,
        teacher_parameters=result.schema.parameter_count,
        student_parameters=origin.student_parameters,
        fp32_bytes=measured.fp32_bytes,
        int8_bytes=measured.int8_bytes,
        fp32_balanced_accuracy=measured.fp32_accuracy,
        int8_balanced_accuracy=measured.int8_accuracy,
        latency_ms=LatencyMs(
            torch_p50=measured.torch_p50_ms,
            fp32_p50=measured.fp32_p50_ms,
            int8_p50=measured.int8_p50_ms,
        ),
        sha256=sha256(files[INT8_FILE]) if INT8_FILE in files else None,
        reasons=tuple(reasons),
        warnings=warnings,
        card=f"{stands.name}/{CARD_PAGE_FILE}",
    )
    lessons = candidate.lessons
    return ReleaseOutcome(
        report=report,
        folder=stands,
        proxy_accuracy=measured.global_accuracy,
        proxy_entropy=None if lessons is None else lessons.entropy,
        proxy_disagreement=None if lessons is None else lessons.disagreement,
    )


def proxy_warnings(
    global_accuracy: float | None,
    lessons: DistillationResult | None,
    fit: ProxyFit | None = None,
) -> tuple[str, ...]:
    """Whether the proxy frames look like what the fleet drives, as far as that can be told."""
    warnings = []
    if lessons is not None and lessons.entropy > UNSURE_ENTROPY:
        warnings.append(
            f"the global models are unsure of nearly every proxy frame (entropy "
            f"{lessons.entropy:.2f} of 1): the student learned little; see [release] proxy"
        )
    if global_accuracy is not None and not global_accuracy >= POOR_ACCURACY:
        warnings.append(
            f"the global model reaches only {global_accuracy:.2f} balanced accuracy on the proxy "
            "frames: they do not look like what the fleet drives; see [release] proxy"
        )
    if fit is not None and fit.distance is None:
        warnings.append(
            f"the proxy frames were not compared with the fleet's: {fit.vehicles} vehicles told how sure "
            f"the global model is of {fit.fleet_frames} frames, and {FEWEST_VEHICLES} and "
            f"{FEWEST_FRAMES} are needed"
        )
    return tuple(warnings)


def _files(folder: Path, *names: str) -> dict[str, bytes]:
    """Content of those that are there."""
    return {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}


def _silent(phase: str, done: int, total: int) -> None:
    """Nobody watches."""
