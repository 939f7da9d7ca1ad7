"""Bytes that everybody can draw from a public seed, the same on every machine.

AES-256 in counter mode, keyed by SHA-256 of a label and the seed: never a generator of a numeric
library, whose stream may change with its version.
"""

import hashlib

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray


def public_bytes(seed: bytes, label: str, count: int) -> NDArray[np.uint8]:
    """`count` bytes for one purpose, uint8, shape (count,)."""
    key = hashlib.sha256(label.encode("ascii") + seed).digest()
    encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    return np.frombuffer(encryptor.update(bytes(count)), np.uint8)
