"""`convoy server --check` finds what would end the service later, says how to mend it, starts nothing."""

import dataclasses
import os
import re
import socket
import time
from datetime import timedelta
from pathlib import Path

import pytest
from small_server import NOW, small_server

from convoy_privacy.certificates import Role
from convoy_privacy.fleet_authority import FleetAuthority
from convoy_privacy.fleet_store import create_fleet
from convoy_privacy.tls_authority import TlsAuthority
from convoy_privacy.tls_files import save_server
from convoy_protos.findings import Level, problems
from convoy_server.releases.release_keys import save_online_keys
from convoy_server.service.health_file import HEALTH_FILE, ServiceHealth, save_health
from convoy_server.service.server_check import (
    check_aggregator,
    check_authority,
    check_certificate,
    check_disk,
    check_folders,
    check_metrics_door,
    check_ports,
    check_private_door,
    check_releases,
    check_server,
    clock_finding,
)
from convoy_server.service.server_config import PrivateDoorConfig
from convoy_simulation.releases.release_stage import ReleaseStage


@pytest.fixture
def config(tmp_path):
    return small_server(tmp_path)


def replaced(config, table, **changes):
    part = dataclasses.replace(getattr(config, table), **changes)
    return dataclasses.replace(config, **{table: part})


def only_problem(findings):
    (found,) = problems(findings)
    return found.message


def test_a_server_that_is_set_up_has_no_problem_and_nothing_is_written(config, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    findings = check_server(config, NOW)
    assert problems(findings) == []
    assert {one.subject for one in findings} >= {
        "configuration",
        "certificate",
        "aggregator",
        "enrolment",
        "state folder",
        "runs folder",
        "disk",
        "private door",
        "port",
        "clock",
    }
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("days", "level", "message"),
    [
        (-2, Level.PROBLEM, "is not valid before .*: set the clock"),
        (200, Level.OK, "is valid until 2027-02-28"),
        (340, Level.WARNING, "expires 2027-02-28; .*--role server"),
        (400, Level.PROBLEM, "expired 2027-02-28; .*--role server"),
    ],
)
def test_certificates_are_judged_by_the_clock(config, days, level, message):
    findings = list(check_certificate(config, NOW + timedelta(days=days)))
    own = next(one for one in findings if "server.pem" in one.message)
    assert own.level is level
    assert re.search(message, own.message)


def test_a_key_of_another_certificate_is_found(config, tmp_path):
    tls = TlsAuthority.create(NOW)
    save_server(tmp_path / "other", tls, tls.issue(("localhost",), NOW))
    mixed = replaced(config, "fleet_door", key=str(tmp_path / "other" / "server.key"))
    assert "does not belong to" in only_problem(check_certificate(mixed, NOW))


def test_a_certificate_of_another_ca_than_vehicles_pin_is_found(config, tmp_path):
    tls = TlsAuthority.create(NOW)
    save_server(tmp_path / "other", tls, tls.issue(("localhost",), NOW))
    mixed = replaced(config, "fleet_door", ca=str(tmp_path / "other" / "tls-ca.pem"))
    assert "which vehicles pin" in only_problem(check_certificate(mixed, NOW))


@pytest.mark.parametrize(
    ("dialled", "fits"),
    [
        ("convoy.example.org:9091", True),
        ("CONVOY.example.org:9091", True),
        ("other.example.org:9091", False),
        ("example.org:9091", False),
        ("[2001:db8::1]:9091", True),
        ("10.0.0.2:9091", False),
    ],
)
def test_the_certificate_must_name_the_host_that_vehicles_dial(tmp_path, dialled, fits):
    config = small_server(tmp_path, hosts=("convoy.example.org", "2001:db8::1"))
    config = replaced(config, "enrolment", public_address=dialled)
    found = problems(check_certificate(config, NOW))
    assert (found == []) is fits
    assert all("vehicles dial" in one.message for one in found)


def test_a_key_that_others_may_read_is_found(config):
    Path(config.fleet_door.key).chmod(0o644)
    assert "chmod 600" in only_problem(check_certificate(config, NOW))


@pytest.mark.parametrize("name", ["certificate", "key", "ca"])
@pytest.mark.parametrize("content", [None, b"", b"no PEM"])
def test_a_file_that_is_missing_or_broken_is_named(config, name, content):
    path = config.state_folder.parent / "tls" / Path(getattr(config.fleet_door, name)).name
    path.unlink()
    if content is not None:
        path.touch(0o600)
        path.write_bytes(content)
    assert path.name in only_problem(check_certificate(config, NOW))


def test_a_vehicle_cannot_be_the_aggregator(tmp_path):
    config = small_server(tmp_path, role=Role.VEHICLE)
    assert "is a vehicle's" in only_problem(check_aggregator(config, NOW))


