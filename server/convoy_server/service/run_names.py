"""What a run of the service is called: one folder below [runs] folder."""

import re
from typing import Final

from convoy_protos.errors import UsageError

NAME_KEY: Final = "convoy-name"
"""Key in Flower's run configuration."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def check_run_name(name: str) -> str:
    """The name, if it can be a folder's.

    Raises:
        UsageError: It cannot.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is no name for a run: up to 64 letters, digits, dots, dashes and underscores"
        )
    return name
