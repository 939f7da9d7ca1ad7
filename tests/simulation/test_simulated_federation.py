"""The two real apps in the in-process grid: faults are survived, engines agree to the last bit."""

from collections import Counter

import pytest
from small_federation import model_bytes, round_lines, run_small_federation, small_run
from small_fleet import record_small_fleet

from convoy_simulation.faults import FAULTS, FaultConfig, FaultRule

REASONS = {
    "not_finite": 2,
    "wrong_length": 1,
    "wrong_schema": 1,
    "wrong_round": 1,
    "wrong_run": 1,
    "wrong_vehicle": 1,
    "wrong_codec": 1,
    "replayed": 1,
    "truncated": 1,
    "oversized": 1,
    "malformed": 1,
    "bad_example_count": 2,
    "wrong_metrics": 2,
    "client_error": 1,
}


OF_A_SECURE_SUM = {"lost_after_check_in", "lost_before_upload", "lost_before_unmask", "lost_helper"}
"""Stages that only masked updates pass; test_protected_federation.py watches them."""
OF_A_SIGNATURE = {"wrong_context", "forged_signature"}
"""What updates in the clear do not have, or nobody looks at."""
PLAIN_FAULTS = [
    kind for kind in FAULTS if kind not in {"poison"} | OF_A_SECURE_SUM | OF_A_SIGNATURE
]
"""Poison is no fault that a reply shows."""


@pytest.fixture(scope="module")
def large_fleet(tmp_path_factory):
    """Three honest vehicles and one for each fault."""
    folder = tmp_path_factory.mktemp("large_fleet")
    return record_small_fleet(folder, vehicle_count=3 + len(PLAIN_FAULTS), frames=30)


@pytest.mark.slow
def test_every_fault_is_one_rejection_and_leaves_the_model_of_the_others(large_fleet, tmp_path):
    run = small_run(rounds=3, quorum=3)
    faulty = list(large_fleet.vehicles)[3:]
    kinds = dict(zip(faulty, PLAIN_FAULTS, strict=True))
    # Nothing can be replayed in the first round: there the replaying vehicle is honest.
    rounds = {vehicle: (2, 3) if kind == "replayed" else () for vehicle, kind in kinds.items()}
    with_faults = FaultConfig(
        vehicles={v: FaultRule(kind=kind, rounds=rounds[v]) for v, kind in kinds.items()}
    )
    silent = FaultConfig(
        vehicles={v: FaultRule(kind="never_answers", rounds=rounds[v]) for v in faulty}
    )

    run_small_federation(large_fleet, run, tmp_path / "faults", faults=with_faults)
    run_small_federation(large_fleet, run, tmp_path / "silent", faults=silent)

    first, *others = round_lines(tmp_path / "faults")
    for line in others:
        assert line["rejected"] == REASONS
        assert len(line["rejections"]) == len(PLAIN_FAULTS) - 1
        assert {each["vehicle"] for each in line["rejections"]} == {
            vehicle for vehicle, kind in kinds.items() if kind != "never_answers"
        }
        assert (line["invited"], line["completed"], line["lost"]) == (3 + len(PLAIN_FAULTS), 3, 1)
        assert line["outcome"] == "done"
    assert first["rejected"] == {k: n for k, n in REASONS.items() if k != "replayed"}
    assert first["completed"] == 4
    assert model_bytes(tmp_path / "faults") == model_bytes(tmp_path / "silent")


@pytest.mark.slow
@pytest.mark.parametrize(
    "rounds",
    [
        {},  # everybody trains
        {"cohort_size": 3, "over_selection": 1.6},  # some are invited in vain
    ],
)
def test_every_engine_gives_the_same_model_bit_for_bit(small_fleet, tmp_path, rounds):
    run = small_run(**rounds)
    engines = {"serial": 1, "threads": 3, "processes": 2}

    for engine, workers in engines.items():
        run_small_federation(small_fleet, run, tmp_path / engine, engine=engine, workers=workers)

    assert len({model_bytes(tmp_path / engine) for engine in engines}) == 1
    lines = [round_lines(tmp_path / engine) for engine in engines]
    assert lines[0] == lines[1] == lines[2]
    assert Counter(lines[0][0]["rejected"]) == Counter()


@pytest.mark.slow
def test_a_client_that_fails_in_a_worker_costs_one_update_and_no_more(small_fleet, tmp_path):
    faults = FaultConfig(vehicles={"car2": FaultRule(kind="exception", rounds=(1,))})

    run_small_federation(
        small_fleet, small_run(), tmp_path / "out", engine="processes", workers=2, faults=faults
    )

    first, second = round_lines(tmp_path / "out")
    assert (first["completed"], first["rejected"]) == (5, {"client_error": 1})
    assert first["rejections"][0]["detail"].startswith("InjectedFaultError")
    assert (second["completed"], second["rejected"]) == (6, {})


def test_resuming_a_finished_run_changes_nothing(small_fleet, tmp_path):
    run = small_run(rounds=1)
    run_small_federation(small_fleet, run, tmp_path / "out")
    lines, model = round_lines(tmp_path / "out"), model_bytes(tmp_path / "out")

    run_small_federation(small_fleet, run, tmp_path / "out", resume=True)

    assert (round_lines(tmp_path / "out"), model_bytes(tmp_path / "out")) == (lines, model)
