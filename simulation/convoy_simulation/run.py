"""`convoy simulate`: a whole fleet on one machine, from recordings to a report.

    recordings -> vehicles -> federated rounds -> baselines -> release -> closed loop -> report

Server and vehicles are the Flower apps of a deployment; only the grid between them is ours. Every
stage keeps what it has finished in the run directory or the cache, so that an interrupted run goes
on where it was.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from flwr.app import UserConfig

from convoy_compression.model.tensor_ranges import TensorRanges
from convoy_driving.parameters import load_parameters
from convoy_edge_client.vehicle_config import NODE_CONFIG_KEY, VehicleConfig
from convoy_protos.errors import JobFailedError
from convoy_protos.flower_internals import make_context
from convoy_protos.run_bundle import RUN_KEY
from convoy_server.app import make_server_app
from convoy_server.checkpoint import CHECKPOINT_FOLDER, load_checkpoint
from convoy_server.federation import FederationResult
from convoy_server.observer import RunObserver
from convoy_server.release.build import build_release
from convoy_server.release.calibration_round import ask_for_ranges
from convoy_server.report import on_disk
from convoy_server.report.contract import DriveScore, Picture, Release, Report
from convoy_server.report.travel import privacy_of, update_of
from convoy_server.run_config import (
    KEYS_KEY,
    OUT_KEY,
    OVERWRITE_KEY,
    RESUME_KEY,
    RunConfig,
    run_config_to_json,
)
from convoy_simulation.baselines import CENTRAL, Baseline, baseline_jobs, train_baselines
from convoy_simulation.canary import canary_of
from convoy_simulation.environment import describe
from convoy_simulation.faults import check_vehicles, client_app_factory
from convoy_simulation.fleet import check_unseen, fleet_appearances
from convoy_simulation.in_process_grid import InProcessGrid
from convoy_simulation.proxy import load_proxy, simulated_proxy
from convoy_simulation.report_assembly import (
    baselines_of,
    curves_of,
    final_of,
    fleet_of,
)
from convoy_simulation.resource_meter import ResourceMeter
from convoy_simulation.roads.closed_loop import (
    ClosedLoopResult,
    DriverSource,
    closed_loop_scores,
)
from convoy_simulation.roads.pictures import save_pictures
from convoy_simulation.roads.torch_driver import TorchDriver
from convoy_simulation.scenario import Scenario, run_config
from convoy_simulation.vehicles import (
    AGGREGATOR,
    check_sum_size,
    decode,
    recorded_vehicles,
    roadside_units,
    simulated_vehicles,
    write_vehicle_files,
)
from convoy_simulation.worker_pool import Progress, worker_count

logger = logging.getLogger(__name__)

FLEET_FOLDER = "fleet"
SERVER_NODE = 1
FIRST_NODE = 1000
FEDERATED = "federated_int8"
SINGLE = "single_vehicle"


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationPlan:
    """What the command line adds to a scenario.

    Attributes:
        out: The run directory.
        cache_dir: Recorded fleets and decoded frames, kept between runs.
        recordings: The user's recordings; empty lets the simulator record the fleet.
        proxy: Recordings that the server may see; empty takes [release] proxy.
        resume: Go on from the last finished round, if there is one.
        overwrite: Delete the run that the directory holds.
        command: What to type to get the same run.
    """

    out: Path
    cache_dir: Path
    recordings: Sequence[Path] = ()
    proxy: Sequence[Path] = ()
    resume: bool = False
    overwrite: bool = False
    command: str = "convoy simulate"


def simulate(scenario: Scenario, plan: SimulationPlan, observer: RunObserver) -> Report:
    """Run a scenario and write its report.

    Raises:
        UsageError: Scenario, recordings or run directory cannot be used.
        JobFailedError: The run could not be finished.
        RunInterruptedError: Ctrl-C; what is finished is on disk.
    """
    environment = describe(plan.command)
    with ResourceMeter() as meter:
        run = run_config(scenario)
        # The simulator's roads say nothing about a model of real recordings.
        drives = scenario.closed_loop.enabled and not plan.recordings
        if drives:
            check_unseen(scenario.fleet, scenario.closed_loop.track_seeds)
        vehicles = gather_vehicles(scenario, plan, observer)
        units = roadside_units(scenario.update, scenario.fleet.roadside_units)
        check_vehicles(scenario.faults, [*(vehicle.vehicle_id for vehicle in vehicles), *units])
        check_sum_size(scenario.update, scenario.round, len(vehicles))
        result = run_rounds(scenario, plan, vehicles, observer)
        trained = compare(scenario, plan.out, vehicles, observer)
        roads = _Roads(scenario, observer) if drives else None
        release = release_model(
            scenario, plan, vehicles=vehicles, result=result, roads=roads, observer=observer
        )
        if roads is not None:
            roads.drive(_baseline_drivers(run, trained))
        alone = {baseline.name: baseline for baseline in trained if baseline.name != CENTRAL}
        used = meter.read()
        report = Report(
            scenario=scenario.name,
            seed=scenario.seed,
            wall_s=used.wall_s,
            cpu_s=used.cpu_s,
            peak_rss_bytes=used.peak_rss_bytes,
            fleet=fleet_of(result),
            rounds=result.records,
            final=final_of(result, alone),
            baselines=baselines_of(trained),
            update=update_of(run, result.records),
            privacy=privacy_of(run, result.records),
            release=release,
            closed_loop=roads.scores() if roads is not None else None,
            curves=curves_of(result.records, trained, run.training.local_epochs),
            pictures=roads.pictures(plan.out) if roads is not None else (),
            environment=environment,
            rounds_planned=run.round.rounds,
        )
    on_disk.save(report, plan.out)
    return report


def gather_vehicles(
    scenario: Scenario, plan: SimulationPlan, observer: RunObserver
) -> list[VehicleConfig]:
    """Record or find the fleet's recordings and decode them; leaves out who has nothing usable."""
    if plan.recordings:
        vehicles = recorded_vehicles(plan.recordings, scenario.fleet, plan.cache_dir)
    else:
        vehicles = simulated_vehicles(
            scenario.fleet, scenario.seed, plan.cache_dir, _phase(observer, "record the fleet")
        )
    return decode(
        vehicles, scenario.data, scenario.fleet.workers, _phase(observer, "decode recordings")
    )


