"""The states of a release on a vehicle: what drives, whatever happens in whatever order."""

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from convoy_edge_client.errors import ReleaseStoreError
from convoy_edge_client.releases.choice import Held, ReleaseRef
from convoy_edge_client.updates import states
from convoy_edge_client.updates.states import Record, Slot, State, driven, ways
from convoy_edge_client.updates.update_file import (
    UPDATE_FILE,
    UpdateFile,
    parse_record,
    record_bytes,
)
from convoy_protos.errors import MalformedMessageError

OLD = Slot(release="spring", counter=1, models=("a" * 64,), variant="fp32", provider="cpu")
NEW = Slot(release="summer", counter=2, models=("b" * 64,))
CHOSEN = replace(NEW, variant="int8-cpu", provider="cpu")


def at(state, record=None):
    """A record on the usual way, as far as this state."""
    record = record or Record(committed=OLD, state=State.COMMITTED, floor=1)
    steps = [
        (State.CHECKING, states.check_begins),
        (State.DOWNLOADING, lambda r: states.download_begins(r, NEW)),
        (State.VERIFIED, states.downloaded),
        (State.PREFLIGHT, states.preflight_begins),
        (State.COMPILING, states.compile_begins),
        (State.SHADOW, lambda r: states.preflight_passed(r, "int8-cpu", "cpu")),
        (State.READY, lambda r: states.shadow_passed(r, "summer")),
        (State.TRIAL, lambda r: states.trial_begins(r, "summer")),
        (State.COMMITTED, lambda r: states.trial_passed(r, "summer")),
    ]
    for name, step in steps:
        record = step(record)
        assert record.state is name
        if name is state:
            return record
    raise AssertionError(state)


def test_the_usual_way_commits_and_keeps_what_drove_before():
    record = at(State.COMMITTED)
    assert driven(record) == CHOSEN
    assert (record.previous, record.floor, record.candidate) == (OLD, 2, None)
    assert [report.outcome for report in record.reports] == ["started", "committed"]


def test_only_a_trial_drives_the_candidate():
    for state in (State.DOWNLOADING, State.PREFLIGHT, State.SHADOW, State.READY):
        assert driven(at(state)) == OLD
    assert driven(at(State.TRIAL)) == CHOSEN


def test_after_two_starts_in_trial_what_drove_before_drives():
    record = at(State.TRIAL)
    for _ in range(2):
        record = states.started(record)
        assert driven(record) == CHOSEN
    record = states.started(record)
    assert driven(record) == OLD
    assert record.state is State.QUARANTINED
    assert record.reports[-1].outcome == "rolled_back"


def test_a_committed_model_that_ends_every_start_gives_way_to_the_previous_then_to_the_factory():
    record = at(State.COMMITTED)
    drove = []
    for _ in range(7):
        record = states.started(record)
        drove.append(driven(record).release if driven(record) else "factory")
    assert drove == ["summer"] * 2 + ["spring"] * 3 + ["factory"] * 2


def test_starts_are_forgiven_once_it_drove_well():
    record = at(State.COMMITTED)
    for _ in range(10):
        record = states.drives_well(states.started(record))
    assert driven(record) == CHOSEN


def test_a_vehicle_that_is_switched_off_in_order_blames_nobody():
    record = at(State.TRIAL)
    for _ in range(10):
        record = states.ended(states.started(record))
    assert driven(record) == CHOSEN


def test_hard_ends_while_a_candidate_waits_are_forgiven_once_it_drove_well():
    record = at(State.READY)
    for _ in range(10):
        record = states.drives_well(states.started(record))
    assert record.state is State.READY


def test_a_missing_previous_leaves_the_factory():
    record = states.unusable(at(State.COMMITTED), OLD, "its file is gone")
    assert list(ways(record)) == [CHOSEN, None]
    record = states.unusable(record, CHOSEN, "its file is damaged")
    assert driven(record) is None
    assert record.first_failure == "its file is gone"


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (State.DOWNLOADING, State.FAILED),
        (State.SHADOW, State.FAILED),
        (State.READY, State.FAILED),
        (State.TRIAL, State.ROLLED_BACK),
    ],
)
def test_withdrawn_leaves_the_candidate_and_blames_nobody(state, expected):
    record = states.judged(at(state), minimum=1, keep_candidate=False, may_advance=True)
    assert (record.state, record.quarantined, driven(record)) == (expected, (), OLD)


def test_a_percentage_that_goes_down_takes_nothing_away():
    record = at(State.TRIAL)
    assert states.judged(record, minimum=1, keep_candidate=True, may_advance=True) == record


def test_a_paused_rollout_does_not_begin_to_drive():
    paused = states.judged(at(State.READY), minimum=1, keep_candidate=True, may_advance=False)
    assert states.trial_begins(paused, "summer").state is State.READY


