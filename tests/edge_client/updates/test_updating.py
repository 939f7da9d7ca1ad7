"""A vehicle and the running service: fetched over gRPC, examined, reported, and its telemetry kept once."""

import dataclasses
from datetime import UTC, datetime

import pytest

from convoy_edge_client.agent.agent_config import load_agent_config
from convoy_edge_client.agent.resident import _Chores
from convoy_edge_client.agent.run_states import RunStates
from convoy_edge_client.agent.traffic import TrafficLedger
from convoy_edge_client.preflight.preflight_config import PreflightConfig
from convoy_edge_client.updates import states
from convoy_edge_client.updates.releases_config import ReleasesConfig
from convoy_edge_client.updates.states import State
from convoy_edge_client.updates.telemetry_ring import TelemetryLine, TelemetryRing
from convoy_edge_client.updates.update_file import UpdateFile
from convoy_edge_client.updates.updating import Updating
from convoy_protos.release_manifest import Variant
from convoy_server.releases import proposal
from convoy_server.releases.release_keys import OFFLINE_THRESHOLD
from convoy_server.releases.report_book import BOOK_FILE, ReportBook
from convoy_server.releases.rollout import Outcome
from convoy_server.releases.telemetry_book import TELEMETRY_FILE, TelemetryBook
from convoy_simulation.releases import small_release
from convoy_simulation.releases.service_stage import ServiceStage

NOW = datetime.now(UTC)
PREFLIGHT = PreflightConfig(providers=("cpu",), frame_period_ms=1e6, repetitions=3)
LINE = TelemetryLine(
    time_s=1.0,
    release="factory",
    provider="cpu",
    state="idle",
    frames=5,
    missed=1,
    failures=0,
    p50_ms=1.0,
    p99_ms=2.0,
    longest_ms=3.0,
    steering_bins=(0,) * 15,
    mean_entropy=0.5,
    entropy_drift=0.0,
)


def publish(stage, folder):
    """A real, tiny release for everybody."""
    made = small_release.model()
    small_release.write_release(
        folder,
        {Variant.FP32: made.SerializeToString()},
        small_release.golden(made),
        counter=0,
    )
    proposal.propose(stage.releases, proposal.read_source(folder), NOW, stage.lifetimes)
    proposal.countersign(stage.releases, stage.offline.targets[:OFFLINE_THRESHOLD])
    new = proposal.publish(stage.releases, stage.online, NOW, stage.lifetimes).new
    stage.point(new)
    return new.release


@pytest.mark.slow
def test_a_vehicle_updates_reports_and_tells_over_the_service(tmp_path):
    service = ServiceStage(tmp_path, NOW, {"car-1"})
    release = publish(service.stage, tmp_path / "built")
    car = tmp_path / "car"
    ring = TelemetryRing(car, 1000)
    for _ in range(70):  # more than one batch
        ring.add(LINE)
    (car / "root.json").write_bytes(service.stage.bootstrap_root)
    tls = service.client_tls("car-1")
    with service.running() as address:
        config = ReleasesConfig(server=address, folder=str(car))
        updating = Updating(config, PREFLIGHT, "car-1", lambda: tls)
        assert updating.turn(datetime.now(UTC)).state is State.SHADOW
    assert ring.oldest(100) == []
    assert UpdateFile(car).read().reports == ()
    (report,) = ReportBook(service.stage.releases / BOOK_FILE).reports(release)
    assert report.outcome is Outcome.STARTED
    kept = TelemetryBook(service.stage.releases / TELEMETRY_FILE).newest("car-1", 100)
    assert [line.number for line in kept] == list(range(70, 0, -1))
    assert (kept[0].release, kept[0].frames) == ("factory", 5)


def test_with_the_server_down_everything_waits(tmp_path):
    service = ServiceStage(tmp_path, NOW, {"car-1"})
    car = tmp_path / "car"
    TelemetryRing(car, 10).add(LINE)
    file = UpdateFile(car)
    file.step(
        lambda r: states.download_begins(
            dataclasses.replace(r, state=State.CHECKING),
            states.Slot(release="spring", counter=1, models=()),
        )
    )
    file.step(lambda r: states.preparing_failed(r, "disk", of_release=False))
    (car / "root.json").write_bytes(service.stage.bootstrap_root)
    tls = service.client_tls("car-1")
    config = ReleasesConfig(server="127.0.0.1:1", folder=str(car))
    record = Updating(config, PREFLIGHT, "car-1", lambda: tls).turn(datetime.now(UTC))
    assert len(record.reports) == 2
    assert len(TelemetryRing(car, 10).oldest(10)) == 1


@pytest.mark.parametrize("named", [True, False])
def test_the_agent_updates_between_its_messages_where_a_repository_is_named(tmp_path, named):
    service = ServiceStage(tmp_path, NOW, set())
    toml = tmp_path / "agent.toml"
    depot = f'depot = "{service.stage.repository}"' if named else ""
    toml.write_text(
        f'[vehicle]\nvehicle_id = "car-1"\nrecordings = ["tubs"]\n[releases]\n{depot}\n'
        'check_every_s = 60\n[preflight]\nproviders = ["cpu"]\nframe_period_ms = 1e6\n'
    )
    config = load_agent_config(toml)
    folder = config.releases.folder_path
    folder.mkdir(parents=True)
    (folder / "root.json").write_bytes(service.stage.bootstrap_root)
    publish(service.stage, tmp_path / "built")
    chores = _Chores(config, RunStates(tmp_path / "runs"), TrafficLedger(tmp_path / "traffic.json"))
    chores.do()
    assert UpdateFile(folder).read().state is (State.SHADOW if named else State.IDLE)
