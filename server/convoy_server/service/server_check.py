"""What `convoy server --check` looks at: everything that would end the service later, before it begins.

Starts nothing and writes nothing: ports are bound and let go, folders are looked at.
"""

import errno
import os
import shutil
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from convoy_privacy.certificates import Role
from convoy_privacy.errors import FleetFolderError
from convoy_privacy.fleet_store import load_book
from convoy_privacy.key_files import read_file
from convoy_privacy.party import load_party
from convoy_protos.errors import SettingsError, UsageError
from convoy_protos.findings import Finding, ok, problem, warning
from convoy_protos.kernel_clock import TIME_ERROR, read_clock_state
from convoy_server.releases.inspection import faults
from convoy_server.releases.release_keys import ONLINE_FOLDER, load_online_keys
from convoy_server.releases.repository import REPOSITORY_FOLDER
from convoy_server.service.health_file import HEALTH_FILE, HEALTH_LASTS_S, load_health
from convoy_server.service.server_config import ServerConfig, is_loopback

EXPIRES_SOON: Final = timedelta(days=30)


def check_server(config: ServerConfig, now: datetime | None = None) -> list[Finding]:
    """Look at everything that server.toml names.

    Args:
        config: Read already; what is wrong in the file itself is an error there.
        now: With a time zone; None: the clock.
    """
    now = now or datetime.now(UTC)
    return [
        ok("configuration", "server.toml is understood"),
        *check_certificate(config, now),
        *check_aggregator(config, now),
        *check_authority(config),
        *check_releases(config, now),
        *check_folders(config),
        *check_disk(config),
        *check_private_door(config),
        *check_metrics_door(config),
        *check_ports(config),
        check_clock(),
    ]


def check_certificate(config: ServerConfig, now: datetime) -> Iterator[Finding]:
    """The fleet door's certificate: in force, for the right host, by the CA that vehicles pin."""
    door = config.fleet_door
    subject = "certificate"
    again = "`convoy fleet add FLEET NAME --role server --host HOST` makes a new one"
    try:
        chain = _certificates(Path(door.certificate))
        (ca, *_) = _certificates(Path(door.ca))
        key = _key_of(Path(door.key))
    except FleetFolderError as error:
        yield problem(subject, f"{error}; {again}")
        return
    leaf = chain[0]
    if leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != key:
        yield problem(subject, f"{door.certificate} does not belong to {door.key}; {again}")
    for child, parent in zip(chain, [*chain[1:], ca], strict=True):
        try:
            child.verify_directly_issued_by(parent)
        except (ValueError, TypeError, InvalidSignature):
            yield problem(
                subject,
                f"{door.certificate} is not signed by {door.ca}, which vehicles pin; {again}",
            )
            break
    for name, one in ((door.certificate, leaf), (door.ca, ca)):
        yield _in_force(subject, name, one, now, again)
    yield _names_host(config, leaf, again)


def check_aggregator(config: ServerConfig, now: datetime) -> Iterator[Finding]:
    """Who the server is in masked and sealed runs."""
    folder = Path(config.identity.aggregator)
    subject = "aggregator"
    again = "`convoy fleet add FLEET NAME --role aggregator` makes one"
    try:
        party = load_party(folder, now)
    except FleetFolderError as error:
        yield problem(subject, f"{error}; {again}")
        return
    if party.role is not Role.AGGREGATOR:
        yield problem(subject, f"{folder} is a {party.role.value}'s; {again}")
        return
    certificate = x509.load_der_x509_certificate(party.identity.certificate)
    yield _in_force(subject, party.identity.name, certificate, now, again)
    if party.sealing_key is None:
        yield warning(subject, f"{folder} has no sealing key: sealed runs will be refused; {again}")
    revocations = party.trust.revocations
    if revocations is not None and now >= revocations.next_update:
        yield problem(
            "revocations",
            f"the list ended {revocations.next_update:%Y-%m-%d}: vehicles refuse masked sums; "
            "`convoy fleet revoke FLEET` issues a new one, copy its revoked.crl into "
            f"{folder}",
        )
    elif revocations is not None and now + EXPIRES_SOON >= revocations.next_update:
        yield warning(
            "revocations",
            f"the list ends {revocations.next_update:%Y-%m-%d}; "
            "`convoy fleet revoke FLEET` issues a new one",
        )


