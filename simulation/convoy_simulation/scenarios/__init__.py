"""Scenarios that come with Convoy."""

from pathlib import Path
from typing import Final

DEMO: Final = Path(__file__).parent / "demo.toml"
