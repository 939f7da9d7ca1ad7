"""What a mask helper remembers of its answers, so that no two of them can be subtracted.

One request for each set of terms, one set of vehicles for each update: sums of the same round over
other vehicles would show, as their difference, who is in one of them only. A vehicle keeps the update
of its last round, and so does a helper the answers of a run's last round.
"""

from collections.abc import Sequence

from convoy_privacy.errors import BadRosterError, OutOfOrderError
from convoy_privacy.secure_sum.terms import Terms
from convoy_protos.v1.secure_sum_pb2 import AnsweredRun, AnsweredSum, HelperMemory


def check_answerable(
    memory: HelperMemory, terms: Terms, request_digest: bytes, vehicles: Sequence[str]
) -> None:
    """Refuse what, with an answer that was given, would show a few vehicles' masks.

    Args:
        memory: Of the answers so far.
        terms: Of the sum.
        request_digest: SHA-256 of the request.
        vehicles: Whose masks are asked for.

    Raises:
        OutOfOrderError: Another request for these terms, or one of a later round, has been answered.
        BadRosterError: Some of the vehicles are in an answered sum of this round, with others.
    """
    run = _run_of(memory, terms.fields.run_id)
    if run is None:
        return
    for one in run.sums:
        if one.terms_digest == terms.digest and one.request_digest != request_digest:
            raise OutOfOrderError("another request for these terms has been answered")
    if terms.fields.round < run.round:
        raise OutOfOrderError(f"round {terms.fields.round} of this run after round {run.round}")
    if terms.fields.round > run.round:
        return
    for one in run.sums:
        both = set(one.vehicles) & set(vehicles)
        if both and set(one.vehicles) != set(vehicles):
            raise BadRosterError(
                "a second sum of the same updates is over other vehicles: the difference would show one"
            )


def with_answer(
    memory: HelperMemory, terms: Terms, request_digest: bytes, vehicles: Sequence[str]
) -> HelperMemory:
    """The memory with one more answer; that of the run's earlier rounds is dropped."""
    after = HelperMemory.FromString(memory.SerializeToString())
    run = _run_of(after, terms.fields.run_id)
    if run is None:
        run = after.runs.add(run_id=terms.fields.run_id)
    if run.round < terms.fields.round:
        run.round = terms.fields.round
        del run.sums[:]
    if all(one.terms_digest != terms.digest for one in run.sums):
        run.sums.append(
            AnsweredSum(terms_digest=terms.digest, request_digest=request_digest, vehicles=vehicles)
        )
    return after


def _run_of(memory: HelperMemory, run_id: str) -> AnsweredRun | None:
    return next((run for run in memory.runs if run.run_id == run_id), None)
