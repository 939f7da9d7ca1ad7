"""What the update codecs cost in accuracy: the bit sweep, on whole federated runs.

    python benchmarks/sweep_update_codecs.py --out sweep.jsonl [--task demo] [--seeds 3] [--jobs 2]
    python benchmarks/sweep_update_codecs.py --out sweep.jsonl --task walltrack --data PATH

Trains the fleet of a scenario once for each codec and seed: masked with 2 to 8 bits, sealed with
steps of 0.5 to 4, float32, and as a control float16, whose rounding is too small to matter in
itself: where it ends differs from float32 by chance alone. Only float32 and float16 send the model
down in full; the others send deltas, as Convoy does by default. Baselines, release and drives are
left out.

Each finished run is one line of the file given by --out; runs that stand there are skipped, so an
interrupted sweep goes on where it was. The same command prints the tables again, draws the plots
(--plots FOLDER) and ends with the figures. A run that fails is a line as well.

Balanced accuracy is that of the final model, mean over the vehicles' own held-back laps (final of
report.json). Bytes are those of whole messages, evaluations included (rounds.jsonl). Accuracies are
compared within a seed: another seed means other recordings or another first model.
"""

import argparse
import copy
import json
import math
import multiprocessing
import statistics
import tomllib
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from matplotlib.figure import Figure

from convoy_protos.errors import ConvoyError
from convoy_server.observer import SilentObserver
from convoy_server.report.contract import Report
from convoy_server.round_log import RoundRecord
from convoy_simulation.run import SimulationPlan, simulate
from convoy_simulation.scenario import Scenario, scenario_from_table

Table = dict[str, Any]

SCENARIOS = {"demo": "demo.toml", "walltrack": "donkeycar.toml"}
ORACLE = "float32"
CONTROL = "float16"
UPDATES: dict[str, Table] = {
    ORACLE: {"codec": "float32", "downlink": "full"},
    **{f"masked, {m} bits": {"codec": "masked", "modulus_bits": m} for m in (2, 3, 4, 5, 6, 8)},
    **{f"sealed, step {s:g}": {"codec": "sealed", "sealed_step": s} for s in (0.5, 1.0, 2.0, 4.0)},
    CONTROL: {"codec": "float16", "downlink": "full"},
}
ACCURACY_BAR = 0.01
UPLINK_BARS = {"masked": 1 / 5, "sealed": 1 / 25}
SHOWN_BELOW = 0.06
"""How far below float32 the plot goes."""
COLOURS = {"masked": "#1f6fb4", "sealed": "#c2571a", "float16": "#777777"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run.

    Attributes:
        update: Name of its settings in UPDATES.
        out: Its run directory.
    """

    task: str
    update: str
    scenario: Scenario
    data: tuple[Path, ...]
    out: Path
    cache: Path

    @property
    def key(self) -> Table:
        """What a line of the results file is found by."""
        data = self.scenario.data
        return {
            "task": self.task,
            "update": self.update,
            "seed": self.scenario.seed,
            "rounds": self.scenario.round.rounds,
            "frame": [data.frame_height, data.frame_width],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One codec on one task, over seeds.

    Attributes:
        accuracies: Final balanced accuracy by seed.
        differences: To float32 of the same seed.
    """

    update: str
    runs: Sequence[Table]
    accuracies: Sequence[float]
    differences: Sequence[float]

    @property
    def codec(self) -> str:
        """Without its setting."""
        return self.update.partition(",")[0]

    def mean(self, key: str) -> float:
        """Of a figure over the seeds."""
        return statistics.fmean(run[key] for run in self.runs)


def main() -> None:
    """Run what is not there yet, then show what is."""
    options = parse()
    jobs = [job for task in options.task for job in jobs_of(task, options)]
    lines = run_missing(jobs, options)
    figures: dict[str, float] = {}
    for task in options.task:
        rows = rows_of([job for job in jobs if job.task == task], lines)
        if not rows:
            continue
        print(f"\n{task}\n\n{table_of(rows)}")
        figures |= figures_of(task, rows)
        if options.plots is not None:
            draw(task, rows, options.plots / f"update-codecs-{task}.{options.format}")
    rounded = {name: float(f"{value:.4g}") for name, value in figures.items()}
    print(json.dumps({"benchmark": "sweep_update_codecs", "figures": rounded}))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="results, one JSON line a run")
    parser.add_argument("--task", nargs="+", choices=SCENARIOS, default=["demo"])
    parser.add_argument("--data", type=Path, help="donkeycar_walltrack, for the task walltrack")
    parser.add_argument("--updates", nargs="+", choices=UPDATES, default=list(UPDATES))
    parser.add_argument("--seeds", type=int, default=3, help="how many, from the scenario's on")
    parser.add_argument("--rounds", type=int, help="instead of the scenario's")
    parser.add_argument("--frame-height", type=int, help="pixels, instead of the scenario's")
    parser.add_argument("--frame-width", type=int, help="pixels, instead of the scenario's")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one core each")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "convoy")
    parser.add_argument("--plots", type=Path, help="folder for the plots")
    parser.add_argument("--format", choices=("svg", "png"), default="svg")
    options = parser.parse_args()
    if "walltrack" in options.task and options.data is None:
        parser.error("the task walltrack needs --data PATH/donkeycar_walltrack")
    return options


