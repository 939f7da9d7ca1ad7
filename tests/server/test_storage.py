"""Files that appear whole or not at all."""

import errno
import os
from pathlib import Path

import pytest

from convoy_server import storage
from convoy_server.errors import StorageError


def test_a_file_is_written_and_replaced(tmp_path):
    path = tmp_path / "a"
    storage.write_file(path, b"one")
    storage.write_file(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file_and_gives_its_room_back(tmp_path, monkeypatch):
    path = tmp_path / "a"
    storage.write_file(path, b"one")

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=f"{path}: No space left on device"):
        storage.write_file(path, b"two")
    assert path.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_directory_appears_with_everything_in_it(tmp_path):
    path = tmp_path / "a"

    def fill(folder):
        (folder / "x").write_text("1")
        assert not path.exists()

    storage.fill_directory(path, fill)
    assert (path / "x").read_text() == "1"


def test_a_directory_of_the_same_name_is_replaced_whole(tmp_path):
    path = tmp_path / "a"
    storage.fill_directory(path, lambda folder: (folder / "old").touch())
    storage.fill_directory(path, lambda folder: (folder / "new").touch())
    assert [file.name for file in path.iterdir()] == ["new"]


def test_lines_are_appended(tmp_path):
    path = tmp_path / "log"
    storage.append_line(path, "one")
    storage.append_line(path, "two")
    assert path.read_text() == "one\ntwo\n"


def test_files_reach_the_disk_before_they_get_their_name(tmp_path, monkeypatch):
    order = []
    sync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (order.append("sync"), sync(fd)))
    monkeypatch.setattr(
        Path, "replace", lambda path, to: (order.append("rename"), replace(path, to))
    )
    storage.write_file(tmp_path / "a", b"x")
    assert order == ["sync", "rename", "sync"]


@pytest.mark.parametrize(
    "act",
    [
        lambda path: storage.write_file(path / "a", b""),
        lambda path: storage.append_line(path / "a", ""),
        lambda path: storage.make_directory(path / "a"),
        lambda path: storage.fill_directory(path / "a", lambda _: None),
    ],
)
def test_every_failure_names_its_path(tmp_path, act):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(StorageError, match="file/a"):
        act(file)


def test_removing_nothing_is_fine(tmp_path):
    storage.remove(tmp_path / "nothing")