def run_rounds(
    scenario: Scenario,
    plan: SimulationPlan,
    vehicles: Sequence[VehicleConfig],
    observer: RunObserver,
) -> FederationResult:
    """Run the server's app over an in-process grid of the vehicles' app."""
    results: list[FederationResult] = []
    server_app = make_server_app(observer, results.append, canary_of(scenario, plan.cache_dir))
    settings = _settings(scenario, plan)
    with _fleet_grid(scenario, plan, vehicles) as grid:
        server_app(grid, make_context(SERVER_NODE, {}, settings, run_id=1))
    return results[0]


def _settings(scenario: Scenario, plan: SimulationPlan) -> UserConfig:
    """What server and vehicles find in Flower's run configuration."""
    return {
        RUN_KEY: run_config_to_json(run_config(scenario)),
        OUT_KEY: str(plan.out),
        RESUME_KEY: plan.resume,
        OVERWRITE_KEY: plan.overwrite,
        KEYS_KEY: str(plan.out / FLEET_FOLDER / AGGREGATOR),
    }


def _fleet_grid(
    scenario: Scenario, plan: SimulationPlan, vehicles: Sequence[VehicleConfig]
) -> InProcessGrid:
    """The vehicles' app, once for each of them."""
    files = write_vehicle_files(
        vehicles, plan.out / FLEET_FOLDER, scenario.update, scenario.fleet.roadside_units
    )
    nodes: dict[int, UserConfig] = {
        FIRST_NODE + index: {NODE_CONFIG_KEY: str(file)} for index, file in enumerate(files)
    }
    return InProcessGrid(
        client_app_factory(scenario.faults),
        nodes,
        workers=worker_count(scenario.fleet.workers),
        engine=scenario.fleet.engine,
        run_config=_settings(scenario, plan),
    )


def compare(
    scenario: Scenario, out: Path, vehicles: Sequence[VehicleConfig], observer: RunObserver
) -> list[Baseline]:
    """Train every vehicle alone and all together, unless the scenario wants no comparison."""
    if not scenario.baselines.enabled:
        return []
    jobs = baseline_jobs(scenario.baselines, run_config(scenario), vehicles, out / "baselines")
    return train_baselines(jobs, scenario.fleet.workers, _phase(observer, "train baselines"))


