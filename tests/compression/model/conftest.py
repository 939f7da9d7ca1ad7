"""Small networks are slower on many threads than on one, on a busy machine by far."""

import pytest

from convoy_compression.model.latency import one_torch_thread


@pytest.fixture(autouse=True)
def _one_thread():
    with one_torch_thread():
        yield
