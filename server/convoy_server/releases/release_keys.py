"""The keys of releases: Ed25519, one PEM file each.

    KEYS/root-1.key, root-2.key, root-3.key           offline; two of them say whose signatures count
    KEYS/targets-1.key, targets-2.key, targets-3.key  offline; two of them sign a release
    RELEASES/online/channels.key                      online: who gets which release
    RELEASES/online/snapshot.key, timestamp.key       online: what is newest

`convoy release init` makes all of them; the offline ones then go to six places.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner

from convoy_privacy import key_files

OFFLINE_KEYS: Final = 3
OFFLINE_THRESHOLD: Final = 2
ONLINE_ROLES: Final = ("channels", "snapshot", "timestamp")
ONLINE_FOLDER: Final = "online"


@dataclass(frozen=True, slots=True, kw_only=True)
class OfflineKeys:
    """What signs rarely, and on a machine without a network.

    Attributes:
        root: Keys of the root role.
        targets: Keys of the targets role.
    """

    root: tuple[CryptoSigner, ...]
    targets: tuple[CryptoSigner, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OnlineKeys:
    """What signs on the server: one key a role, no passphrase."""

    channels: CryptoSigner
    snapshot: CryptoSigner
    timestamp: CryptoSigner


def generate_offline_keys() -> OfflineKeys:
    """New keys, from the operating system's randomness."""
    return OfflineKeys(root=generate_keys(OFFLINE_KEYS), targets=generate_keys(OFFLINE_KEYS))


def generate_online_keys() -> OnlineKeys:
    """New keys, from the operating system's randomness."""
    channels, snapshot, timestamp = generate_keys(len(ONLINE_ROLES))
    return OnlineKeys(channels=channels, snapshot=snapshot, timestamp=timestamp)


def save_offline_keys(folder: Path, keys: OfflineKeys, passphrase: bytes | None = None) -> None:
    """Write them into a new or empty folder.

    Raises:
        FleetFolderError: The folder holds something, or a file cannot be written.
    """
    key_files.make_new_folder(folder)
    for role, signers in (("root", keys.root), ("targets", keys.targets)):
        for number, signer in enumerate(signers, 1):
            save_key(folder / f"{role}-{number}.key", signer, passphrase)


def save_online_keys(folder: Path, keys: OnlineKeys) -> None:
    """Write them into a new or empty folder; otherwise as `save_offline_keys`."""
    key_files.make_new_folder(folder)
    for role in ONLINE_ROLES:
        save_key(folder / f"{role}.key", getattr(keys, role))


def load_online_keys(folder: Path) -> OnlineKeys:
    """The server's keys.

    Raises:
        FleetFolderError: A file is missing, broken or readable by others.
    """
    channels, snapshot, timestamp = (load_key(folder / f"{role}.key") for role in ONLINE_ROLES)
    return OnlineKeys(channels=channels, snapshot=snapshot, timestamp=timestamp)


def save_key(path: Path, signer: CryptoSigner, passphrase: bytes | None = None) -> None:
    """Write one key.

    Raises:
        FleetFolderError: The file cannot be written.
    """
    private_key = cast("Ed25519PrivateKey", load_pem_private_key(signer.private_bytes, None))
    key_files.write_signing_key(path, private_key, passphrase)


def load_key(path: Path, passphrase: bytes | None = None) -> CryptoSigner:
    """One key.

    Raises:
        FleetFolderError: Missing, broken, readable by others, or the passphrase does not fit.
    """
    return CryptoSigner(key_files.read_signing_key(path, passphrase))


def load_keys(paths: Sequence[Path], passphrase: bytes | None = None) -> tuple[CryptoSigner, ...]:
    """Several keys; as `load_key`."""
    return tuple(load_key(path, passphrase) for path in paths)


def generate_keys(count: int) -> tuple[CryptoSigner, ...]:
    """New keys, from the operating system's randomness."""
    return tuple(CryptoSigner(Ed25519PrivateKey.generate()) for _ in range(count))
