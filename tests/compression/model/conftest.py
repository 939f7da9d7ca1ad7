"""Small networks are slower on many threads than on one, on a busy machine by far."""

import pytest

from convoy_compression.update.one_thread import one_thread


@pytest.fixture(autouse=True)
def _one_thread():
    with one_thread():
        yield
