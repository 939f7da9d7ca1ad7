"""report.json as dataclasses: the keys outside checks rely on, and a few of ours for the page.

A key of the contract is never renamed; None (null) says that something was switched off or is not
known. Keys that this version does not know are skipped when reading, so that an older Convoy can
show the report of a newer one. A field whose name is a Python keyword ends in an underscore here
and has none in the file.
"""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from convoy_protos.errors import SettingsError, UsageError
from convoy_protos.settings import from_table
from convoy_server.round_log import RoundRecord

SCHEMA: typing.Final = "convoy.report/1"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Who took part.

    Attributes:
        vehicles: Vehicles that answered at least once.
        examples: Training examples of all of them.
        parameters: Parameters of the federated model.
    """

    vehicles: int
    examples: int
    parameters: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WorstVehicle:
    """The vehicle that the final model serves least."""

    id: str
    balanced_accuracy: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VehicleResult:
    """The final model on one vehicle's own held-back laps.

    Attributes:
        examples: Training examples of the vehicle.
        balanced_accuracy: In 0..1.
        single_vehicle: What a model reaches there that only this vehicle trained.
    """

    examples: int
    balanced_accuracy: float
    single_vehicle: float | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Final:
    """The final model: means over the vehicles of each one's own figure.

    Attributes:
        balanced_accuracy: In 0..1.
        accuracy: In 0..1; over all held-back examples where a vehicle gives its own to sums only.
        throttle_mae: As accuracy.
        worst_vehicle: None where no vehicle tells its own.
        per_vehicle: Of vehicles that tell theirs.
        summed: Vehicles whose figures are in the means and known nowhere else.
    """

    balanced_accuracy: float
    accuracy: float
    throttle_mae: float
    worst_vehicle: WorstVehicle | None
    per_vehicle: Mapping[str, VehicleResult]
    summed: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """What was compared with: mean over the vehicles, as in `Final`."""

    balanced_accuracy: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Baselines:
    """None where the comparison was switched off."""

    single_vehicle: Baseline | None = None
    central: Baseline | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """One update on the wire.

    Attributes:
        codec: Wire name, as "float32/1".
        encrypted: Whether the server sees sums only.
        mask_source: "peers" or "helpers": with whom vehicles agree on masks; None: nothing is masked.
        bits_per_parameter: Of the payload.
        bytes: One update as really sent, envelope included.
        float32_bytes: The same parameters as plain float32.
    """

    codec: str
    encrypted: bool
    bits_per_parameter: float
    bytes: int
    float32_bytes: int
    mask_source: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Privacy:
    """What protects a single vehicle; None where switched off.

    Attributes:
        secure_aggregation: Whether the server sees sums only.
        mask_helpers: Of these helpers one must not work together with the server; 0: there are none.
        clip_norm: Bound on an update's 2-norm.
        noise_multiplier: Of the noise in every sum.
        epsilon: Spent in the whole run.
        delta: With which epsilon may fail.
    """

    secure_aggregation: bool
    mask_helpers: int = 0
    clip_norm: float | None = None
    noise_multiplier: float | None = None
    epsilon: float | None = None
    delta: float | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """One condition of the release; value is None where it could not be measured."""

    name: str
    value: float | None
    limit: float
    passed: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LatencyMs:
    """Medians for one frame, one thread, this machine."""

    torch_p50: float | None = None
    fp32_p50: float | None = None
    int8_p50: float | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """The vehicle's file and whether it passed its gates.

    Figures are None where a refused release did not get that far.

    Attributes:
        sha256: Of model.int8.onnx.
        reasons: Why it was refused, in words.
        warnings: What a person should know although it was not refused.
        card: The release card's page, relative to the report; empty: there is none.
    """

    accepted: bool
    gates: tuple[Gate, ...]
    teacher_parameters: int
    student_parameters: int
    fp32_bytes: int | None
    int8_bytes: int | None
    fp32_balanced_accuracy: float | None
    int8_balanced_accuracy: float | None
    latency_ms: LatencyMs
    sha256: str | None
    reasons: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    card: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DriveScore:
    """Mean over the unseen tracks of one driver under one appearance.

    Attributes:
        track_covered: Share of the track before first leaving the road.
        off_road_share: Share of the time spent off the road.
        return_: Sum of the environment's rewards.
    """

    track_covered: float | None = None
    off_road_share: float | None = None
    return_: float | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """One point of a learning curve.

    Attributes:
        epochs: Passes over the training recordings so far.
        balanced_accuracy: Mean over the vehicles, on held-back laps.
        lowest: The worst single model, where the curve is a mean over several.
        highest: The best single model.
    """

    epochs: float
    balanced_accuracy: float
    lowest: float | None = None
    highest: float | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture for the page.

    Attributes:
        file: PNG or SVG, relative to the run directory.
        kind: What it shows: what a camera sees, or where drivers went.
        title: Of an appearance, its name as in `closed_loop`.
        caption: A sentence under the picture.
    """

    file: str
    kind: typing.Literal["appearance", "driven_line"]
    title: str
    caption: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Where and how the run was made.

    Attributes:
        command: What to type to get the same run.
        started: UTC, ISO 8601.
        machine: Processor, cores, memory, operating system, in words.
        versions: Library to version.
    """

    command: str
    started: str
    machine: str
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The whole run; what has not happened (yet) is None or empty.

    Attributes:
        scenario: Its name.
        cpu_s: Processor seconds of all processes; None while the run goes on.
        peak_rss_bytes: Most resident memory of the process tree; None where it cannot be measured.
        curves: Learning curves by name: federated, single_vehicle, central.
        rounds_planned: Rounds that the scenario asks for.
        complete: False in the page of a run that goes on or was interrupted.
    """

    schema: typing.Literal["convoy.report/1"] = SCHEMA
    scenario: str
    seed: int
    wall_s: float
    cpu_s: float | None
    peak_rss_bytes: int | None
    fleet: Fleet
    rounds: tuple[RoundRecord, ...]
    final: Final | None
    baselines: Baselines
    update: Update | None
    privacy: Privacy
    release: Release | None
    closed_loop: Mapping[str, Mapping[str, DriveScore]] | None
    curves: Mapping[str, tuple[CurvePoint, ...]] = dataclasses.field(default_factory=dict)
    pictures: tuple[Picture, ...] = ()
    environment: Environment | None = None
    rounds_planned: int | None = None
    complete: bool = True


