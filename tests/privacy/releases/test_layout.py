"""Names and paths in a release repository."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convoy_privacy.errors import ReleaseFormatError
from convoy_privacy.releases.layout import (
    MAX_COUNTER,
    check_name,
    check_path,
    read_release_entry,
    release_entry,
    release_file,
    release_target,
    stored_path,
)


@pytest.mark.parametrize(
    "path",
    [
        "metadata/timestamp.json",
        "metadata/12.root.json",
        f"targets/{'a' * 64}.policy.json",
        f"targets/channels/{'a' * 64}.stable.json",
        f"targets/releases/r0001-5f3a01bc/{'a' * 64}.{'n' * 100}",
    ],
)
def test_what_the_repository_holds_may_be_asked_for(path):
    assert check_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        "",
        "metadata",
        "metadata/",
        "/metadata/timestamp.json",
        "metadata//timestamp.json",
        "metadata/../online/timestamp.key",
        "metadata/./timestamp.json",
        "targets/releases/../../online/x.key",
        "online/timestamp.key",
        "targets/.hidden",
        "targets/a\\..\\b",
        "targets/a\0b",
        "targets/a\n",
        "targets/a/b/c/d",
        "targets/" + "a" * 400,
    ],
)
def test_what_could_lead_elsewhere_may_not(path):
    with pytest.raises(ReleaseFormatError, match="no path in a release repository"):
        check_path(path)


@given(st.text())
def test_a_path_that_passes_stays_inside_whatever_it_is(text):
    for path in (text, f"targets/{text}", f"metadata/../{text}"):
        try:
            checked = check_path(path)
        except ReleaseFormatError:
            continue
        parts = checked.split("/")
        assert parts[0] in ("metadata", "targets")
        assert not any(part.startswith(".") or "\\" in part or "\0" in part for part in parts)


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", fullmatch=True))
def test_a_release_file_has_a_path_and_back(name):
    target = release_target(name, name)
    assert release_file(target) == (name, name)
    assert check_path(stored_path(target, "0" * 64))


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-x", "a b", "ä", "a" * 101, "a\n"])
def test_a_name_that_could_lead_elsewhere_is_refused(name):
    with pytest.raises(ReleaseFormatError, match="is no name"):
        check_name(name)


@given(st.integers(1, MAX_COUNTER))
def test_an_entry_says_release_and_counter(counter):
    assert read_release_entry(release_entry("r1", counter)) == ("r1", counter)


@pytest.mark.parametrize(
    "custom",
    [
        None,
        [],
        {},
        {"schema": "convoy.release-entry/2", "release": "r1", "counter": 1},
        {"schema": "convoy.release-entry/1", "release": 1, "counter": 1},
        {"schema": "convoy.release-entry/1", "release": "../r1", "counter": 1},
        {"schema": "convoy.release-entry/1", "release": "r1", "counter": True},
        {"schema": "convoy.release-entry/1", "release": "r1", "counter": 0},
        {"schema": "convoy.release-entry/1", "release": "r1", "counter": MAX_COUNTER + 1},
        {"schema": "convoy.release-entry/1", "release": "r1", "counter": 1.0},
    ],
)
def test_another_entry_is_refused(custom):
    with pytest.raises(ReleaseFormatError):
        read_release_entry(custom)


@pytest.mark.parametrize("digest", [None, "", "0" * 63, "A" * 64, "../../evil", "0" * 64 + "\n"])
def test_what_is_no_hash_names_no_file(digest):
    with pytest.raises(ReleaseFormatError, match="64 hexadecimal digits"):
        stored_path("policy.json", digest)


@pytest.mark.parametrize("target", ["releases/../x", "releases/r1/..", "releases/a b/x"])
def test_a_release_file_that_could_lead_elsewhere_is_refused(target):
    with pytest.raises(ReleaseFormatError, match="is no name"):
        release_file(target)