def test_a_higher_minimum_sends_back_what_is_committed():
    record = states.judged(at(State.COMMITTED), minimum=2, keep_candidate=True, may_advance=True)
    assert (driven(record), record.previous) == (CHOSEN, None)
    record = states.judged(record, minimum=3, keep_candidate=True, may_advance=True)
    assert driven(record) is None


def test_a_release_that_failed_is_known_by_name_and_by_content():
    record = states.candidate_failed(at(State.TRIAL), "summer", "answered NaN")
    (entry,) = record.quarantined
    assert (entry.release, entry.models) == ("summer", NEW.models)


def test_the_link_is_not_the_release_s_fault():
    record = states.preparing_failed(at(State.DOWNLOADING), "no link", of_release=False)
    assert (record.state, record.quarantined) == (State.FAILED, ())


def test_the_first_failure_is_kept():
    record = states.candidate_failed(at(State.TRIAL), "summer", "answered NaN")
    record = states.unusable(record, OLD, "its file is gone")
    assert record.first_failure == "answered NaN"
    assert driven(record) is None


def test_an_examination_that_ends_the_process_three_times_is_the_release_s_fault():
    record = at(State.PREFLIGHT)
    for _ in range(2):
        record = states.preflight_begins(states.preparing_started(record))
        assert record.state is State.PREFLIGHT
    record = states.preparing_started(record)
    assert record.state is State.QUARANTINED


def test_the_operator_leaves_a_trial_then_what_was_committed():
    record = states.sent_back(at(State.TRIAL), "operator")
    assert driven(record) == OLD
    record = states.sent_back(record, "operator")
    assert driven(record) is None


def test_a_step_about_another_release_changes_nothing():
    record = at(State.TRIAL)
    assert states.candidate_failed(record, "autumn", "late") == record
    assert states.trial_passed(record, "autumn") == record


def test_reasons_are_one_short_printable_line():
    record = states.candidate_failed(at(State.TRIAL), "summer", "a\nb\x00" + "ü" * 1000)
    assert len(record.reason.encode()) <= 500
    assert record.reason.isprintable()


@pytest.mark.parametrize(
    "state", [s for s in State if s in (*states.PREPARING, *states.WITH_DRIVER)]
)
def test_a_record_reads_as_it_was_written(state):
    record = at(state)
    assert parse_record(record_bytes(record)) == record


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        b'{"schema": "convoy.update/1", "state": "driving"}',
        b"\x00" * 50,
        record_bytes(at(State.TRIAL))[:-40],
        record_bytes(at(State.TRIAL)).replace(b'"trial"', b'"idle"'),
    ],
)
def test_what_is_no_record_is_refused_and_costs_no_drive(tmp_path, text):
    with pytest.raises(MalformedMessageError):
        parse_record(text)
    (tmp_path / UPDATE_FILE).write_bytes(text)
    file = UpdateFile(tmp_path)
    assert driven(file.read()) is None
    file.step(states.check_begins)
    assert file.read().state is State.CHECKING
    assert (tmp_path / "update.damaged").read_bytes() == text


def test_a_folder_that_cannot_be_written_refuses_the_step(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ReleaseStoreError, match="mend the disk"):
        UpdateFile(tmp_path / "file").step(states.check_begins)


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from edge_client.updates.test_states import at, OLD, CHOSEN, NEW
from convoy_edge_client.updates import states
from convoy_edge_client.updates.states import Record, State
from convoy_edge_client.updates.update_file import UpdateFile
import convoy_privacy.key_files as files

at_call = int(sys.argv[2])
calls = 0
def deadly(name, module):
    real = getattr(module, name)
    def call(*given, **named):
        global calls
        calls += 1
        if calls == at_call:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*given, **named)
    setattr(module, name, call)
deadly("fsync", os); deadly("open", os); deadly("close", os); deadly("replace", os)
import pathlib
real_replace = pathlib.Path.replace
def replace_path(self, target):
    global calls
    calls += 1
    if calls == at_call:
        os.kill(os.getpid(), signal.SIGKILL)
    return real_replace(self, target)
pathlib.Path.replace = replace_path
file = UpdateFile(Path(sys.argv[1]))
for step in (
    states.check_begins, lambda r: states.download_begins(r, NEW), states.downloaded,
    states.preflight_begins, states.compile_begins,
    lambda r: states.preflight_passed(r, "int8-cpu", "cpu"),
    lambda r: states.shadow_passed(r, "summer"), lambda r: states.trial_begins(r, "summer"),
    lambda r: states.trial_passed(r, "summer"),
):
    state = file.step(step).state
    print(state.value, flush=True)
