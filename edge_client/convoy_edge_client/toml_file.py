"""agent.toml and drive.toml as tables; with names of Python 3.10 alone, for the vehicles that drive with it."""

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from convoy_protos.errors import SettingsError


def read_toml(path: Path) -> Mapping[str, Any]:
    """A TOML file.

    Raises:
        SettingsError: It cannot be read, or is not TOML.
    """
    # Python 3.10 does not have tomllib; there tomli is installed, which is the same code.
    toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        table: Mapping[str, Any] = toml.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(
            f"{path}: cannot be read ({error.strerror}); name the file with --config"
        ) from error
    except ValueError as error:
        raise SettingsError(f"{path}: not valid TOML ({error})") from error
    return table
