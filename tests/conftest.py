"""Fixtures that tests of several packages share."""

import sys
from pathlib import Path

import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))

from small_fleet import record_small_fleet

# The same examples on every run, and no time limit each: a busy machine is not a bug.
settings.register_profile("convoy", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("convoy")


@pytest.fixture(scope="session")
def small_fleet(tmp_path_factory):
    """Six vehicles with 60 frames each, recorded once; tests must not write to it."""
    return record_small_fleet(tmp_path_factory.mktemp("small_fleet"), vehicle_count=6)
