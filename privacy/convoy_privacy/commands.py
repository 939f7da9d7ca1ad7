"""The verbs `convoy fleet ...`: who belongs to a fleet. They need no network, and should have none."""

import json
import os
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from convoy_privacy import fleet_store, key_files
from convoy_privacy.certificates import Role
from convoy_privacy.fleet_authority import (
    CERTIFICATE_DAYS,
    LIST_DAYS,
    FleetAuthority,
    IssuedCertificate,
)
from convoy_privacy.party import IDENTITY_KEY, REVOCATIONS, save_party
from convoy_privacy.sealing import X25519_SUITE, SealingKey, generate_sealing_key
from convoy_privacy.tls_files import save_server, tls_authority
from convoy_protos.errors import UsageError


class _AddedRole(Enum):
    """Whom `convoy fleet add` makes files for: the roles of certificates, and servers for TLS."""

    VEHICLE = Role.VEHICLE.value
    AGGREGATOR = Role.AGGREGATOR.value
    HELPER = Role.HELPER.value
    SERVER = "server"


FleetArgument = Annotated[
    Path, typer.Argument(metavar="DIR", help="The CA's folder, which stays offline.")
]
PassphraseOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Its first line protects ca.key."),
]
ListDaysOption = Annotated[
    int, typer.Option(min=1, max=3650, help="Days until the list of revocations must be renewed.")
]


def fleet_init(
    directory: FleetArgument,
    passphrase_file: PassphraseOption = None,
    list_days: ListDaysOption = LIST_DAYS,
) -> None:
    """Make the key that says who belongs to a fleet.

    Example:
        convoy fleet init my-fleet --passphrase-file passphrase.txt
    """
    authority = FleetAuthority.create(_now(), list_days=list_days)
    passphrase = _passphrase(passphrase_file)
    fleet_store.create_fleet(directory, authority, passphrase)
    tls_authority(directory, _now(), passphrase)
    print(f"{directory}: a new fleet without members; keep this folder offline, and a copy of it")


def fleet_add(
    directory: FleetArgument,
    name: Annotated[
        str, typer.Argument(help="Unique in the fleet; a vehicle's is its vehicle id.")
    ],
    role: Annotated[_AddedRole, typer.Option(help="What the party may be.")] = _AddedRole.VEHICLE,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="For the party's files; else ./NAME.")
    ] = None,
    *,
    days: Annotated[
        int, typer.Option(min=1, max=3650, help="How long the certificate lasts.")
    ] = CERTIFICATE_DAYS,
    request: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="PEM request of a vehicle that made its own key."),
    ] = None,
    suite: Annotated[
        str,
        typer.Option(
            help="x25519 or mlkem768-x25519: of an aggregator's or a helper's sealing key."
        ),
    ] = X25519_SUITE,
    host: Annotated[
        list[str] | None,
        typer.Option(help="Of a server: a name or address under which vehicles reach it."),
    ] = None,
    renew: Annotated[
        bool, typer.Option("--renew", help="Also if NAME has a certificate in force.")
    ] = False,
    passphrase_file: PassphraseOption = None,
) -> None:
    """Admit a vehicle, an aggregator or a helper and write the files that it needs.

    Move the folder to the party, and leave no copy of its *.key files. With --request the private key
    never leaves the vehicle. The role server gives a TLS certificate for the hosts of a server.

    Example:
        convoy fleet add my-fleet car-07
        convoy fleet add my-fleet depot --role aggregator --out depot-keys
        convoy fleet add my-fleet car-08 --request car-08.csr
        convoy fleet add my-fleet cloud --role server --host convoy.example.org
    """
    if request is not None and role is not _AddedRole.VEHICLE:
        raise UsageError(
            "--request is for vehicles: the sealing key of the other roles is made here"
        )
    if (host is not None) != (role is _AddedRole.SERVER):
        raise UsageError("--role server and --host HOST belong together")
    folder = out or _folder_named(name)
    if role is _AddedRole.SERVER:
        _add_server(directory, folder, tuple(host or ()), days, _passphrase(passphrase_file))
        return
    party = Role(role.value)
    sealing_key: SealingKey | None = None
    if party is not Role.VEHICLE:
        sealing_key = generate_sealing_key(suite, os.urandom)
    with fleet_store.locked(directory):
        authority = fleet_store.load_fleet(directory, _passphrase(passphrase_file))
        try:
            if request is None:
                identity = authority.issue(name, party, _now(), days, renew=renew)
                certificate, signing_key = identity.certificate, identity.signing_key
            else:
                public_key = key_files.read_request(request)
                certificate = authority.certify(name, party, public_key, _now(), days, renew=renew)
                signing_key = None
        except ValueError as error:
            raise UsageError(f"{directory}: {error}") from error
        key_files.make_new_folder(folder)
        # Into the book first: a certificate that is not in it could never be revoked.
        fleet_store.save_fleet(directory, authority)
        save_party(folder, authority, certificate, signing_key, sealing_key)
    beside = "" if signing_key else f", beside its own {IDENTITY_KEY}"
    print(f"{folder}: files of {party.value} {name}; move them there{beside}")


