"""What starts a run on a real fleet: settings, never code.

Flower ships an app to server and nodes as a bundle (FAB), a zip with a pyproject.toml, and would run the
code in it. Ours holds settings alone and names the two apps that are installed everywhere; the server's
executor and every agent refuse a bundle that holds anything else.
"""

import hashlib
import io
import json
import tomllib
import zipfile
from collections.abc import Mapping
from typing import Any, Final

from convoy_protos.errors import BundleRefusedError

RunSettings = Mapping[str, str | int | float | bool]

SERVER_APP: Final = "convoy_server.app:app"
CLIENT_APP: Final = "convoy_edge_client.app:app"
MAX_BUNDLE_BYTES: Final = 1 << 20
"""Settings are a few kilobytes."""

_PROJECT: Final = "pyproject.toml"
_README: Final = "README.md"
_MANIFEST: Final = ".info/CONTENT"
_DATE: Final = (1980, 1, 1, 0, 0, 0)
_NAME: Final = "convoy-run"
_TEMPLATE: Final = """\
[project]
name = "{name}"
version = "0.1.0"
dependencies = []

[tool.flwr.app]
publisher = "convoy"
fab-include = ["README.md"]

[tool.flwr.app.components]
serverapp = "{server_app}"
clientapp = "{client_app}"

[tool.flwr.app.config]
{settings}
"""


def build_run_bundle(settings: RunSettings) -> bytes:
    """The bundle that carries these settings; the same settings give the same bytes."""
    lines = "\n".join(f"{_toml(key)} = {_toml(value)}" for key, value in settings.items())
    project = _TEMPLATE.format(
        name=_NAME, server_app=SERVER_APP, client_app=CLIENT_APP, settings=lines
    )
    contents = {
        _PROJECT: project.encode(),
        _README: b"Settings of a run of Convoy; the code is what is installed.\n",
    }
    manifest = "\n".join(
        f"{name},{hashlib.sha256(content).hexdigest()},{8 * len(content)}"
        for name, content in contents.items()
    )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in (contents | {_MANIFEST: manifest.encode()}).items():
            archive.writestr(zipfile.ZipInfo(name, _DATE), content)
    return buffer.getvalue()


def read_run_bundle(content: bytes) -> dict[str, Any]:
    """The settings in a bundle.

    Raises:
        BundleRefusedError: It holds more than settings, names other apps, or is no bundle.
    """
    if len(content) > MAX_BUNDLE_BYTES:
        raise BundleRefusedError(f"{len(content)} bytes, at most {MAX_BUNDLE_BYTES} hold settings")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            _check_members(archive)
            table = tomllib.loads(archive.read(_PROJECT).decode())
        app = table["tool"]["flwr"]["app"]
        components, settings = dict(app["components"]), dict(app.get("config", {}))
    except BundleRefusedError:
        raise
    except Exception as error:  # zipfile raises many kinds on hostile bytes
        raise BundleRefusedError(f"cannot be read: {type(error).__name__}: {error}") from error
    wanted = {"serverapp": SERVER_APP, "clientapp": CLIENT_APP}
    if components != wanted:
        raise BundleRefusedError(f"names the apps {components}, only the installed {wanted} run")
    for key, value in settings.items():
        if not isinstance(value, str | int | float | bool):
            raise BundleRefusedError(f"setting {key!r} is no string, number or truth value")
    return settings


def _check_members(archive: zipfile.ZipFile) -> None:
    members = archive.infolist()
    names = [member.filename for member in members]
    if code := sorted(set(names) - {_PROJECT, _README, _MANIFEST}):
        raise BundleRefusedError(f"holds {code[0]!r}: runs carry settings, code is installed")
    if len(names) != len(set(names)):
        raise BundleRefusedError("holds a file twice")
    if sum(member.file_size for member in members) > MAX_BUNDLE_BYTES:
        raise BundleRefusedError(f"unpacks to more than {MAX_BUNDLE_BYTES} bytes")


def _toml(value: str | float) -> str:
    # A JSON scalar is a TOML scalar, but for surrogate pairs and the one control character it leaves.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