def check_authority(config: ServerConfig) -> Iterator[Finding]:
    """Who signs for devices that join."""
    enrolment = config.enrolment
    if not enrolment.public_address:
        yield warning(
            "enrolment",
            "[enrolment] public_address is empty: no tokens can be made; set it to the HOST:PORT that "
            "vehicles dial",
        )
    if not enrolment.authority:
        yield ok("enrolment", "an operator signs requests: [enrolment] authority is empty")
        return
    try:
        issued = len(load_book(Path(enrolment.authority)).issued)
    except FleetFolderError as error:
        yield problem("enrolment", f"{error}; `convoy fleet init` makes the folder of a fleet")
        return
    yield ok("enrolment", f"the service signs by itself; {issued} certificates issued so far")


def check_releases(config: ServerConfig, now: datetime) -> Iterator[Finding]:
    """Vehicles would take what the release service serves, and get the pass that it asks for."""
    subject, releases = "releases", Path(config.releases.folder)
    if not config.releases.folder:
        yield ok(subject, "none are served: [releases] folder is empty")
        return
    if not config.enrolment.public_address:
        yield problem(
            subject,
            "vehicles get their passes from enrolment, which is off: set [enrolment] public_address",
        )
    try:
        load_online_keys(releases / ONLINE_FOLDER)
        found = list(faults(releases / REPOSITORY_FOLDER, now))
    except UsageError as error:
        yield problem(subject, f"{error}")
        return
    for fault in found:
        yield problem(subject, f"{releases}: {fault}")
    if not found:
        yield ok(subject, f"vehicles take what is in {releases}")


def check_folders(config: ServerConfig) -> Iterator[Finding]:
    """State and runs can be written, and nobody else reads the state."""
    state = config.state_folder
    if state.exists() and state.stat().st_mode & 0o077:
        yield problem("state folder", f"others may read {state}: chmod 700 {state}")
    for subject, folder in (("state folder", state), ("runs folder", config.runs_folder)):
        there = _nearest(folder)
        if folder.exists() and not folder.is_dir():
            yield problem(subject, f"{folder} is no folder; move it away or name another")
        elif not os.access(there, os.W_OK | os.X_OK):
            yield problem(subject, f"{there} cannot be written by this user (uid {os.getuid()})")
        else:
            yield ok(subject, f"{folder}" + ("" if folder.exists() else " (will be made)"))


def check_disk(config: ServerConfig) -> Iterator[Finding]:
    """Room for checkpoints, and for the state that a crash must not find full."""
    least = config.runs.keep_free_mb
    for subject, folder in (("disk of runs", config.runs_folder), ("disk", config.state_folder)):
        free = shutil.disk_usage(_nearest(folder)).free // 10**6
        if free < least:
            yield problem(
                subject,
                f"{free} MB are free for {folder}, [runs] keep_free_mb wants {least}: make room",
            )
        else:
            yield ok(subject, f"{free} MB free")


def check_private_door(config: ServerConfig) -> Iterator[Finding]:
    """Whoever reaches the private door starts and stops runs."""
    host = config.private_door.host
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host, None)}
    except OSError as error:
        yield problem("private door", f"{host}: {error.strerror}; use 127.0.0.1")
        return
    open_to = sorted(address for address in found if not is_loopback(address))
    if open_to:
        yield problem(
            "private door", f"{host} is {', '.join(open_to)} here, no loopback; use 127.0.0.1"
        )
    else:
        yield ok("private door", f"{host} is reached from this machine only")


def check_metrics_door(config: ServerConfig) -> Iterator[Finding]:
    """Metrics have no authentication."""
    host = config.metrics.host
    if is_loopback(host):
        yield ok("metrics", f"{host} is reached from this machine only")
    else:
        yield warning(
            "metrics",
            f"anyone who reaches {host}:{config.metrics.port} reads them; keep it behind a firewall or "
            "set [metrics] host to 127.0.0.1",
        )


