"""The verbs `convoy fleet init`, `add`, `revoke` and `list`."""

import json
from datetime import UTC, datetime

import pytest

from convoy_cli.main import DONE, WRONG_USAGE, run
from convoy_cli.verbs import installed_verbs
from convoy_privacy.certificates import Role
from convoy_privacy.errors import UntrustedPeerError
from convoy_privacy.party import load_party

NOW = datetime.now(UTC)


@pytest.fixture
def convoy(tmp_path, monkeypatch, capsys):
    """Run `convoy fleet ...` in a folder of its own: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        code = run(["fleet", *words], installed_verbs())
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


def test_a_fleet_from_its_key_to_a_revocation(convoy, tmp_path):
    assert convoy("init", "ca")[0] == DONE
    assert convoy("add", "ca", "car-07") == (
        DONE,
        "car-07: files of vehicle car-07; move them there\n",
        "",
    )
    assert convoy("add", "ca", "depot", "--role", "aggregator", "--out", "keys/depot")[0] == DONE
    car, depot = load_party(tmp_path / "car-07", NOW), load_party(tmp_path / "keys" / "depot", NOW)
    depot.trust.verify(car.identity.certificate, Role.VEHICLE, NOW)
    car.trust.verify(depot.identity.certificate, Role.AGGREGATOR, NOW)
    assert (car.sealing_key, depot.sealing_key.suite) == (None, "x25519")

    code, out, _ = convoy("revoke", "ca", "car-07")
    assert (code, out.split(";")[0]) == (DONE, "certificates of car-07 revoked now: 1")
    informed = depot.trust.with_revocations((tmp_path / "ca" / "revoked.crl").read_bytes(), NOW)
    with pytest.raises(UntrustedPeerError, match="revoked"):
        informed.verify(car.identity.certificate, Role.VEHICLE, NOW)


def test_the_list_says_who_belongs_to_the_fleet(convoy):
    convoy("init", "ca")
    convoy("add", "ca", "car-07")
    convoy("add", "ca", "kerb-1", "--role", "helper", "--suite", "mlkem768-x25519")
    convoy("revoke", "ca", "car-07")
    code, out, _ = convoy("list", "ca")
    lines = [line.split() for line in out.splitlines()]
    assert code == DONE
    assert [(line[0], line[1], line[-1]) for line in lines[:2]] == [
        ("car-07", "vehicle", "revoked"),
        ("kerb-1", "helper", "force"),
    ]
    assert out.splitlines()[2].startswith("list of revocations 2, until 20")

    document = json.loads(convoy("list", "ca", "--json")[1])
    assert document["revocation_list"]["number"] == 2
    assert [(one["name"], one["state"]) for one in document["certificates"]] == [
        ("car-07", "revoked"),
        ("kerb-1", "in force"),
    ]
    assert set(document["certificates"][0]) == {
        "name",
        "role",
        "serial",
        "expires",
        "revoked",
        "state",
    }


def test_a_list_can_be_renewed_without_revoking_anybody(convoy):
    convoy("init", "ca", "--list-days", "1")
    assert convoy("revoke", "ca") == (
        DONE,
        "the list is renewed; copy ca/revoked.crl to every aggregator and helper\n",
        "",
    )
    assert json.loads(convoy("list", "ca", "--json")[1])["revocation_list"]["number"] == 2


def test_a_fleet_with_a_passphrase_opens_with_it_only(convoy, tmp_path):
    path = tmp_path / "passphrase.txt"
    path.write_text("correct horse battery staple\n")
    path.chmod(0o600)
    assert convoy("init", "ca", "--passphrase-file", str(path))[0] == DONE
    code, _, err = convoy("add", "ca", "car-07")
    assert (code, err) == (
        WRONG_USAGE,
        "convoy: ca/ca.key: needs its passphrase: --passphrase-file FILE\n",
    )
    assert convoy("add", "ca", "car-07", "--passphrase-file", str(path))[0] == DONE
    assert convoy("list", "ca")[0] == DONE  # needs no key
    assert "ENCRYPTED" in (tmp_path / "ca" / "ca.key").read_text()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["init", "ca"], "ca: holds files already; keys are never overwritten"),
        (["list", "nowhere"], "nowhere/fleet.json: No such file or directory"),
        (["add", "nowhere", "car"], "nowhere: no such folder; `convoy fleet init` makes one"),
        (["add", "ca", "car-07", "--out", "x"], "ca: car-07 has a certificate in force until 20"),
        (["add", "ca", "car-07", "--renew"], "car-07: holds files already"),
        (["add", "ca", "node-3"], "ca: 'node-3' is no name: 1 to 64 bytes"),
        (["add", "ca", "../car"], "'../car' names no folder: choose one with --out FOLDER"),
        (["add", "ca", "kerb", "--role", "helper", "--suite", "rot13"], "'rot13' is unknown"),
        (["add", "ca", "kerb", "--role", "helper", "--request", "x"], "--request is for vehicles"),
        (["add", "ca", "car-08", "--request", "x.csr"], "x.csr: No such file or directory"),
        (["add", "ca", "car-08", "--passphrase-file", "no"], "no: No such file or directory"),
        (["revoke", "ca", "car-09"], "ca: nobody called 'car-09' was admitted"),
    ],
)
def test_what_cannot_be_done_is_wrong_usage_in_one_line_and_changes_nothing(
    convoy, tmp_path, words, says
):
    convoy("init", "ca")
    convoy("add", "ca", "car-07")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    code, out, err = convoy(*words)
    assert (code, out) == (WRONG_USAGE, "")
    assert err.startswith("convoy: ")
    assert says in err
    assert err.count("\n") == 1
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_renewed_certificate_comes_with_a_new_key(convoy, tmp_path):
    convoy("init", "ca")
    convoy("add", "ca", "car-07")
    assert convoy("add", "ca", "car-07", "--renew", "--out", "new", "--days", "700")[0] == DONE
    old, new = (load_party(tmp_path / folder, NOW) for folder in ("car-07", "new"))
    assert old.identity.certificate != new.identity.certificate
    assert new.identity.name == "car-07"


def test_no_verb_prints_a_key(convoy, tmp_path):
    shown = [
        convoy("init", "ca"),
        convoy("add", "ca", "kerb-1", "--role", "helper"),
        convoy("list", "ca", "--json"),
    ]
    secrets = [
        path.read_text().split()[-1]
        if path.name == "sealing.key"
        else path.read_text().split("\n")[1]
        for path in tmp_path.rglob("*.key")
    ]
    assert len(secrets) == 4
    assert not [one for one in secrets if any(one in out + err for _, out, err in shown)]