def test_an_aggregator_without_a_sealing_key_is_a_warning(config, tmp_path):
    (tmp_path / "aggregator" / "sealing.key").unlink()
    findings = list(check_aggregator(config, NOW))
    assert problems(findings) == []
    assert any("no sealing key" in one.message for one in findings)


def test_a_list_of_revocations_that_ended_is_a_problem(config):
    later = NOW + timedelta(days=120)
    (found,) = [one for one in check_aggregator(config, later) if one.subject == "revocations"]
    assert found.level is Level.PROBLEM
    assert "convoy fleet revoke" in found.message


def test_a_missing_aggregator_folder_says_how_to_make_one(config, tmp_path):
    gone = replaced(config, "identity", aggregator=str(tmp_path / "nobody"))
    assert "--role aggregator" in only_problem(check_aggregator(gone, NOW))


def test_who_signs_for_new_devices_is_told(config, tmp_path):
    create_fleet(tmp_path / "fleet", FleetAuthority.create(NOW))
    signing = replaced(config, "enrolment", authority=str(tmp_path / "fleet"))
    assert [one.level for one in check_authority(signing)] == [Level.OK]
    broken = replaced(config, "enrolment", authority=str(tmp_path / "none"))
    assert "convoy fleet init" in only_problem(check_authority(broken))
    silent = replaced(config, "enrolment", public_address="")
    assert [one.level for one in check_authority(silent)] == [Level.WARNING, Level.OK]


def test_releases_that_vehicles_would_refuse_are_a_problem(config, tmp_path):
    assert problems(check_releases(config, NOW)) == []  # none are served
    stage = ReleaseStage(tmp_path / "stage", NOW)
    save_online_keys(stage.releases / "online", stage.online)
    served = replaced(config, "releases", folder=str(stage.releases))
    served = replaced(served, "enrolment", public_address="127.0.0.1:9091")
    assert problems(check_releases(served, NOW)) == []
    assert "timestamp: expired on" in only_problem(check_releases(served, NOW + timedelta(days=2)))
    (stage.releases / "online" / "timestamp.key").unlink()
    assert "timestamp.key: No such file" in only_problem(check_releases(served, NOW))


def test_releases_without_enrolment_are_a_problem(config, tmp_path):
    served = replaced(config, "releases", folder=str(tmp_path / "nowhere"))
    served = replaced(served, "enrolment", public_address="")
    without_enrolment, without_folder = problems(check_releases(served, NOW))
    assert "set [enrolment] public_address" in without_enrolment.message
    assert "No such file" in without_folder.message


def test_a_state_folder_that_others_read_is_a_problem(config):
    config.state_folder.mkdir(mode=0o755)
    assert "chmod 700" in only_problem(check_folders(config))


def test_a_file_in_place_of_a_folder_is_a_problem(config):
    config.runs_folder.write_text("")
    assert "is no folder" in only_problem(check_folders(config))


def test_a_full_disk_is_a_problem(config):
    full = replaced(config, "runs", keep_free_mb=10**9)
    assert len(problems(check_disk(full))) == 2


def test_a_name_that_leads_off_this_machine_is_no_private_door(config, monkeypatch):
    door = dataclasses.replace(config, private_door=PrivateDoorConfig(host="localhost"))
    assert problems(check_private_door(door)) == []
    elsewhere = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.7", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: elsewhere)
    assert "192.0.2.7" in only_problem(check_private_door(door))


def test_metrics_for_everybody_are_a_warning(config):
    (found,) = check_metrics_door(replaced(config, "metrics", host="0.0.0.0"))
    assert found.level is Level.WARNING


def test_a_port_that_is_taken_is_named(config):
    with socket.create_server(("127.0.0.1", config.services.port)):
        message = only_problem(check_ports(config))
    assert message.startswith(f"[services] 127.0.0.1:{config.services.port}: somebody listens")
    assert problems(check_ports(config)) == []


@pytest.mark.parametrize(
    ("answers", "age_s", "taken"), [(True, 0, 0), (True, 60, 1), (False, 0, 1)]
)
def test_beside_a_running_service_its_own_ports_are_well(config, answers, age_s, taken):
    config.state_folder.mkdir(mode=0o700)
    save_health(config.state_folder, ServiceHealth(superlink_answers=answers))
    told_s = time.time() - age_s
    os.utime(config.state_folder / HEALTH_FILE, (told_s, told_s))
    with socket.create_server(("127.0.0.1", config.services.port)):
        assert len(problems(check_ports(config))) == taken


def test_an_address_of_another_machine_is_named(config):
    away = replaced(config, "services", host="192.0.2.7")
    assert "no such address" in only_problem(check_ports(away))


@pytest.mark.parametrize(
    ("state", "level"),
    [(0, Level.OK), (5, Level.WARNING), (-1, Level.WARNING)],  # TIME_OK, TIME_ERROR, unknown
)
def test_a_clock_that_nothing_keeps_in_step_is_a_warning(state, level):
    assert clock_finding(state).level is level