def worst_of(balanced_accuracies: Mapping[str, float]) -> WorstVehicle | None:
    """The vehicle with the least of it; None of none."""
    if not balanced_accuracies:
        return None
    worst = min(balanced_accuracies, key=lambda name: balanced_accuracies[name])
    return WorstVehicle(id=worst, balanced_accuracy=balanced_accuracies[worst])


def to_json(report: Report) -> str:
    """The text of report.json; a figure that is not finite becomes null."""
    return json.dumps(_plain(report), indent=1, allow_nan=False) + "\n"


def from_json(text: str, where: str) -> Report:
    """Read report.json.

    Args:
        text: Its content.
        where: What to call it in errors.

    Raises:
        UsageError: It is no JSON, or a key is missing or of the wrong type; names the key.
    """
    try:
        table = json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(
            f"{where} line {error.lineno}: no valid JSON ({error.msg}); run `convoy simulate` again"
        ) from error
    except (ValueError, RecursionError) as error:  # a number or a nesting without end
        raise UsageError(f"{where}: no valid JSON; run `convoy simulate` again") from error
    if not isinstance(table, dict) or table.get("schema") != SCHEMA:
        found = table.get("schema") if isinstance(table, dict) else type(table).__name__
        raise UsageError(f"{where}: schema: expected {SCHEMA!r}, got {found!r}")
    return from_table(Report, _known(Report, table, f"{where}:"), f"{where}:")


def read(path: Path) -> Report:
    """Read report.json from a file.

    Raises:
        UsageError: As `from_json`; or it cannot be read.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read ({error})") from error
    return from_json(text, str(path))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {
            field.name.rstrip("_"): _plain(getattr(value, field.name))
            for field in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _known(kind: Any, value: Any, where: str) -> Any:
    """The part of a parsed value that `kind` has fields for, by field name."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        (inner,) = [arg for arg in args if arg is not type(None)]
        return None if value is None else _known(inner, value, where)
    if origin is tuple and isinstance(value, list):
        return [_known(args[0], item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, dict):
        return {key: _known(args[1], item, f"{where}.{key}") for key, item in value.items()}
    if not dataclasses.is_dataclass(kind) or not isinstance(value, dict):
        return value
    hints, found = typing.get_type_hints(kind), {}
    for field in dataclasses.fields(kind):
        key = field.name.rstrip("_")
        if key in value:
            found[field.name] = _known(hints[field.name], value[key], f"{where} {key}")
        elif field.default is field.default_factory is dataclasses.MISSING:
            raise SettingsError(f"{where} {key} is missing; run `convoy simulate` again")
    return found
