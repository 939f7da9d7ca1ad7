"""The released files are whole at any moment."""

import pytest

from convoy_server.errors import StorageError
from convoy_server.release.release_folder import (
    PREVIOUS,
    REFUSED,
    RELEASE,
    accept,
    open_candidate,
    refuse,
)


def candidate(out, text):
    folder = open_candidate(out)
    (folder / "model").write_text(text)
    return folder


def content(out):
    """Every file below the run directory with what is in it."""
    return {
        str(path.relative_to(out)): path.read_text() for path in out.rglob("*") if path.is_file()
    }


def test_an_accepted_candidate_takes_the_place_of_the_release(tmp_path):
    accept(candidate(tmp_path, "first"), tmp_path)

    folder = accept(candidate(tmp_path, "second"), tmp_path)

    assert folder == tmp_path / RELEASE
    assert content(tmp_path) == {"release/model": "second"}


def test_a_refused_candidate_leaves_the_release_alone(tmp_path):
    accept(candidate(tmp_path, "first"), tmp_path)
    refuse(candidate(tmp_path, "worse"), tmp_path)

    folder = refuse(candidate(tmp_path, "worse still"), tmp_path)

    assert folder == tmp_path / REFUSED
    assert content(tmp_path) == {"release/model": "first", "release.refused/model": "worse still"}


def test_accepting_clears_what_was_refused_before(tmp_path):
    refuse(candidate(tmp_path, "worse"), tmp_path)

    accept(candidate(tmp_path, "good"), tmp_path)

    assert content(tmp_path) == {"release/model": "good"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({PREVIOUS: "old"}, {"release/model": "old"}),  # died between the two renames
        ({PREVIOUS: "old", RELEASE: "new"}, {"release/model": "new"}),  # died just after them
        ({".unfinished-release": "half", RELEASE: "old"}, {"release/model": "old"}),
    ],
)
def test_the_next_start_repairs_what_a_crash_left(tmp_path, before, after):
    for folder, text in before.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model").write_text(text)

    opened = open_candidate(tmp_path)

    assert list(opened.iterdir()) == []
    assert content(tmp_path) == after


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("not a directory")

    with pytest.raises(StorageError, match="file"):
        open_candidate(tmp_path / "file")
