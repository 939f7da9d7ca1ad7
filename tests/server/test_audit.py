"""The audit log: whoever changes one byte of it, or of what it vouches for, is found."""

import json
from datetime import UTC, datetime

import pytest
from fleet_double import fleet_grid, small_run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convoy_server.app import run_federation
from convoy_server.audit import open_audit, verify_audit
from convoy_server.errors import BrokenAuditError

WATCHED = ("audit.jsonl", "checkpoint/audit_head.json", "rounds.jsonl", "model.safetensors")


def clock():
    return datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The watched files of a finished run of four rounds."""
    out = tmp_path_factory.mktemp("finished")
    with fleet_grid({"car1": "nan"}) as grid:
        run_federation(grid, small_run(rounds=4, quorum=1), out, resume=False)
    return {name: (out / name).read_bytes() for name in WATCHED}


@pytest.fixture
def run_dir(tmp_path, finished):
    """A fresh copy of it."""
    lay_out(tmp_path, finished)
    return tmp_path


def lay_out(directory, files):
    (directory / "checkpoint").mkdir(exist_ok=True)
    for name, data in files.items():
        (directory / name).write_bytes(data)


def fault_of(directory):
    with pytest.raises(BrokenAuditError) as error:
        verify_audit(directory)
    return error.value


def test_an_untouched_log_verifies(run_dir):
    assert verify_audit(run_dir) == 6  # started, four rounds, finished


def test_the_first_line_is_pinned(tmp_path):
    """Another form would be another format: logs of older runs would not verify."""
    (tmp_path / "checkpoint").mkdir()
    open_audit(tmp_path, clock).append({"kind": "started", "run_id": "é"})
    assert (tmp_path / "audit.jsonl").read_text() == (
        '{"event":{"kind":"started","run_id":"\\u00e9"},"number":1,'
        '"previous":"0000000000000000000000000000000000000000000000000000000000000000",'
        '"sha256":"b9a99f96f0f6e41cdc317cb5e06e67553e6cf61fea20a0d57418b70d292995d8",'
        '"time":"2026-01-02T03:04:05Z"}\n'
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", WATCHED)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(data=st.data())
def test_any_changed_byte_is_found(run_dir, finished, name, data):
    original = finished[name]
    position = data.draw(st.integers(0, len(original) - 1))
    change = data.draw(st.integers(1, 255))
    changed = bytearray(original)
    changed[position] ^= change
    lay_out(run_dir, finished)
    (run_dir / name).write_bytes(changed)
    fault_of(run_dir)


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_edit_of_whole_lines_is_found_at_the_first_bad_line(run_dir, finished, data):
    lines = finished["audit.jsonl"].decode().splitlines(keepends=True)
    edited = list(lines)
    first = data.draw(st.integers(0, len(lines) - 1))
    second = data.draw(st.integers(0, len(lines) - 1))
    kind = data.draw(st.sampled_from(["delete", "repeat", "swap", "cut"]))
    if kind == "delete":
        del edited[first]
    elif kind == "repeat":
        edited.insert(second, edited[first])
    elif kind == "swap":
        edited[first], edited[second] = edited[second], edited[first]
    else:
        edited = edited[:first]
    if edited == lines:
        return
    lay_out(run_dir, finished)
    (run_dir / "audit.jsonl").write_text("".join(edited))
    error = fault_of(run_dir)
    same = [one == other for one, other in zip(lines, edited, strict=False)]
    assert error.line == (same.index(False) if False in same else len(same)) + 1


def test_the_message_names_file_line_and_fault(run_dir):
    path = run_dir / "audit.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines).replace('"round":2', '"round":9', 1))
    assert str(fault_of(run_dir)) == (f"{path}:3: edited: the line does not have its own SHA-256")


def test_a_cut_end_is_told_from_an_edit(run_dir):
    path = run_dir / "audit.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-2]))
    assert "6 lines were written, 4 are left" in fault_of(run_dir).fault


def test_a_line_of_rounds_is_vouched_for(run_dir):
    path = run_dir / "rounds.jsonl"
    path.write_text(path.read_text().replace('"completed": 3', '"completed": 4', 1))
    error = fault_of(run_dir)
    assert (error.line, "rounds.jsonl" in str(error)) == (1, True)


@pytest.mark.parametrize("change", [lambda lines: lines[:-1], lambda lines: [*lines, lines[-1]]])
def test_missing_and_added_lines_of_rounds_are_found(run_dir, change):
    path = run_dir / "rounds.jsonl"
    path.write_text("".join(change(path.read_text().splitlines(keepends=True))))
    fault_of(run_dir)


def test_a_missing_log_is_not_a_clean_one(tmp_path):
    assert "missing" in fault_of(tmp_path).fault


def test_a_missing_head_is_found(run_dir):
    (run_dir / "checkpoint/audit_head.json").unlink()
    assert "audit_head.json" in fault_of(run_dir).fault


def test_a_rewritten_history_does_not_match_the_head(run_dir):
    path, head = run_dir / "audit.jsonl", run_dir / "checkpoint/audit_head.json"
    kept = head.read_bytes()
    path.unlink()
    head.unlink()
    log = open_audit(run_dir, clock)
    for number in range(6):
        log.append({"kind": "forged", "number": number})
    head.write_bytes(kept)
    assert fault_of(run_dir).line == 6


@pytest.mark.slow
def test_a_line_that_a_crash_prevented_is_added_when_the_log_is_opened(tmp_path):
    (tmp_path / "checkpoint").mkdir()
    log = open_audit(tmp_path, clock)
    for number in range(3):
        log.append({"number": number})
    path = tmp_path / "audit.jsonl"
    whole = path.read_bytes()
    last = whole[:-1].rfind(b"\n") + 1
    for length in range(last, len(whole) + 1):
        path.write_bytes(whole[:length])
        open_audit(tmp_path, clock)
        assert path.read_bytes() == whole


def test_an_edited_log_is_not_written_on(run_dir):
    path = run_dir / "audit.jsonl"
    path.write_bytes(path.read_bytes().replace(b"car1", b"car9", 1))
    before = path.read_bytes()
    with pytest.raises(BrokenAuditError):
        open_audit(run_dir, clock)
    assert path.read_bytes() == before


def test_the_log_holds_ids_counts_and_digests_only(finished):
    for line in finished["audit.jsonl"].splitlines():
        event = json.loads(line)["event"]
        assert set(event) <= {
            "kind", "run_id", "settings_sha256", "schema_sha256", "model_sha256", "round",
            "outcome", "cohort", "accepted", "rejected", "lost", "record_sha256", "file_sha256",
        }  # fmt: skip