# The runs.


def jobs_of(task: str, options: argparse.Namespace) -> list[Job]:
    """All runs of a task, one seed after the other, so that an unfinished sweep has whole seeds."""
    source = files("convoy_simulation") / "scenarios" / SCENARIOS[task]
    table = tomllib.loads(source.read_text("utf-8"))
    first_seed = table["seed"]
    return [
        Job(
            task=task,
            update=update,
            scenario=scenario_of(table, update, seed, options),
            data=(options.data,) if task == "walltrack" else (),
            out=options.out.with_suffix("") / f"{task}-{slug(update)}-{seed}",
            cache=options.cache,
        )
        for seed in range(first_seed, first_seed + options.seeds)
        for update in options.updates
    ]


def scenario_of(table: Table, update: str, seed: int, options: argparse.Namespace) -> Scenario:
    """The scenario of one run; with fewer rounds, the same share of them is averaged."""
    changed = copy.deepcopy(table)
    changed["seed"] = seed
    changed["update"] = UPDATES[update]
    rounds = changed["round"]
    if options.rounds is not None:
        averaged = rounds.get("averaged_rounds", 0) * options.rounds / rounds["rounds"]
        rounds |= {"rounds": options.rounds, "averaged_rounds": math.ceil(averaged)}
    rounds["evaluate_every"] = rounds["rounds"]
    for key in ("frame_height", "frame_width"):
        if getattr(options, key) is not None:
            changed.setdefault("data", {})[key] = getattr(options, key)
    changed.setdefault("fleet", {}).update({"engine": "serial", "workers": 1})
    for part in ("baselines", "release", "closed_loop"):
        changed.setdefault(part, {})["enabled"] = False
    return scenario_from_table(changed, table["name"], Path())


def slug(update: str) -> str:
    """For file names and figures: "masked-2-bits"."""
    return update.replace(",", "").replace(" ", "-")


def run_missing(jobs: Sequence[Job], options: argparse.Namespace) -> list[Table]:
    """The lines of the results file, after every job that had none has got one."""
    lines = read_lines(options.out)
    missing = [job for job in jobs if find(job, lines) is None]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, context, torch.set_num_threads, (1,)) as pool:
        for future in as_completed([pool.submit(run, job) for job in missing]):
            line = future.result()
            lines.append(line)
            with options.out.open("a", encoding="utf-8") as results:
                results.write(json.dumps(line) + "\n")
            accuracy = line.get("balanced_accuracy", math.nan)
            print(
                f"{line['task']}, seed {line['seed']}, {line['update']}: {accuracy:.3f}", flush=True
            )
    return lines


def read_lines(path: Path) -> list[Table]:
    """What earlier calls have finished."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def find(job: Job, lines: Iterable[Table]) -> Table | None:
    """A job's line."""
    wanted = job.key
    return next((line for line in lines if wanted.items() <= line.items()), None)


