"""Which secure sums with this vehicle's numbers have been opened, and over whom.

Two sums of the same numbers over different vehicles show, as their difference, who is in one of them
only; an update of an earlier round, trained again from the same model, is the same numbers. So a
vehicle remembers for every run the last round of which a sum was opened: it goes back to no earlier
one, and in that round it joins only sums over the same vehicles. A server that was killed may repeat
its last round, no other.
"""

from dataclasses import dataclass, replace
from typing import Any, Final

from flwr.app import ConfigRecord, RecordDict

from convoy_edge_client.errors import RefusedInstructionsError
from convoy_edge_client.local_update import LocalScores, Waiting

_OPENED: Final = "convoy.opened"
_RUNS_REMEMBERED: Final = 1024
"""Each took a sum with enough other vehicles to be remembered: a server does not get there by asking."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opened:
    """The last round of a run of which a sum was opened.

    Attributes:
        run_id: Of the run.
        round_number: Of the round.
        update_members: Digest of whose updates were summed; empty where no such sum was opened.
        score_members: The same of scores.
    """

    run_id: str
    round_number: int
    update_members: bytes = b""
    score_members: bytes = b""


def check_not_earlier(run_id: str, round_number: int, state: RecordDict) -> None:
    """Refuse a round before the last one of the same run of which a sum was opened.

    Raises:
        RefusedInstructionsError: Names both rounds and the way out.
    """
    last = _read(state).get(run_id)
    if last is not None and round_number < last.round_number:
        raise RefusedInstructionsError(
            f"round {round_number} of run {run_id}: a sum of its round {last.round_number} has been "
            "opened here, and this vehicle does not go back; a server that lost its last rounds "
            "begins another run"
        )


def opened_members(waiting: Waiting, state: RecordDict) -> bytes:
    """Digest of the members of a sum of these numbers that has been opened; empty where none has."""
    last = _read(state).get(waiting.run_id)
    if last is None or last.round_number != waiting.round_number:
        return b""
    return last.score_members if isinstance(waiting, LocalScores) else last.update_members


def note_opened(waiting: Waiting, members: bytes, state: RecordDict) -> None:
    """Remember over whom a sum of these numbers is opened; do this before the reply goes."""
    runs = _read(state)
    last = runs.pop(waiting.run_id, None)
    if last is None or last.round_number != waiting.round_number:
        last = _Opened(run_id=waiting.run_id, round_number=waiting.round_number)
    if isinstance(waiting, LocalScores):
        last = replace(last, score_members=members)
    else:
        last = replace(last, update_members=members)
    newest = [*runs.values(), last][-_RUNS_REMEMBERED:]
    state[_OPENED] = ConfigRecord(
        {
            "runs": [one.run_id for one in newest],
            "rounds": [one.round_number for one in newest],
            "updates": [one.update_members for one in newest],
            "scores": [one.score_members for one in newest],
        }
    )


def _read(state: RecordDict) -> dict[str, _Opened]:
    """By run, the one that was noted last at the end."""
    record = state.get(_OPENED)
    if not isinstance(record, ConfigRecord):
        return {}
    # Only `note_opened` writes this record, so every value is of the type that it wrote.
    columns: dict[str, Any] = dict(record)
    rows = zip(
        columns["runs"], columns["rounds"], columns["updates"], columns["scores"], strict=True
    )
    return {
        run_id: _Opened(
            run_id=run_id, round_number=number, update_members=updates, score_members=scores
        )
        for run_id, number, updates, scores in rows
    }
