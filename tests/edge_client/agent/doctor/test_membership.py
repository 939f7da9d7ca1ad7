"""Is the device a member, and until when?"""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from small_enrolment import NOW, agent_config, make_office, places_in

from convoy_edge_client.agent.doctor.membership import (
    expiry_finding,
    look_at_identity,
    look_at_node_key,
    look_at_state_folder,
    name_finding,
    revocations_finding,
)
from convoy_edge_client.agent.joining import join
from convoy_privacy.certificates import Role
from convoy_protos.findings import Level


@pytest.fixture
def device(tmp_path):
    """The configuration of a device that joined."""
    office = make_office(tmp_path, online=True)
    folder = tmp_path / "device"
    folder.mkdir()
    join(office.token(), places_in(folder), lambda request: office.desk().join(request, NOW), NOW)
    return agent_config(folder, "127.0.0.1:9092")


def levels(findings):
    return {finding.subject: finding.level for finding in findings}


def test_all_is_well_with_a_device_that_joined(device):
    findings = look_at_identity(device, NOW)
    assert levels(findings) == dict.fromkeys(("identity", "certificate", "revocations"), Level.OK)
    assert look_at_node_key(device.node_key_path).level is Level.OK
    assert look_at_state_folder(device.state_path).level is Level.OK


def test_a_device_that_never_joined_is_told_how(device, tmp_path):
    stranger = replace(device, vehicle=replace(device.vehicle, identity=str(tmp_path / "none")))
    (finding,) = look_at_identity(stranger, NOW)
    assert finding.level is Level.PROBLEM
    assert "convoy agent join TOKEN" in finding.message
    assert "convoy agent join TOKEN" in look_at_node_key(tmp_path / "none").message


def test_a_certificate_that_has_ended_is_a_problem(device):
    (finding,) = look_at_identity(device, NOW + timedelta(days=40))
    assert finding.level is Level.PROBLEM
    assert "expired" in finding.message


@pytest.mark.parametrize(
    ("name", "role", "own_role", "words"),
    [
        ("car-07", Role.VEHICLE, "vehicle", "car-07, vehicle"),
        ("car-08", Role.VEHICLE, "vehicle", "of car-08, but vehicle_id is car-07"),
        ("car-07", Role.HELPER, "vehicle", 'set role = "roadside"'),
        ("car-07", Role.HELPER, "roadside", "car-07, helper"),
    ],
)
def test_the_certificate_is_for_what_agent_toml_says(device, name, role, own_role, words):
    finding = name_finding(name, role, replace(device, role=own_role))
    assert words in finding.message
    assert finding.level is (Level.OK if words.startswith("car-07, ") else Level.PROBLEM)


@pytest.mark.parametrize(("days", "level"), [(15, Level.OK), (13, Level.WARNING)])
def test_a_certificate_that_nobody_renewed_is_seen_in_time(days, level):
    now = datetime(2026, 11, 24, tzinfo=UTC)
    finding = expiry_finding(now + timedelta(days=days), now)
    assert finding.level is level
    assert f"{days} days" in finding.message


def test_an_old_list_of_revocations_is_seen():
    now = datetime(2026, 11, 24, tzinfo=UTC)
    assert revocations_finding(now + timedelta(days=1), now).level is Level.OK
    assert revocations_finding(now, now).level is Level.WARNING


def test_a_node_key_that_others_may_read_is_a_problem(device):
    device.node_key_path.chmod(0o644)
    finding = look_at_node_key(device.node_key_path)
    assert finding.level is Level.PROBLEM
    assert "chmod 600" in finding.message


@pytest.mark.parametrize(
    ("curve", "form", "words"),
    [
        (ec.SECP256R1(), PrivateFormat.OpenSSH, "not a key on P-384"),
        (ec.SECP384R1(), PrivateFormat.PKCS8, "not a private key in OpenSSH's format"),
    ],
)
def test_a_node_key_of_another_kind_is_a_problem(tmp_path, curve, form, words):
    path = tmp_path / "node.key"
    key = ec.generate_private_key(curve)
    path.write_bytes(key.private_bytes(Encoding.PEM, form, NoEncryption()))
    path.chmod(0o600)

    finding = look_at_node_key(path)

    assert finding.level is Level.PROBLEM
    assert words in finding.message


def test_a_state_folder_is_not_made_by_looking_at_it(tmp_path):
    finding = look_at_state_folder(tmp_path / "deep" / "state")
    assert finding.level is Level.OK
    assert "will be made" in finding.message
    assert not list(tmp_path.iterdir())

    (tmp_path / "file").write_text("")
    assert look_at_state_folder(tmp_path / "file" / "state").level is Level.PROBLEM
