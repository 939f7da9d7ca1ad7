"""What a helper remembers: no two of its answers can be subtracted, and honest rounds go on."""

import hashlib
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_sum import make_terms

from convoy_privacy.errors import BadRosterError, OutOfOrderError, SecureSumError
from convoy_privacy.secure_sum.helper_memory import check_answerable, with_answer
from convoy_privacy.secure_sum.terms import parse_terms
from convoy_protos.v1.secure_sum_pb2 import HelperMemory


@dataclass(frozen=True)
class Asked:
    """One request."""

    run_id: str = "run"
    round: int = 5
    attempt: int = 1
    vehicles: tuple[str, ...] = ("car1", "car2", "car3")

    @property
    def terms(self):
        """Of the sum."""
        return parse_terms(make_terms(run_id=self.run_id, round=self.round, attempt=self.attempt))

    @property
    def digest(self):
        """Of the request."""
        return hashlib.sha256(repr(self).encode()).digest()


def answer(memory, asked):
    """The memory afterwards; raises where nothing is answered."""
    request = (asked.terms, asked.digest, asked.vehicles)
    check_answerable(memory, *request)
    return with_answer(memory, *request)


def after(*answered):
    memory = HelperMemory()
    for asked in answered:
        memory = answer(memory, asked)
    return memory


FIRST = Asked()


@pytest.mark.parametrize(
    "second",
    [
        FIRST,  # the reply was lost
        Asked(attempt=2),  # an overflow
        Asked(attempt=2, vehicles=("car7", "car8")),  # another shard
        Asked(round=6, vehicles=("car1", "car2")),  # another update
        Asked(run_id="another", round=1, vehicles=("car1", "car2")),
    ],
    ids=["repeated", "made again", "another shard", "next round", "another run"],
)
def test_an_honest_server_gets_its_answers(second):
    answer(after(FIRST), second)


@pytest.mark.parametrize(
    ("second", "error"),
    [
        (Asked(vehicles=("car1", "car2")), OutOfOrderError),  # a smaller list
        (Asked(vehicles=("car1", "car2", "car3", "car4")), OutOfOrderError),
        (Asked(attempt=2, vehicles=("car1", "car2")), BadRosterError),  # one vehicle less
        (Asked(attempt=2, vehicles=("car1", "car2", "car3", "car4")), BadRosterError),
        (Asked(attempt=2, vehicles=("car3", "car4")), BadRosterError),
        (Asked(round=4), OutOfOrderError),  # kept back until it is forgotten
    ],
)
def test_what_could_be_subtracted_is_refused(second, error):
    with pytest.raises(error):
        answer(after(FIRST), second)


def test_a_round_that_is_over_stays_closed():
    memory = after(FIRST, Asked(round=6))
    with pytest.raises(OutOfOrderError, match="round 5 of this run after round 6"):
        answer(memory, FIRST)


def test_memory_does_not_grow_with_the_rounds():
    few, many = after(FIRST), after(*(Asked(round=number) for number in range(5, 105)))
    assert len(many.SerializeToString()) == len(few.SerializeToString())


REQUESTS = st.builds(
    Asked,
    run_id=st.sampled_from(["a", "b"]),
    round=st.integers(1, 3),
    attempt=st.integers(1, 3),
    vehicles=st.sets(st.sampled_from(["v1", "v2", "v3", "v4"]), min_size=1).map(
        lambda names: tuple(sorted(names))
    ),
)


@given(st.lists(REQUESTS, max_size=12))
def test_whatever_is_asked_in_whatever_order_no_two_answers_differ_by_a_few(asked):
    memory, answered = HelperMemory(), []
    for one in asked:
        # As over a restart.
        memory = HelperMemory.FromString(memory.SerializeToString())
        try:
            memory = answer(memory, one)
        except SecureSumError:
            continue
        answered.append(one)
    for one in answered:
        for other in answered:
            if (one.run_id, one.round) == (other.run_id, other.round):
                common = set(one.vehicles) & set(other.vehicles)
                assert not common or one.vehicles == other.vehicles
                assert one.attempt != other.attempt or one.digest == other.digest
