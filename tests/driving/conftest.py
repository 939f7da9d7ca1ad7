"""Where the recordings of the founders' machines lie."""

from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.fixture
def shared_data() -> Path:
    """The recordings beside the project; a test that needs them is skipped elsewhere."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"needs the recordings in {SHARED_DATA}")
    return SHARED_DATA
