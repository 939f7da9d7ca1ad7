"""May this release drive here? Every check of a release folder, one finding each.

    manifest -> files (size, SHA-256) -> ONNX files (not loaded) -> trials, one process each -> choice

Nothing of a release is loaded into the process that asks. What is wrong with the release refuses it as
a whole and ends the preflight before anything runs; what goes wrong on one execution provider only
leaves that provider out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from convoy_edge_client.errors import WorkerError
from convoy_edge_client.preflight.choice import Choice, Trial, choose, objection
from convoy_edge_client.preflight.limited_process import WorkerOrder, ask_worker
from convoy_edge_client.preflight.preflight_config import PreflightConfig, Provider
from convoy_edge_client.preflight.trial_order import TrialOrder, TrialResult
from convoy_edge_client.preflight.worker import EXAMINE, TRY_OUT
from convoy_protos.errors import MalformedMessageError
from convoy_protos.findings import Finding, Level, ok, problem, problems, warning
from convoy_protos.release_manifest import (
    GOLDEN_FILE,
    MANIFEST,
    MAX_MANIFEST_BYTES,
    ReleaseManifest,
    read_manifest,
)
from convoy_protos.settings import from_table, to_table

_EXAMINE_S: Final = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PreflightReport:
    """What was found.

    Attributes:
        findings: One line a check. PROBLEM: the release is refused; WARNING: a variant or a provider
            is not used; OK: passed.
        manifest: What the release says it is; None: it cannot be read.
        choice: What drives; None: the release may not drive here.
    """

    findings: tuple[Finding, ...]
    manifest: ReleaseManifest | None
    choice: Choice | None

    @property
    def passed(self) -> bool:
        """Whether the release may go on to the shadow."""
        return self.choice is not None


def examine_release(
    folder: Path, config: PreflightConfig, *, engine_cache: Path | None = None
) -> PreflightReport:
    """Examine and try a release.

    Args:
        folder: With manifest.json and the files that it names.
        config: What the release may ask of this vehicle.
        engine_cache: Where TensorRT's engines are kept; None: they are built and thrown away.

    Returns:
        Also where the release is refused: see `passed`.
    """
    try:
        manifest = _read_manifest(folder)
    except MalformedMessageError as error:
        return PreflightReport(
            findings=(problem("manifest", str(error)),), manifest=None, choice=None
        )
    findings = [_about(manifest), *_sizes(manifest, config)]
    if not problems(findings):
        findings += _examine_models(folder, manifest, config)
    if problems(findings):
        return PreflightReport(findings=tuple(findings), manifest=manifest, choice=None)
    trials = _trials(folder, manifest, config, engine_cache)
    findings += _trial_findings(trials, config)
    choice = choose(trials, config)
    findings.append(_choice_finding(choice))
    return PreflightReport(findings=tuple(findings), manifest=manifest, choice=choice)


def _read_manifest(folder: Path) -> ReleaseManifest:
    try:
        with (folder / MANIFEST).open("rb") as file:
            return read_manifest(file.read(MAX_MANIFEST_BYTES + 1))
    except OSError as error:
        raise MalformedMessageError(f"{MANIFEST}: {error.strerror or error}") from error


def _about(manifest: ReleaseManifest) -> Finding:
    name = f"release {manifest.release_id}, counter {manifest.counter}"
    if not manifest.accepted:
        return problem("manifest", f"{name}: a gate refused it where it was made")
    return ok("manifest", name)


def _sizes(manifest: ReleaseManifest, config: PreflightConfig) -> list[Finding]:
    if not manifest.variants or GOLDEN_FILE not in manifest.files:
        return [problem("files", f"expected a model and {GOLDEN_FILE}, got {_listed(manifest)}")]
    for name, facts in manifest.files.items():
        limit = config.largest_golden_bytes if name == GOLDEN_FILE else config.largest_model_bytes
        if not 0 < facts.size_bytes <= limit:
            return [problem("files", f"{name}: expected 1..{limit} bytes, got {facts.size_bytes}")]
    return [ok("files", _listed(manifest))]


def _listed(manifest: ReleaseManifest) -> str:
    return ", ".join(manifest.files) or "none"


def _examine_models(
    folder: Path, manifest: ReleaseManifest, config: PreflightConfig
) -> list[Finding]:
    order = {
        "folder": str(folder.resolve()),
        "models": {
            variant.value: to_table(manifest.files[variant.file_name])
            for variant in manifest.variants
        },
        "frame_height": manifest.frame_height,
        "frame_width": manifest.frame_width,
        "limits": to_table(config.file),
    }
    (answer,) = ask_worker(
        [WorkerOrder(task=EXAMINE, content=order, limit_s=_EXAMINE_S)], config.memory_mb
    )
    if isinstance(answer, WorkerError):
        return [problem("models", f"cannot be examined: {answer}")]
    return [
        Finding(level=Level(level), subject=subject, message=message)
        for level, subject, message in answer
    ]


def _trials(
    folder: Path, manifest: ReleaseManifest, config: PreflightConfig, engine_cache: Path | None
) -> list[Trial]:
    pairs = [
        (provider, variant)
        for provider in map(Provider, config.providers)
        for variant in provider.variants
        if variant in manifest.variants
    ]
    orders = [
        TrialOrder(
            folder=str(folder.resolve()),
            variant=variant.value,
            provider=provider.value,
            model=manifest.files[variant.file_name],
            golden=manifest.files[GOLDEN_FILE],
            repetitions=config.repetitions,
            engine_cache=str(engine_cache.resolve()) if engine_cache is not None else "",
        )
        for provider, variant in pairs
    ]
    answers = ask_worker(
        [
            WorkerOrder(task=TRY_OUT, content=to_table(order), limit_s=config.limit_s(provider))
            for order, (provider, _) in zip(orders, pairs, strict=True)
        ],
        config.memory_mb,
    )
    return [
        Trial(variant=variant, provider=provider, result=_result(answer))
        for (provider, variant), answer in zip(pairs, answers, strict=True)
    ]


def _result(answer: Any) -> TrialResult:
    if isinstance(answer, WorkerError):
        return TrialResult(fault=str(answer))
    return from_table(TrialResult, answer, "trial")


def _trial_findings(trials: Sequence[Trial], config: PreflightConfig) -> list[Finding]:
    """One line a trial; one line in all for a provider that this onnxruntime does not have."""
    findings = [_trial_finding(trial, config) for trial in trials]
    return list(dict.fromkeys(findings))


def _trial_finding(trial: Trial, config: PreflightConfig) -> Finding:
    result = trial.result
    if result.absent:
        return warning(trial.provider.value, f"not used: {result.fault}")
    subject = f"{trial.variant.value} on {trial.provider.value}"
    against = objection(trial, config)
    if against:
        return warning(subject, f"not used: {against}")
    return ok(
        subject,
        f"{result.p50_ms:.2f} ms a frame (99 %: {result.p99_ms:.2f}), "
        f"{result.difference:.2g} off the golden vectors, loaded in {result.load_ms:.0f} ms",
    )


def _choice_finding(choice: Choice | None) -> Finding:
    if choice is None:
        return problem("choice", "no variant may drive on this vehicle; the model before goes on")
    return ok("choice", f"{choice.variant.value} on {choice.provider.value}")
