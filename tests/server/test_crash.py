"""The server dies at every single write; whoever resumes must not be able to tell."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
from fleet_double import fleet_grid, small_run

from convoy_server.app import run_federation
from convoy_server.audit import verify_audit
from convoy_server.checkpoint import load_checkpoint
from convoy_server.errors import StorageError

SETTINGS = {"rounds": 2, "averaged_rounds": 2}
FAULTS = {"car1": "nan"}


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the server may catch it."""


def run_once(out, *, resume=False):
    with fleet_grid(FAULTS, vehicles=3) as grid:
        return run_federation(grid, small_run(quorum=1, **SETTINGS), out, resume=resume)


def outcome(out):
    """What must not depend on crashes."""
    records = [json.loads(line) for line in (out / "rounds.jsonl").read_text().splitlines()]
    for record in records:
        del record["wall_s"]
    return (out / "model.safetensors").read_bytes(), records


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    run_once(out)
    return outcome(out)


class Disk:
    """Counts what reaches the disk through convoy_server.storage and fails at one point."""

    def __init__(self, monkeypatch, fail_at, failure):
        self.calls = 0
        self._fail_at = fail_at
        self._failure = failure
        sync, replace, open_, rmtree = os.fsync, Path.replace, Path.open, shutil.rmtree
        monkeypatch.setattr(os, "fsync", lambda fd: self._count(lambda: sync(fd)))
        monkeypatch.setattr(
            Path, "replace", lambda path, target: self._count(lambda: replace(path, target))
        )
        monkeypatch.setattr(shutil, "rmtree", lambda path: self._count(lambda: rmtree(path)))

        def open_counted(path, mode="r", *args, **kwargs):
            if "b" in mode and "r" not in mode:
                return self._count(lambda: open_(path, mode, *args, **kwargs))
            return open_(path, mode, *args, **kwargs)

        monkeypatch.setattr(Path, "open", open_counted)

    def _count(self, act):
        self.calls += 1
        if self.calls == self._fail_at:
            raise self._failure
        return act()


def disk_calls(monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        disk = Disk(patch, 0, Killed())
        run_once(tmp_path / "counted")
        return disk.calls


@pytest.mark.slow
def test_a_server_killed_at_any_write_resumes_to_the_same_bytes(tmp_path, monkeypatch, undisturbed):
    calls = disk_calls(monkeypatch, tmp_path)
    assert calls > 60
    for fail_at in range(1, calls + 1):
        out = tmp_path / str(fail_at)
        with monkeypatch.context() as patch:
            Disk(patch, fail_at, Killed())
            with pytest.raises(Killed):
                run_once(out)
        run_once(out, resume=True)
        assert outcome(out) == undisturbed, f"killed at write {fail_at}"
        verify_audit(out)
        leftovers = [path for path in out.rglob("*") if path.name.startswith(".unfinished")]
        assert not leftovers, f"killed at write {fail_at}"


@pytest.mark.slow
def test_a_full_disk_at_any_write_is_one_clear_error_and_costs_one_round_at_most(
    tmp_path, monkeypatch, undisturbed
):
    calls = disk_calls(monkeypatch, tmp_path)
    for fail_at in range(1, calls + 1, 5):
        out = tmp_path / str(fail_at)
        with monkeypatch.context() as patch:
            Disk(patch, fail_at, OSError(errno.ENOSPC, "No space left on device"))
            with pytest.raises(StorageError, match=r"No space left on device.*--resume") as error:
                run_once(out)
        assert str(error.value.path).startswith(str(out))
        load_checkpoint(out / "checkpoint")
        run_once(out, resume=True)
        assert outcome(out) == undisturbed, f"full at write {fail_at}"
        verify_audit(out)


@pytest.mark.slow
def test_a_line_torn_anywhere_is_mended(tmp_path, undisturbed):
    """What a crash leaves of the last line: any prefix of it."""
    run_once(tmp_path)
    whole = {name: (tmp_path / name).read_bytes() for name in ("rounds.jsonl", "audit.jsonl")}
    for name, data in whole.items():
        last = data[:-1].rfind(b"\n") + 1
        for length in range(last, len(data), max(1, (len(data) - last) // 12)):
            for other, content in whole.items():
                (tmp_path / other).write_bytes(content)
            # The head is written before the line, so it holds the whole line.
            head = tmp_path / "checkpoint/audit_head.json"
            head.write_bytes(whole["audit.jsonl"][whole["audit.jsonl"][:-1].rfind(b"\n") + 1 :])
            (tmp_path / name).write_bytes(data[:length])
            run_once(tmp_path, resume=True)
            assert outcome(tmp_path) == undisturbed
            verify_audit(tmp_path)