def release_model(
    scenario: Scenario,
    plan: SimulationPlan,
    *,
    vehicles: Sequence[VehicleConfig],
    result: FederationResult,
    roads: "_Roads | None",
    observer: RunObserver,
) -> Release | None:
    """Build the vehicle's file; None where the scenario or the lack of proxy frames forbids it."""
    run = run_config(scenario)
    if not run.release.enabled:
        return None
    recordings = list(plan.proxy) or [Path(path) for path in run.release.proxy]
    if not recordings and plan.recordings:
        logger.warning(
            "no release: the vehicles' own recordings stay with them; name recordings that the "
            "server may see with --proxy, or in [release] proxy"
        )
        return None
    if not recordings:
        recordings = simulated_proxy(
            scenario.fleet,
            run.release.proxy_frames,
            scenario.seed,
            plan.cache_dir,
            _phase(observer, "record proxy frames"),
        )
    checkpoint = load_checkpoint(plan.out / CHECKPOINT_FOLDER)
    if checkpoint is None:
        raise JobFailedError(f"{plan.out}: the checkpoint has gone; run the scenario again")

    def ask_vehicles(network: bytes, names: tuple[str, ...]) -> Mapping[str, TensorRanges]:
        with _fleet_grid(scenario, plan, vehicles) as grid:
            return ask_for_ranges(
                grid,
                [FIRST_NODE + index for index in range(len(vehicles))],
                network,
                names,
                vehicles=run.release.calibration_vehicles,
                frames=run.release.calibration_frames,
                timeout_s=run.round.deadline_s,
                rng=np.random.default_rng(scenario.seed),
            )

    outcome = build_release(
        run=run,
        result=result,
        proxy=load_proxy(recordings, run.data, plan.cache_dir),
        out=plan.out,
        run_id=checkpoint.run_id,
        ask_vehicles=ask_vehicles,
        closed_loop_score=roads.score_of if roads is not None else None,
        on_progress=observer.phase,
    )
    return outcome.report


class _Roads:
    """Everybody's drives on the unseen tracks, gathered as the drivers come to be."""

    def __init__(self, scenario: Scenario, observer: RunObserver) -> None:
        self._scenario = scenario
        self._observer = observer
        self._drives: ClosedLoopResult | None = None

    def score_of(self, model: Path) -> float:
        """Mean share of track covered by an int8 file; the release's closed-loop gate."""
        return self.drive({FEDERATED: model}).track_covered(FEDERATED)

    def drive(self, drivers: Mapping[str, DriverSource]) -> ClosedLoopResult:
        """Let more drivers drive; the expert comes with the first of them."""
        scenario = self._scenario
        new = closed_loop_scores(
            drivers,
            scenario.closed_loop,
            fleet_appearances(scenario.fleet),
            scenario.data,
            camera=scenario.fleet.camera,
            expert=self._drives is None,
            seed=scenario.seed,
            progress=_phase(self._observer, "drive in closed loop"),
        )
        before = self._drives.drives if self._drives is not None else {}
        self._drives = ClosedLoopResult(
            {
                appearance: {**before.get(appearance, {}), **by_driver}
                for appearance, by_driver in new.drives.items()
            }
        )
        return new

    def scores(self) -> dict[str, dict[str, DriveScore]] | None:
        """As in report.json."""
        if self._drives is None:
            return None
        return {
            appearance: {
                driver: DriveScore(
                    track_covered=means["track_covered"],
                    off_road_share=means["off_road_share"],
                    return_=means["return"],
                )
                for driver, means in by_driver.items()
            }
            for appearance, by_driver in self._drives.report().items()
        }

    def pictures(self, out: Path) -> tuple[Picture, ...]:
        """Written into the run directory."""
        if self._drives is None:
            return ()
        return save_pictures(self._drives, out / "pictures", out)


def _baseline_drivers(run: RunConfig, trained: Sequence[Baseline]) -> dict[str, DriverSource]:
    """The first vehicle alone stands for all that trained alone."""
    first_alone = next((baseline for baseline in trained if baseline.name != CENTRAL), None)
    central = next((baseline for baseline in trained if baseline.name == CENTRAL), None)
    return {
        name: TorchDriver(load_parameters(baseline.path)[0], run.model, run.data)
        for name, baseline in ((SINGLE, first_alone), (CENTRAL, central))
        if baseline is not None
    }


def _phase(observer: RunObserver, name: str) -> Progress:
    return lambda done, total: observer.phase(name, done, total)