"""
WAY = ["committed", "checking", "downloading", "verified", "preflight", "compiling", "shadow"]
WAY += ["ready", "trial", "committed"]


@pytest.mark.slow
def test_a_kill_at_every_write_leaves_the_state_before_or_after(tmp_path):
    """Each of the nine steps makes five system calls or more; every one of them is the last once."""
    source = KILLED.replace(
        "from edge_client.updates.test_states import", "from test_states import"
    )
    for at_call in range(1, 200):
        folder = tmp_path / str(at_call)
        UpdateFile(folder).step(lambda _: Record(committed=OLD, state=State.COMMITTED, floor=1))
        process = subprocess.run(
            [sys.executable, "-c", source, folder, str(at_call), Path(__file__).parent],
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        said = ["committed", *process.stdout.split()]
        found = UpdateFile(folder).read().state.value
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
        assert found in WAY[len(said) - 1 : len(said) + 1], (at_call, said)
        assert not (folder / "update.damaged").exists()
    assert at_call > 9 * 4
    assert process.returncode == 0


class Vehicle(RuleBasedStateMachine):
    """Any order of what two processes, the server and the operator may do, with kills in between."""

    def __init__(self):
        super().__init__()
        self.record = Record()
        self.count = 0
        self.failed = set()

    def do(self, step):
        # what a kill and a start leave is what was on the disk
        self.record = parse_record(record_bytes(step(self.record)))

    @rule(names_again=st.booleans())
    def offer(self, names_again):
        self.do(states.check_begins)
        if self.record.state is not State.CHECKING:
            return
        self.count += 1
        models = (f"{self.count:064x}",)
        if names_again and self.failed:
            models = (min(self.failed),)
        slot = Slot(release=f"r{self.count}", counter=self.count, models=models)
        held = held_files(self.record)
        if held & set(models):
            self.do(lambda r: states.check_ends(r, "failed here"))
        else:
            self.do(lambda r: states.download_begins(r, slot))

    @rule(step=st.sampled_from([states.downloaded, states.preflight_begins, states.compile_begins]))
    def prepare(self, step):
        self.do(step)

    @rule()
    def pass_preflight(self):
        self.do(lambda r: states.preflight_passed(r, "fp32", "cpu"))

    @rule(of_release=st.booleans())
    def fail_preparing(self, of_release):
        if of_release and self.record.state in states.PREPARING:
            self.failed |= set(self.record.candidate.models)
        self.do(lambda r: states.preparing_failed(r, "bad", of_release=of_release))

    @rule(step=st.sampled_from([states.shadow_passed, states.trial_begins, states.trial_passed]))
    def advance(self, step):
        name = self.record.candidate.release if self.record.candidate else "none"
        self.do(lambda r: step(r, name))

    @rule()
    def fail(self):
        if self.record.state in states.WITH_DRIVER:
            candidate = self.record.candidate
            self.failed |= set(candidate.models)
            self.do(lambda r: states.candidate_failed(r, candidate.release, "NaN"))
            assert self.record.candidate is None

    @rule(
        step=st.sampled_from(
            [states.started, states.preparing_started, states.drives_well, states.ended]
        )
    )
    def start(self, step):
        self.do(step)

    @rule(keep=st.booleans(), advance=st.booleans(), minimum=st.integers(0, 5))
    def judge(self, keep, advance, minimum):
        self.do(
            lambda r: states.judged(r, minimum=minimum, keep_candidate=keep, may_advance=advance)
        )

    @rule()
    def send_back(self):
        self.do(lambda r: states.sent_back(r, "operator"))

    @rule()
    def lose_files(self):
        slot = driven(self.record)
        if slot is not None:
            self.do(lambda r: states.unusable(r, slot, "gone"))
            assert driven(self.record) != slot

    @invariant()
    def there_is_always_a_way_to_the_factory(self):
        assert list(ways(self.record))[-1] is None

    @invariant()
    def what_failed_never_drives_again(self):
        slot = self.record.candidate
        assert slot is None or not self.failed & set(slot.models)

    @invariant()
    def reports_are_numbered_upwards(self):
        numbers = [report.number for report in self.record.reports]
        assert numbers == sorted(set(numbers))
        assert not numbers or numbers[-1] == self.record.last_number


def held_files(record):
    """As preparing.py hands them to the updater."""
    return {digest for entry in record.quarantined for digest in entry.models}


TestVehicle = Vehicle.TestCase


def test_held_is_made_of_the_record():
    from convoy_edge_client.updates.preparing import held_of  # noqa: PLC0415

    record = states.candidate_failed(at(State.TRIAL), "summer", "NaN")
    assert held_of(record) == Held(
        committed=ReleaseRef("spring", 1),
        floor=1,
        quarantined=frozenset({"summer"}),
        quarantined_files=frozenset(NEW.models),
    )
