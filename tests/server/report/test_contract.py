"""report.json: the keys that outside checks rely on, and errors that name the file and the key."""

import dataclasses
import json
import math

import pytest

from convoy_protos.errors import UsageError
from convoy_server.report import contract
from convoy_server.report.contract import from_json, to_json

# Keys of the design, in words of their own: dots for nesting, [] for a list, * for any name.
CONTRACT = """
schema scenario seed wall_s cpu_s peak_rss_bytes
fleet.vehicles fleet.examples fleet.parameters
rounds[].round rounds[].invited rounds[].completed rounds[].lost rounds[].rejected
rounds[].uplink_bytes rounds[].downlink_bytes rounds[].wall_s rounds[].virtual_s
rounds[].train_loss rounds[].balanced_accuracy rounds[].accuracy rounds[].throttle_mae
rounds[].epsilon
final.balanced_accuracy final.accuracy final.throttle_mae
final.worst_vehicle.id final.worst_vehicle.balanced_accuracy
final.per_vehicle.*.examples final.per_vehicle.*.balanced_accuracy
baselines.single_vehicle.balanced_accuracy baselines.central.balanced_accuracy
update.codec update.encrypted update.bits_per_parameter update.bytes update.float32_bytes
privacy.secure_aggregation privacy.clip_norm privacy.noise_multiplier privacy.epsilon
privacy.delta
release.accepted release.gates[].name release.gates[].value release.gates[].limit
release.gates[].passed release.teacher_parameters release.student_parameters
release.fp32_bytes release.int8_bytes release.fp32_balanced_accuracy
release.int8_balanced_accuracy release.latency_ms.torch_p50 release.latency_ms.fp32_p50
release.latency_ms.int8_p50 release.sha256
closed_loop.*.federated_int8.track_covered closed_loop.*.federated_int8.off_road_share
closed_loop.*.federated_int8.return closed_loop.*.single_vehicle.return
closed_loop.*.central.return closed_loop.*.expert.return
"""


def walk(value, path):
    """Every element that a path of the contract names."""
    if not path:
        yield value
        return
    step, _, rest = path.partition(".")
    if step.endswith("[]"):
        assert isinstance(value[step[:-2]], list)
        for item in value[step[:-2]]:
            yield from walk(item, rest)
    else:
        for item in value.values() if step == "*" else [value[step]]:
            yield from walk(item, rest)


@pytest.mark.parametrize("path", CONTRACT.split())
def test_every_key_of_the_contract_is_in_the_file(full_report, path):
    assert list(walk(json.loads(to_json(full_report)), path))


def test_reading_gives_back_what_was_written(full_report):
    report = full_report
    assert from_json(to_json(report), "report.json") == report


def test_what_was_switched_off_is_null(full_report):
    report = dataclasses.replace(full_report, release=None, closed_loop=None)
    table = json.loads(to_json(report))
    assert table["release"] is table["closed_loop"] is table["privacy"]["epsilon"] is None
    assert from_json(to_json(report), "report.json") == report


def test_a_figure_that_is_not_finite_is_null_because_json_has_no_word_for_it(full_report):
    report = full_report
    diverged = dataclasses.replace(report.rounds[0], train_loss=math.inf, accuracy=math.nan)
    table = json.loads(to_json(dataclasses.replace(report, rounds=(diverged,))))
    assert table["rounds"][0]["train_loss"] is table["rounds"][0]["accuracy"] is None


def test_keys_of_a_newer_version_are_skipped(full_report):
    table = json.loads(to_json(full_report))
    table["invented_later"] = {"x": 1}
    table["rounds"][0]["invented_later"] = 2
    table["final"]["per_vehicle"]["car0"]["invented_later"] = 3
    assert from_json(json.dumps(table), "report.json") == full_report


def set_in(table, path, value):
    *above, last = path
    for step in above:
        table = table[step]
    if value is None:
        del table[last]
    else:
        table[last] = value


@pytest.mark.parametrize(
    ("path", "value", "error"),
    [
        (["seed"], None, r"runs/x/report\.json: seed is missing"),
        (["seed"], "seven", r"runs/x/report\.json: seed: expected int, got 'seven'"),
        (["final", "worst_vehicle", "id"], None, "final worst_vehicle id is missing"),
        (["rounds", 1, "invited"], None, r"rounds\[1\] invited is missing"),
        (["final", "per_vehicle", "car0", "examples"], 1.5, r"per_vehicle\.car0 examples: .* int"),
        (["rounds"], {}, "rounds: expected list"),
        (
            ["schema"],
            "convoy.report/2",
            "schema: expected 'convoy.report/1', got 'convoy.report/2'",
        ),
    ],
)
def test_a_broken_file_is_refused_with_the_key_named(full_report, path, value, error):
    table = json.loads(to_json(full_report))
    set_in(table, path, value)
    with pytest.raises(UsageError, match=error):
        from_json(json.dumps(table), "runs/x/report.json")


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "null", '"report"'])
def test_what_is_no_report_is_refused_with_the_file_named(text):
    with pytest.raises(UsageError, match=r"runs/x/report\.json"):
        from_json(text, "runs/x/report.json")


def test_a_file_that_is_not_there_is_refused_with_its_name(tmp_path):
    with pytest.raises(UsageError, match=r"report\.json: cannot be read"):
        contract.read(tmp_path / "report.json")


def test_a_file_of_other_bytes_is_refused_with_its_name(tmp_path):
    (tmp_path / "report.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match=r"report\.json: cannot be read"):
        contract.read(tmp_path / "report.json")
