"""The watchers of a run of the service, at a real run of a small fleet."""

import logging

from fleet_double import fleet_grid, small_run

from convoy_server.app import run_federation
from convoy_server.service.service_observer import service_observer
from convoy_server.service.status_file import read_status
from convoy_server.service.structured_log import fields_of


class Fields(logging.Handler):
    """Keeps message and fields of every record."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def emit(self, record):
        self.seen.append((record.getMessage(), fields_of(record)))


def test_a_run_leaves_its_status_and_every_record_says_where_it_belongs(tmp_path):
    out = tmp_path / "night"
    fields, logger = Fields(), logging.getLogger("convoy_server")
    logger.addHandler(fields)
    logger.setLevel(logging.INFO)
    try:
        with fleet_grid({"car1": "nan"}, 3) as grid:
            run = small_run(rounds=2)
            run_federation(grid, run, out, resume=False, observer=service_observer(out))
    finally:
        logger.removeHandler(fields)
        logger.setLevel(logging.NOTSET)
    status = read_status(out)
    assert (status.run, status.round, status.rounds) == ("test", 2, 2)
    assert (status.vehicles.accepted, status.vehicles.refused) == (2, 1)
    assert set(status.last_round.phase_s) == {"invite", "train", "aggregate", "evaluate"}
    assert sum(status.last_round.phase_s.values()) > 0
    rounds = {"run": "night", "round": 2}
    vehicles = [said for text, said in fields.seen if text.startswith("round 2: vehicle car1")]
    assert vehicles == [rounds | {"vehicle": "car1"}]
    ends = [said for text, said in fields.seen if text.startswith("round 2 done")]
    assert ends == [rounds]