def run(job: Job) -> Table:
    """Train once; in a process of the pool, which has a cache of its own.

    Runs at the same time must not share one: the vehicles' last global models are kept there too.
    """
    plan = SimulationPlan(
        out=job.out,
        cache_dir=job.cache / multiprocessing.current_process().name,
        recordings=job.data,
        overwrite=True,
    )
    try:
        report = simulate(job.scenario, plan, SilentObserver())
    except ConvoyError as error:
        return job.key | {"failed": f"{type(error).__name__}: {error}"}
    return job.key | measured(report)


def measured(report: Report) -> Table:
    """What the sweep keeps of a run."""
    if report.final is None:
        return {"failed": "nobody judged the final model"}
    rounds = report.rounds
    uplink_bytes = sum(record.uplink_bytes for record in rounds)
    return {
        "balanced_accuracy": report.final.balanced_accuracy,
        "worst_vehicle": report.final.worst_vehicle.balanced_accuracy,
        "worst_vehicle_id": report.final.worst_vehicle.id,
        "uplink_bytes": uplink_bytes,
        "uplink_bytes_per_update": uplink_bytes / sum(record.completed for record in rounds),
        "uplink_ratio": uplink_bytes / sum(record.float32_uplink_bytes for record in rounds),
        "downlink_ratio": sum(record.downlink_bytes for record in rounds)
        / sum(record.float32_downlink_bytes for record in rounds),
        "rounds_done": sum(record.outcome == "done" for record in rounds),
        "attempts": [[shard.attempts for shard in record.shards] for record in rounds],
        "wrap_ratios": [shard.wrap_ratio for record in rounds for shard in record.shards],
        "steps": [shard.step for record in rounds for shard in record.shards],
        "troubles": [trouble for record in rounds for trouble in troubles(record)],
        "train_loss": rounds[-1].train_loss,
        "wall_s": report.wall_s,
    }


def troubles(record: RoundRecord) -> list[str]:
    """Whatever should not happen in a fleet without faults."""
    found = [f"rejected {one.vehicle}: {one.reason}" for one in record.rejections]
    found += [f"lost {vehicle}" for vehicle in record.lost_vehicles]
    found += [f"given up: {shard.given_up}" for shard in record.shards if shard.given_up]
    found += [f"abandoned: {record.abandoned_because}"] if record.abandoned_because else []
    found += [f"rolled back: {record.rolled_back}"] if record.rolled_back else []
    return [f"round {record.round}: {what}" for what in found]


# What they say.


def rows_of(jobs: Sequence[Job], lines: Sequence[Table]) -> list[Row]:
    """One row a codec, over the seeds in which it and float32 have ended well."""
    ended: dict[str, dict[int, Table]] = {}
    for job in jobs:
        line = find(job, lines)
        if line is not None and "failed" not in line:
            ended.setdefault(job.update, {})[line["seed"]] = line
    oracle = ended.get(ORACLE, {})
    rows = []
    for update, by_seed in ended.items():
        seeds = sorted(by_seed.keys() & oracle.keys())
        runs = [by_seed[seed] for seed in seeds]
        if runs:
            accuracies = [run["balanced_accuracy"] for run in runs]
            rows.append(
                Row(
                    update=update,
                    runs=runs,
                    accuracies=accuracies,
                    differences=[
                        accuracy - oracle[seed]["balanced_accuracy"]
                        for accuracy, seed in zip(accuracies, seeds, strict=True)
                    ],
                )
            )
    return rows


