"""A run on disk: what may change between two starts, and what may not."""

import json

import pytest
from fleet_double import fleet_grid, small_run

from convoy_protos.errors import JobFailedError, UsageError
from convoy_server.app import run_federation
from convoy_server.run_directory import list_changes


def test_changes_are_named_with_section_before_and_after():
    before = {"seed": 1, "round": {"rounds": 3, "quorum": 2}, "privacy": {}}
    after = {"seed": 1, "round": {"rounds": 5, "quorum": 2}, "privacy": {"clip_norm": 0.5}}
    assert list_changes(before, after) == [
        "[privacy] clip_norm: not set -> 0.5",
        "[round] rounds: 3 -> 5",
    ]
    assert list_changes(before, before) == []


@pytest.fixture
def run_dir(tmp_path):
    run(tmp_path)
    return tmp_path


def run(out, resume=False):
    with fleet_grid(vehicles=2) as grid:
        return run_federation(grid, small_run(), out, resume=resume)


@pytest.mark.parametrize(
    "edit",
    [
        lambda lines: lines[1:],
        lambda lines: lines[:1],
        lambda lines: [lines[0].replace('"round": 1', '"round": 4'), *lines[1:]],
        lambda lines: ["not JSON\n", *lines[1:]],
    ],
)
def test_lost_or_edited_rounds_are_not_resumed_over(run_dir, edit):
    path = run_dir / "rounds.jsonl"
    path.write_text("".join(edit(path.read_text().splitlines(keepends=True))))
    with pytest.raises(UsageError, match=r"rounds\.jsonl"):
        run(run_dir, resume=True)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: (path / "model.safetensors").write_bytes(b"garbage"),
        lambda path: (path / "model.safetensors").unlink(),
        lambda path: (path / "state.json").write_text("{"),
        lambda path: (path / "state.json").write_text('{"schema": "other/1"}'),
    ],
)
def test_a_damaged_checkpoint_is_one_clear_error(run_dir, damage):
    (path,) = (run_dir / "checkpoint").glob("round-*")
    damage(path)
    with pytest.raises((JobFailedError, UsageError), match="round-000003"):
        run(run_dir, resume=True)


def test_one_checkpoint_is_kept(run_dir):
    names = sorted(path.name for path in (run_dir / "checkpoint").iterdir())
    assert names == ["audit_head.json", "latest", "round-000003"]
    state = json.loads((run_dir / "checkpoint/round-000003/state.json").read_text())
    assert (state["round"], state["snapshots"]) == (3, 2)