def fleet_revoke(
    directory: FleetArgument,
    name: Annotated[
        str | None, typer.Argument(help="Whose certificates end now; nobody's: renew the list.")
    ] = None,
    passphrase_file: PassphraseOption = None,
    list_days: ListDaysOption = LIST_DAYS,
) -> None:
    """End a party's membership, or renew the list of revocations.

    Copy revoked.crl into the folder of every aggregator and helper: the vehicles get it from there
    before the next sum. Without NAME the list is issued again, so that it does not get too old.

    Example:
        convoy fleet revoke my-fleet car-07
    """
    with fleet_store.locked(directory):
        authority = fleet_store.load_fleet(directory, _passphrase(passphrase_file))
        try:
            if name is None:
                authority.renew_list(_now(), list_days)
                done = "the list is renewed"
            else:
                revoked = authority.revoke(name, _now(), list_days)
                done = f"certificates of {name} revoked now: {revoked}"
        except ValueError as error:
            raise UsageError(f"{directory}: {error}") from error
        fleet_store.save_fleet(directory, authority)
    print(f"{done}; copy {directory / REVOCATIONS} to every aggregator and helper")


def fleet_list(
    directory: FleetArgument,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Say who belongs to a fleet, until when, and who was revoked.

    Example:
        convoy fleet list my-fleet --json
    """
    book = fleet_store.load_book(directory)
    now = _now()
    if as_json:
        document = {
            "revocation_list": {
                "number": book.revocations.number,
                "next_update": book.revocations.next_update.isoformat(),
            },
            "certificates": [
                fleet_store.contract(one) | {"state": _state(one, now)} for one in book.issued
            ],
        }
        print(json.dumps(document, indent=2))
        return
    width = max((len(one.name) for one in book.issued), default=0)
    for one in book.issued:
        state = _state(one, now)
        print(f"{one.name:{width}}  {one.role.value:10}  until {one.expires:%Y-%m-%d}  {state}")
    late = " (too old: `convoy fleet revoke DIR` renews it)"
    ends = book.revocations.next_update
    print(
        f"list of revocations {book.revocations.number}, until {ends:%Y-%m-%d}"
        f"{late if now >= ends else ''}"
    )


def _add_server(
    directory: Path, folder: Path, hosts: tuple[str, ...], days: int, passphrase: bytes | None
) -> None:
    with fleet_store.locked(directory):
        fleet_store.load_fleet(directory, passphrase)  # the TLS CA gets the same passphrase
        authority = tls_authority(directory, _now(), passphrase)
        try:
            server = authority.issue(hosts, _now(), days)
        except ValueError as error:
            raise UsageError(f"--host: {error}") from error
        save_server(folder, authority, server)
    print(f"{folder}: TLS files of a server at {', '.join(hosts)}; move them there")


def _state(one: IssuedCertificate, now: datetime) -> str:
    if one.revoked:
        return "revoked"
    return "in force" if one.in_force(now) else "expired"


def _folder_named(name: str) -> Path:
    if "/" in name or name in {"", ".", ".."}:
        raise UsageError(f"{name!r} names no folder: choose one with --out FOLDER")
    return Path(name)


def _passphrase(path: Path | None) -> bytes | None:
    return None if path is None else key_files.read_passphrase(path)


def _now() -> datetime:
    return datetime.now(UTC)
