"""A device's key, as the SuperLink's node and as a file."""

import time
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from convoy_protos.errors import SuperLinkError
from convoy_protos.flower_internals import register_node


def let_in(private_address: str, path: Path, name: str, patience_s: float = 120.0) -> None:
    """Make a node's key there and have the SuperLink know it, once it is up."""
    key = ec.generate_private_key(ec.SECP384R1())
    path.touch(mode=0o600)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    public_key = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)

    def registers() -> bool:
        try:
            register_node(private_address, public_key, name)
        except SuperLinkError:
            return False
        return True

    wait_for(registers, patience_s, "the SuperLink is up")


def wait_for(condition: Callable[[], object], patience_s: float, what: str) -> None:
    """Look until it holds; it is a failure if it never does."""
    end_s = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < end_s, f"waited {patience_s} s in vain until {what}"
        time.sleep(0.1)
