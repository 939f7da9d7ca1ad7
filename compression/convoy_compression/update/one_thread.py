"""Keep torch to one thread for a moment.

Two threads on a busy two-core machine cost streaming sums a factor of ten, and a product computed by
another number of threads may end in other last bits.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside, torch computes with one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
