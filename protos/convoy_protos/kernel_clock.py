"""Does anything keep this machine's clock in step? Certificates and signatures go by it.

Source: adjtimex(2): state TIME_ERROR means that nobody does.
"""

import ctypes
import os
from typing import Final

TIME_ERROR: Final = 5

_TIMEX_BYTES: Final = 512
"""More than struct timex has anywhere (208 on 64-bit Linux)."""


def read_clock_state() -> int:
    """The kernel's clock state, without touching it.

    Raises:
        OSError: It does not say.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(_TIMEX_BYTES)  # modes = 0: only read
    state = int(libc.adjtimex(buffer))
    if state < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return state
