"""The verbs that need the simulator."""

import contextlib
import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from convoy_protos.errors import UsageError
from convoy_simulation.scenarios import DEMO

CACHE = Path.home() / ".cache" / "convoy"

CacheOption = Annotated[
    Path,
    typer.Option(
        "--cache",
        help="Recorded fleets and decoded frames, kept between runs.",
        show_default="~/.cache/convoy",
    ),
]


def simulate(  # noqa: PLR0917 - one parameter an option
    out: Annotated[Path, typer.Option(help="The run directory.")],
    scenario: Annotated[
        Path,
        typer.Argument(metavar="[SCENARIO.toml]", help="What to run.", show_default="the demo"),
    ] = DEMO,
    data: Annotated[
        list[Path] | None,
        typer.Option(help="Your recordings, a vehicle each, instead of simulated ones."),
    ] = None,
    proxy: Annotated[
        list[Path] | None,
        typer.Option(help="Recordings that the server may see, to make the release from."),
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="Instead of the scenario's.")] = None,
    seed: Annotated[int | None, typer.Option(help="Instead of the scenario's.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where it stopped.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete the run that is in the directory.")
    ] = False,
    cache: CacheOption = CACHE,
) -> int:
    """Train a whole fleet on this machine, release a small model, write a report.

    Example:
        convoy simulate --out runs/demo
        convoy simulate my.toml --data recordings --out runs/mine
    """
    from convoy_server.errors import RunInterruptedError
    from convoy_server.observer_group import ObserverGroup
    from convoy_server.progress import progress_display
    from convoy_server.report.on_disk import PAGE_FILE
    from convoy_server.report.summary import print_summary
    from convoy_server.tensorboard import TensorBoardObserver, tensorboard_installed
    from convoy_simulation.run import SimulationPlan
    from convoy_simulation.run import simulate as run_simulation
    from convoy_simulation.scenario import load_scenario

    plan = SimulationPlan(
        out=out,
        cache_dir=cache,
        recordings=data or (),
        proxy=proxy or (),
        resume=resume,
        overwrite=overwrite,
        command=shlex.join(["convoy", *sys.argv[1:]]),
    )
    chosen = load_scenario(scenario).with_overrides(rounds=rounds, seed=seed)
    console = Console()
    with contextlib.ExitStack() as stack:
        display = stack.enter_context(progress_display(console))
        observer = ObserverGroup([display])
        if tensorboard_installed():
            events = TensorBoardObserver(out)
            stack.callback(events.close)
            observer = ObserverGroup([display, events])
        try:
            report = run_simulation(chosen, plan, observer)
        except RunInterruptedError as interrupt:
            raise KeyboardInterrupt(str(interrupt)) from interrupt
        except KeyboardInterrupt as interrupt:
            raise KeyboardInterrupt(
                "stopped; run the same command with --resume to go on"
            ) from interrupt
    print_summary(report, console)
    console.print(f"report         {out / PAGE_FILE}", soft_wrap=True, highlight=False)
    return 1 if report.release is not None and not report.release.accepted else 0


def evaluate(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="A released model.")],
    data: Annotated[
        list[Path] | None, typer.Option(help="Recordings to compare it with, all frames.")
    ] = None,
    closed_loop: Annotated[
        bool, typer.Option("--closed-loop", help="Let it drive in the simulator.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
    cache: CacheOption = CACHE,
) -> None:
    """Measure a released model: on recordings, or driving in the simulator.

    Example:
        convoy evaluate runs/demo/release/model.int8.onnx --closed-loop
    """
    if bool(data) == closed_loop:
        raise UsageError("name either recordings with --data, or --closed-loop")
    from convoy_simulation.evaluation import evaluate_on_recordings, evaluate_on_roads, table_of

    figures = evaluate_on_recordings(model, data, cache) if data else evaluate_on_roads(model)
    if as_json:
        print(json.dumps(figures, indent=1))
    else:
        Console().print(table_of(figures))


def data_record(
    out: Annotated[Path, typer.Option(help="Folder for the recordings; new, or of this fleet.")],
    scenario: Annotated[
        Path, typer.Option(help="Whose [fleet] drives.", show_default="the demo")
    ] = DEMO,
    vehicles: Annotated[
        int | None, typer.Option(help="How many vehicles, instead of the scenario's.", min=1)
    ] = None,
    frames: Annotated[
        int | None, typer.Option(help="Frames a vehicle, instead of the scenario's.", min=1)
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Instead of the scenario's.", min=0)] = None,
) -> None:
    """Let the simulator's expert drive and write Donkeycar tubs, one a vehicle.

    Each vehicle has its own tracks and its own camera: day, dark, fog, …

    Example:
        convoy data record --out recordings
    """
    from convoy_server.progress import progress_display
    from convoy_simulation.fleet import plan_fleet, record_fleet
    from convoy_simulation.scenario import load_scenario

    chosen = load_scenario(scenario).with_overrides(seed=seed)
    fleet = replace(
        chosen.fleet,
        vehicles=vehicles or chosen.fleet.vehicles,
        frames_per_vehicle=frames or chosen.fleet.frames_per_vehicle,
    )
    with progress_display(Console(stderr=True)) as display:
        tubs = record_fleet(
            fleet,
            out,
            chosen.seed,
            fleet.workers,
            lambda done, total: display.phase("record the fleet", done, total),
        )
    for plan, tub in zip(plan_fleet(fleet), tubs, strict=True):
        print(f"{tub}: {plan.frames} frames, {len(plan.track_seeds)} drives")