def check_ports(config: ServerConfig) -> Iterator[Finding]:
    """Every port can be listened on, or this service listens on it already."""
    runs = _runs_already(config)
    hosts = {
        "fleet_door": config.fleet_door.host,
        "private_door": config.private_door.host,
        "services": config.services.host,
        "metrics": config.metrics.host,
        "releases": config.releases.host,
    }
    for table, port in config.ports.items():
        fault = _why_not_bound(hosts[table], port)
        if fault and runs:
            yield ok("port", f"[{table}] {hosts[table]}:{port}: the service runs")
        elif fault:
            yield problem("port", f"[{table}] {hosts[table]}:{port}: {fault}")
        else:
            yield ok("port", f"[{table}] {hosts[table]}:{port} is free")


def check_clock() -> Finding:
    """Certificates and deadlines go by the clock."""
    try:
        return clock_finding(read_clock_state())
    except (OSError, AttributeError):  # no such function outside of Linux
        return clock_finding(-1)


def clock_finding(state: int) -> Finding:
    """What adjtimex(2) says; -1: nothing."""
    if state == TIME_ERROR:
        return warning(
            "clock",
            "nothing keeps it in step: install chrony or systemd-timesyncd; certificates are judged "
            "by it",
        )
    if state < 0:
        return warning("clock", "this system does not say whether the clock is kept in step")
    return ok("clock", "is kept in step")


def _runs_already(config: ServerConfig) -> bool:
    """Whether a supervisor has said in the last seconds that the SuperLink of this state folder answers."""
    file = config.state_folder / HEALTH_FILE
    try:
        age_s = time.time() - file.stat().st_mtime
        return age_s < HEALTH_LASTS_S and load_health(config.state_folder).superlink_answers
    except (OSError, SettingsError):
        return False


def _why_not_bound(host: str, port: int) -> str:
    """Empty where the port can be listened on."""
    try:
        (family, kind, protocol, _, address), *_ = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        with socket.socket(family, kind, protocol) as door:
            door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            door.bind(address)
    except OSError as error:
        return {
            errno.EADDRINUSE: "somebody listens there already; stop it, or name another port",
            errno.EACCES: "this user may not; use a port above 1023",
            errno.EADDRNOTAVAIL: "this machine has no such address; use 0.0.0.0",
        }.get(error.errno or 0, f"{error.strerror}; name another host or port")
    return ""


def _certificates(path: Path) -> list[x509.Certificate]:
    data = read_file(path)
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError as error:
        raise FleetFolderError(path, "not a certificate in PEM") from error


def _key_of(path: Path) -> bytes:
    """The public half of a private key."""
    data = read_file(path, private=True)
    try:
        public_key = load_pem_private_key(data, None).public_key()
    except (ValueError, TypeError) as error:
        raise FleetFolderError(path, "not a private key in PEM without passphrase") from error
    return public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _in_force(
    subject: str, name: str, certificate: x509.Certificate, now: datetime, again: str
) -> Finding:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < begin:
        return problem(subject, f"{name} is not valid before {begin:%Y-%m-%d %H:%M}: set the clock")
    if now > end:
        return problem(subject, f"{name} expired {end:%Y-%m-%d}; {again}")
    if now + EXPIRES_SOON > end:
        return warning(subject, f"{name} expires {end:%Y-%m-%d}; {again}")
    return ok(subject, f"{name} is valid until {end:%Y-%m-%d}")


def _names_host(config: ServerConfig, leaf: x509.Certificate, again: str) -> Finding:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return problem("certificate", f"it names no host (no subjectAltName); {again}")
    hosts = [
        *names.get_values_for_type(x509.DNSName),
        *map(str, names.get_values_for_type(x509.IPAddress)),
    ]
    host = config.enrolment.public_host
    if host and not any(_covers(pattern, host) for pattern in hosts):
        return problem(
            "certificate",
            f"it is for {', '.join(hosts) or 'no host'}, vehicles dial {host} "
            f"([enrolment] public_address); {again}",
        )
    return ok("certificate", f"it is for {', '.join(hosts) or 'no host'}")


def _covers(pattern: str, host: str) -> bool:
    """Whether a name of a certificate is that host; "*" stands for one label (RFC 6125)."""
    pattern, host = pattern.lower(), host.lower().rstrip(".")
    if pattern.startswith("*."):
        return "." in host and host.split(".", 1)[1] == pattern[2:]
    return pattern == host


def _nearest(folder: Path) -> Path:
    """The folder, or the first above it that is there."""
    return next(one for one in (folder, *folder.parents) if one.exists())
