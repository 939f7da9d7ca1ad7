"""The TLS CA of a fleet, and what it issues to servers."""

import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from convoy_cli.main import DONE, WRONG_USAGE, run
from convoy_cli.verbs import installed_verbs
from convoy_privacy.certificates import Role, Trust
from convoy_privacy.errors import FleetFolderError, UntrustedPeerError
from convoy_privacy.fleet_authority import FleetAuthority
from convoy_privacy.fleet_store import create_fleet
from convoy_privacy.tls_authority import TlsAuthority
from convoy_privacy.tls_files import read_tls_ca, save_server, tls_authority

NOW = datetime.now(UTC)
HOSTS = ("convoy.example.org", "127.0.0.1", "::1")


def handshake(folder, host, ca_der):
    """TLS in memory, as strictly as Python 3.13 and later do it by themselves."""
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(folder / "server.pem", folder / "server.key")
    client_side = ssl.create_default_context(cadata=ca_der)
    client_side.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_side.wrap_bio(to_server, to_client, server_side=True)
    client = client_side.wrap_bio(to_client, to_server, server_hostname=host)
    for side in (client, server, client, server):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    client.do_handshake()
    return client.version()


@pytest.fixture
def cloud(tmp_path):
    """A server's folder."""
    authority = TlsAuthority.create(NOW)
    save_server(tmp_path / "cloud", authority, authority.issue(HOSTS, NOW))
    return tmp_path / "cloud"


@pytest.mark.parametrize("host", HOSTS)
def test_a_client_that_pins_the_ca_reaches_the_server_under_each_of_its_hosts(cloud, host):
    assert handshake(cloud, host, read_tls_ca(cloud / "tls-ca.pem")) == "TLSv1.3"


@pytest.mark.parametrize("host", ["convoy.example.com", "127.0.0.2"])
def test_under_another_host_it_is_refused(cloud, host):
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(cloud, host, read_tls_ca(cloud / "tls-ca.pem"))


def test_another_ca_is_refused(cloud):
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(cloud, HOSTS[0], TlsAuthority.create(NOW).certificate)


def test_neither_ca_vouches_for_what_the_other_signs(cloud):
    fleet = FleetAuthority.create(NOW)
    certificate = x509.load_pem_x509_certificate((cloud / "server.pem").read_bytes())
    with pytest.raises(UntrustedPeerError):
        Trust(fleet.public_key).verify(certificate.public_bytes(Encoding.DER), Role.VEHICLE, NOW)


@pytest.mark.parametrize(
    "hosts", [(), ("",), ("a b",), ("-a.org",), ("bücher.org",), ("a..b",), ("x" * 64,)]
)
def test_what_is_no_host_is_refused(hosts):
    with pytest.raises(ValueError, match="host"):
        TlsAuthority.create(NOW).issue(hosts, NOW)


def test_a_fleet_without_a_tls_ca_gets_one_and_keeps_it(tmp_path):
    create_fleet(tmp_path / "ca", FleetAuthority.create(NOW))
    first = tls_authority(tmp_path / "ca", NOW)
    again = tls_authority(tmp_path / "ca", NOW + timedelta(days=1))
    assert first.certificate == again.certificate
    assert (tmp_path / "ca" / "tls-ca.key").stat().st_mode & 0o777 == 0o600


def test_a_tls_ca_that_was_cut_off_before_it_had_a_certificate_is_made_anew(tmp_path):
    create_fleet(tmp_path / "ca", FleetAuthority.create(NOW))
    tls_authority(tmp_path / "ca", NOW)
    (tmp_path / "ca" / "tls-ca.pem").unlink()
    authority = tls_authority(tmp_path / "ca", NOW)
    save_server(tmp_path / "cloud", authority, authority.issue(HOSTS, NOW))
    assert handshake(tmp_path / "cloud", HOSTS[0], authority.certificate)


def test_the_key_of_the_tls_ca_is_under_the_passphrase_too(tmp_path):
    create_fleet(tmp_path / "ca", FleetAuthority.create(NOW), b"correct horse battery")
    tls_authority(tmp_path / "ca", NOW, b"correct horse battery")
    with pytest.raises(FleetFolderError, match="needs its passphrase"):
        tls_authority(tmp_path / "ca", NOW)


def test_the_verb_makes_a_servers_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    verbs = installed_verbs()
    assert run(["fleet", "init", "ca"], verbs) == DONE
    words = ["fleet", "add", "ca", "cloud", "--role", "server"]
    assert run([*words, "--host", "localhost", "--host", "10.0.0.1"], verbs) == DONE
    assert "TLS files of a server at localhost, 10.0.0.1" in capsys.readouterr().out
    assert handshake(tmp_path / "cloud", "10.0.0.1", read_tls_ca(tmp_path / "ca" / "tls-ca.pem"))
    for wrong in (words, [*words[:4], "--host", "localhost"], [*words, "--host", "no host"]):
        assert run(wrong, verbs) == WRONG_USAGE
        assert "host" in capsys.readouterr().err
