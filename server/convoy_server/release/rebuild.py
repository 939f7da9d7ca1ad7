"""The release of a finished run, from its checkpoint and what is known from when it was first made."""

from collections.abc import Sequence
from pathlib import Path

from convoy_protos.errors import UsageError
from convoy_server.errors import NotReleasableError
from convoy_server.release.build import ReleaseOutcome, build_release
from convoy_server.release.candidate import Drive, Progress
from convoy_server.release.finished_run import load_finished_run
from convoy_server.release.known_answers import KnownAnswers, load_answers
from convoy_server.release.manifest import sha256
from convoy_server.release.proxy import load_proxy


def rebuild_release(
    directory: Path,
    out: Path,
    proxy: Sequence[Path],
    cache_dir: Path,
    *,
    release_id: str = "",
    counter: int = 0,
    on_progress: Progress | None = None,
) -> ReleaseOutcome:
    """Make it.

    Args:
        directory: Of the run.
        out: Gets release/ or release.refused/.
        proxy: Recordings that the server may see; empty: those of the release before, or of [release].
        cache_dir: Of decoded frames.
        release_id: See `build_release`.
        counter: See `build_release`.
        on_progress: See `build_release`.

    Raises:
        UsageError: The run is not finished, or there are no proxy recordings.
        RecordingError: A proxy path is no recording or holds nothing usable.
        StorageError: `out` cannot be written.
    """
    run_id, run, result = load_finished_run(directory)
    answers = load_answers(directory)
    recordings = list(proxy) or [Path(path) for path in answers.recordings or run.release.proxy]
    missing = [path for path in recordings if not path.exists()]
    if missing or not recordings:
        found = f"{missing[0]} is not there" if missing else "the run names none"
        raise UsageError(f"{directory}: proxy recordings: {found}; name some with --proxy")
    return build_release(
        run=run,
        result=result,
        proxy=load_proxy(recordings, run.data, cache_dir),
        out=out,
        run_id=run_id,
        release_id=release_id,
        counter=counter,
        closed_loop_score=driven_before(answers),
        recordings=recordings,
        answers_from=directory,
        on_progress=on_progress,
    )


def driven_before(answers: KnownAnswers) -> Drive | None:
    """What a file drove when it was first made; None where no file of the run ever drove."""
    if not answers.closed_loop:
        return None

    def score_of(model: Path) -> float:
        score = answers.closed_loop.get(sha256(model.read_bytes()))
        if score is None:
            raise NotReleasableError(
                "the int8 file is not the one that drove in closed loop when the run was released: "
                "take the same proxy recordings, or drive with `convoy simulate ... --resume`"
            )
        return score

    return score_of
