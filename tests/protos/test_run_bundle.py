"""Runs carry settings, never code."""

import contextlib
import io
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convoy_protos.errors import BundleRefusedError
from convoy_protos.run_bundle import build_run_bundle, read_run_bundle

text = st.text(st.characters(exclude_categories=["Cs"]))
settings_tables = st.dictionaries(
    text,
    text
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False),
)


@given(settings_tables)
def test_settings_arrive_as_they_were_sent(settings):
    bundle = build_run_bundle(settings)
    assert read_run_bundle(bundle) == settings
    assert build_run_bundle(settings) == bundle


@pytest.mark.parametrize(
    "name", ["server.py", "convoy_server/app.py", "x.json", "pyproject.toml/a"]
)
def test_a_bundle_with_any_other_file_is_refused(name):
    with pytest.raises(BundleRefusedError, match=name.split("/")[0]):
        read_run_bundle(with_file(build_run_bundle({"a": 1}), name, b"print('hello')"))


def test_a_bundle_that_names_another_app_is_refused():
    bundle = io.BytesIO()
    with zipfile.ZipFile(bundle, "w") as archive:
        archive.writestr(
            "pyproject.toml",
            '[tool.flwr.app.components]\nserverapp = "os:system"\nclientapp = "x:y"\n',
        )
    with pytest.raises(BundleRefusedError, match="os:system"):
        read_run_bundle(bundle.getvalue())


def test_a_bomb_is_not_unpacked():
    bundle = io.BytesIO()
    with zipfile.ZipFile(bundle, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("README.md", bytes(1 << 26))
    with pytest.raises(BundleRefusedError, match="unpacks"):
        read_run_bundle(bundle.getvalue())


@given(st.binary(max_size=200))
def test_noise_is_refused(noise):
    with pytest.raises(BundleRefusedError):
        read_run_bundle(noise)


@given(st.data())
def test_a_damaged_bundle_is_refused_or_says_the_same(data):
    bundle = bytearray(build_run_bundle({"convoy-run": "{}"}))
    bundle[data.draw(st.integers(0, len(bundle) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with contextlib.suppress(BundleRefusedError):
        assert read_run_bundle(bytes(bundle)) == {"convoy-run": "{}"}


def with_file(bundle, name, content):
    buffer = io.BytesIO(bundle)
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return buffer.getvalue()
