"""From the repository to the shadow: check, fetch, examine. Each step is on disk before the next begins.

It runs beside the process that drives, never in it: fetching needs gRPC, TUF and time.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Final

import onnxruntime

from convoy_edge_client.errors import ReleaseRefusedError, ReleaseStoreError, RepositoryDownError
from convoy_edge_client.preflight.preflight import PreflightReport, examine_release
from convoy_edge_client.preflight.preflight_config import (
    PreflightConfig,
    Provider,
    ProviderName,
)
from convoy_edge_client.releases.choice import Held, ReleaseRef
from convoy_edge_client.releases.updater import Offer, ReleaseUpdater
from convoy_edge_client.updates import states
from convoy_edge_client.updates.releases_config import ReleasesConfig
from convoy_edge_client.updates.states import Record, Slot, State
from convoy_edge_client.updates.update_file import UpdateFile
from convoy_privacy.releases.layout import RELEASES_FOLDER
from convoy_protos.findings import problems
from convoy_protos.release_manifest import GOLDEN_FILE, Variant

logger = logging.getLogger(__name__)

ENGINES_FOLDER: Final = "engines"
"""In the vehicle's folder: what TensorRT has built."""


def release_folder(folder: Path, release: str) -> Path:
    """Where a release's files are."""
    return folder / RELEASES_FOLDER / release


def prepare(
    file: UpdateFile,
    updater: ReleaseUpdater,
    config: ReleasesConfig,
    preflight: PreflightConfig,
    *,
    vehicle: str,
    now: datetime,
) -> Record:
    """Ask once, and go as far as it goes now; what fails is logged and written down.

    Args:
        file: The states.
        updater: Holds the folder.
        config: Where and what is asked.
        preflight: What a release may ask of this vehicle.
        vehicle: Its name.
        now: With a time zone.

    Raises:
        ReleaseStoreError: The states cannot be written.
    """
    record = file.step(states.check_begins)
    offer = None
    try:
        found = updater.check(config.channel, config.profile(vehicle), held_of(record), now)
    except (ReleaseRefusedError, RepositoryDownError, ReleaseStoreError) as error:
        logger.warning("releases: %s", error)
        why = str(error)
    else:
        offer, verdict = found.offer, found.verdict
        why = verdict.refused or verdict.why
        minimum = found.policy.minimum_counter
        record = file.step(
            lambda held: states.judged(
                held,
                minimum=minimum,
                keep_candidate=verdict.keep_candidate,
                may_advance=verdict.advance,
            )
        )
    if record.state is State.CHECKING and offer is not None:
        slot = _slot_of(offer)
        record = file.step(lambda held: states.download_begins(held, slot))
        logger.info("releases: %s is fetched", slot.release)
    record = file.step(lambda held: states.check_ends(held, why))
    if record.state is State.DOWNLOADING:
        record = _download(file, updater, offer, record)
    if record.state is State.VERIFIED:
        record = _examine(file, preflight)
    updater.discard_others(states.needed_releases(record))
    return record


def held_of(record: Record) -> Held:
    """What the rules of the updater ask about the vehicle."""
    # What is still being fetched may be offered once more: that is how a download goes on.
    fetched = record.state is not State.DOWNLOADING
    return Held(
        committed=_ref(record.committed),
        candidate=_ref(record.candidate) if fetched else None,
        floor=record.floor,
        quarantined=frozenset(entry.release for entry in record.quarantined),
        quarantined_files=frozenset(
            digest for entry in record.quarantined for digest in entry.models
        ),
    )


def _ref(slot: Slot | None) -> ReleaseRef | None:
    return None if slot is None else ReleaseRef(slot.release, slot.counter)


def _slot_of(offer: Offer) -> Slot:
    return Slot(
        release=offer.ref.release, counter=offer.ref.counter, models=tuple(_models(offer).values())
    )


def _models(offer: Offer) -> Mapping[str, str]:
    """SHA-256 of each model file."""
    names = [one.file_name for one in Variant if one.file_name in offer.targets]
    return {name: offer.targets[name].hashes["sha256"] for name in names}


def _download(
    file: UpdateFile, updater: ReleaseUpdater, offer: Offer | None, record: Record
) -> Record:
    if offer is None or record.candidate is None or offer.ref != _ref(record.candidate):
        return file.step(
            lambda held: states.preparing_failed(held, "no longer offered", of_release=False)
        )
    names = [*_models(offer), *([GOLDEN_FILE] if GOLDEN_FILE in offer.targets else [])]
    try:
        updater.download(offer, names)
    except RepositoryDownError as error:
        logger.warning("releases: %s", error)
        return record  # the next check goes on with what came
    except (ReleaseRefusedError, ReleaseStoreError) as error:
        # Altered bytes are the sender's fault, not the release's: its hash says what it is.
        why = str(error)
        logger.warning("releases: %s", why)
        return file.step(lambda held: states.preparing_failed(held, why, of_release=False))
    return file.step(states.downloaded)


def _examine(file: UpdateFile, config: PreflightConfig) -> Record:
    """PREFLIGHT without TensorRT; COMPILING with it, where there is one; the better one is chosen."""
    record = file.step(states.preflight_begins)
    if record.candidate is None or record.state is not State.PREFLIGHT:
        return record
    folder = release_folder(file.folder, record.candidate.release)
    quick, slow = _split(config)
    report = None
    if quick is not None:
        report = examine_release(folder, quick)
        if problems(report.findings[:-1]):  # the last says whether anything may drive
            return _refused(file, report)
    if slow is not None:
        file.step(states.compile_begins)
        engines = file.folder / ENGINES_FOLDER
        engines.mkdir(exist_ok=True)
        built = examine_release(folder, slow, engine_cache=engines)
        first = config.providers[0] == Provider.TENSORRT.value
        report = built if report is None or (built.passed and first) else report
        if not report.passed and built.passed:
            report = built
    if report is None or report.choice is None:
        return _refused(file, report)
    choice = report.choice
    logger.info("releases: preflight chose %s on %s", choice.variant.value, choice.provider.value)
    return file.step(
        lambda held: states.preflight_passed(held, choice.variant.value, choice.provider.value)
    )


def _split(config: PreflightConfig) -> tuple[PreflightConfig | None, PreflightConfig | None]:
    """What is tried at once, and what builds engines first; None: nothing is."""
    tensorrt: ProviderName = "tensorrt"
    quick = tuple(name for name in config.providers if name != tensorrt)
    slow = tuple(name for name in config.providers if name == tensorrt)
    there = Provider.TENSORRT.onnxruntime_name in onnxruntime.get_available_providers()
    builds = slow and (there or not quick)
    return (
        replace(config, providers=quick) if quick else None,
        replace(config, providers=slow) if builds else None,
    )


def _refused(file: UpdateFile, report: PreflightReport | None) -> Record:
    found = problems(report.findings) if report is not None else []
    why = "; ".join(f"{one.subject}: {one.message}" for one in found) or "no provider is configured"
    logger.warning("releases: preflight refused: %s", why)
    return file.step(lambda held: states.preparing_failed(held, why, of_release=True))