def table_of(rows: Sequence[Row]) -> str:
    """Markdown."""
    lines = [
        "| update | balanced accuracy | minus float32, by seed | mean | worst vehicle | kB up "
        "| up, of float32 | down, of float32 | bars: accuracy; uplink "
        "| wrap ratio | summed again: first; later rounds |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        wraps = [wrap for run in row.runs for wrap in run["wrap_ratios"] if wrap is not None]
        cells = [
            row.update,
            f"{statistics.fmean(row.accuracies):.3f}",
            ", ".join(f"{difference:+.3f}" for difference in row.differences),
            f"{statistics.fmean(row.differences):+.3f}",
            f"{row.mean('worst_vehicle'):.3f}",
            f"{row.mean('uplink_bytes_per_update') / 1e3:.1f}",
            one_in(row.mean("uplink_ratio")),
            one_in(row.mean("downlink_ratio")),
            bars(row),
            f"{min(wraps):.2f} to {max(wraps):.2f}" if wraps else "",
            retried(row.runs) if wraps else "",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def bars(row: Row) -> str:
    """In how many seeds accuracy is at most ACCURACY_BAR below float32's, and whether bytes suffice."""
    if row.codec not in UPLINK_BARS:
        return ""
    near = sum(difference >= -ACCURACY_BAR for difference in row.differences)
    small = row.mean("uplink_ratio") <= UPLINK_BARS[row.codec]
    return f"{near} of {len(row.differences)}; {'yes' if small else 'no'}"


def retried(runs: Sequence[Table]) -> str:
    """Rounds with more than one sum: the first of a run looks for its range, later ones overflowed."""
    many = [[max(shards, default=1) > 1 for shards in run["attempts"]] for run in runs]
    first = sum(rounds[0] for rounds in many)
    later = sum(sum(rounds[1:]) for rounds in many)
    return f"{first} of {len(many)}; {later} of {sum(len(rounds) - 1 for rounds in many)}"


def one_in(ratio: float) -> str:
    """A share of float32's bytes."""
    return f"{ratio:.3f} (1/{1 / ratio:.1f})"


def figures_of(task: str, rows: Sequence[Row]) -> dict[str, float]:
    """For the last line of the output."""
    figures: dict[str, float] = {}
    for row in rows:
        name = f"{task}_{slug(row.update)}"
        figures |= {
            f"{name}_balanced_accuracy": statistics.fmean(row.accuracies),
            f"{name}_difference": statistics.fmean(row.differences),
            f"{name}_worst_difference": min(row.differences),
            f"{name}_uplink_ratio": row.mean("uplink_ratio"),
            f"{name}_downlink_ratio": row.mean("downlink_ratio"),
            f"{name}_seeds": len(row.runs),
        }
    return figures


def draw(task: str, rows: Sequence[Row], path: Path) -> None:
    """Difference to float32 against bytes: the mean, and every seed as a small dot."""
    oracle = next(row for row in rows if row.update == ORACLE)
    level = statistics.fmean(oracle.accuracies)
    with mpl.rc_context({"svg.hashsalt": task, "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(7, 4.2), layout="constrained")
        axes = figure.subplots()
        axes.axhspan(
            level - ACCURACY_BAR, level + ACCURACY_BAR, color="#2a8c4a", alpha=0.15, linewidth=0
        )
        axes.axhline(level, color="#2a8c4a", linewidth=1, label=f"float32, ±{ACCURACY_BAR}")
        for codec, colour in COLOURS.items():
            chosen = [row for row in rows if row.codec == codec]
            if not chosen:
                continue
            kilobytes = [row.mean("uplink_bytes_per_update") / 1e3 for row in chosen]
            means = [level + statistics.fmean(row.differences) for row in chosen]
            axes.plot(kilobytes, means, "o-", color=colour, label=codec)
            for row, x, y in zip(chosen, kilobytes, means, strict=True):
                seeds = [level + difference for difference in row.differences]
                axes.vlines(x, min(seeds), max(seeds), color=colour, alpha=0.5)
                axes.plot([x] * len(seeds), seeds, ".", color=colour, markersize=4, alpha=0.6)
                setting = row.update.partition(", ")[2].removeprefix("step ").removesuffix(" bits")
                beyond = y < level - SHOWN_BELOW  # a failure; how deep it goes would hide the rest
                axes.annotate(
                    f"{setting} ↓ {y:.2f}" if beyond else setting,
                    (x, max(y, level - SHOWN_BELOW)),
                    xytext=(5, 12 if beyond else 5),
                    textcoords="offset points",
                )
        axes.set_ylim(level - SHOWN_BELOW, level + SHOWN_BELOW / 2)
        axes.set_xscale("log")
        ticks = (5, 10, 20, 50, 100, 200, 500)
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("uplink, kB a vehicle and round (numbers: bits, or step)")
        axes.set_ylabel("final balanced accuracy")
        axes.grid(alpha=0.25)
        axes.legend(loc="lower right", frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120, metadata={"Date": None} if path.suffix == ".svg" else None)


if __name__ == "__main__":
    main()
