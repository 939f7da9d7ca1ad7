"""report.html: one self-contained page out of a `Report` and the pictures beside it.

Names of vehicles and reasons of refusals come from peers: everything passes through autoescape, and
the page's own policy forbids scripts and anything from outside.
"""

import base64
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup

from convoy_protos.errors import UsageError
from convoy_server.release.gates import AT_LEAST
from convoy_server.report import plots
from convoy_server.report.contract import DriveScore, Picture, Release, Report
from convoy_server.round_log import RoundRecord

DRIVERS = {
    "federated_int8": "fleet, int8",
    "single_vehicle": "one vehicle",
    "central": "all in one place",
    "expert": "expert",
}
"""Column heads of the closed-loop table, in order; other drivers follow under their own name."""

NOT_MEASURED = "–"  # noqa: RUF001 - an en dash

_MEDIA_TYPES = {".png": "image/png", ".svg": "image/svg+xml", ".jpg": "image/jpeg"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Refusals of one reason, or losses, over the whole run."""

    reason: str
    count: int
    vehicles: tuple[str, ...]
    rounds: tuple[int, ...]
    detail: str


def render(report: Report, directory: Path) -> str:
    """The page as text.

    Args:
        report: What to show.
        directory: The run directory: where the report's pictures are.

    Raises:
        UsageError: A picture is not where the report says.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "count": count,
        "size": size,
        "duration": duration,
        "figure": figure,
        "words": lambda text: text.replace("_", " "),
    }
    drawings = {
        "learning": plots.learning_curves(report),
        "loss": plots.training_loss(report.rounds),
        "participation": plots.participation(report.rounds),
        "traffic": plots.traffic(report.rounds),
    }
    return environment.get_template("template.html.j2").render(
        report=report,
        headline=headline(report),
        int8_share=int8_share(report.release) if report.release else None,
        at_least=AT_LEAST,
        drivers=drivers(report.closed_loop or {}),
        covered=mean_covered(report.closed_loop or {}),
        troubles=troubles(report.rounds),
        plain=plain_bytes(report.rounds),
        sums=secure_sums(report.rounds),
        in_the_clear=in_the_clear(report),
        vehicle_bytes=vehicle_bytes(report.rounds),
        # Our own drawing, its texts escaped by matplotlib.
        plots={name: Markup(drawing) for name, drawing in drawings.items()},  # noqa: S704
        appearances={
            picture.title: data_uri(picture, directory)
            for picture in report.pictures
            if picture.kind == "appearance"
        },
        driven_lines=[
            (picture, data_uri(picture, directory))
            for picture in report.pictures
            if picture.kind == "driven_line"
        ],
    )


def headline(report: Report) -> str:
    """What came out, in a sentence or two."""
    fleet = f"{count(report.fleet.vehicles)} vehicles"
    if report.final is None or not report.complete:
        return f"{fleet}, {len(report.rounds)} rounds so far: {_state_of_play(report.rounds)}."
    reached = report.final.balanced_accuracy
    text = (
        f"{fleet} learned to drive together, each keeping its recordings to itself: "
        f"{percent(reached)} balanced accuracy."
    )
    comparisons = []
    if single := report.baselines.single_vehicle:
        points = 100 * (reached - single.balanced_accuracy)
        way = "more" if points >= 0 else "less"
        comparisons.append(f"{abs(points):.1f} points {way} than a vehicle that learns alone")
    if central := report.baselines.central:
        share = reached / central.balanced_accuracy
        comparisons.append(
            f"{percent(share)} of what training on all recordings in one place gives"
        )
    if comparisons:
        text += f" That is {' and '.join(comparisons)}."
    return text


def troubles(rounds: Iterable[RoundRecord]) -> list[Trouble]:
    """Every refusal and loss of the run, gathered by reason, the most frequent first."""
    found: dict[str, list[tuple[int, str, str]]] = {}
    for record in rounds:
        named = [(r.reason, r.vehicle, r.detail) for r in record.rejections]
        named += [("lost", vehicle, "never answered") for vehicle in record.lost_vehicles]
        for reason, number in {**record.rejected, "lost": record.lost}.items():
            unnamed = number - sum(1 for other, _, _ in named if other == reason)
            named += [(reason, "", "")] * unnamed
        for reason, vehicle, detail in named:
            found.setdefault(reason, []).append((record.round, vehicle, detail))
    gathered = [
        Trouble(
            reason=reason,
            count=len(cases),
            vehicles=tuple(sorted({vehicle for _, vehicle, _ in cases if vehicle})),
            rounds=tuple(sorted({number for number, _, _ in cases})),
            detail=next((detail for _, _, detail in cases if detail), ""),
        )
        for reason, cases in found.items()
    ]
    return sorted(gathered, key=lambda trouble: (-trouble.count, trouble.reason))


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainBytes:
    """What the run's updates and models would have taken as plain float32, and the shares that did."""

    up: int
    down: int
    up_share: float | None
    down_share: float | None


def plain_bytes(rounds: Sequence[RoundRecord]) -> PlainBytes:
    """Sums over the rounds; a share is None where nothing would have travelled."""
    up = sum(record.float32_uplink_bytes for record in rounds)
    down = sum(record.float32_downlink_bytes for record in rounds)
    return PlainBytes(
        up=up,
        down=down,
        up_share=sum(record.uplink_bytes for record in rounds) / up if up else None,
        down_share=sum(record.downlink_bytes for record in rounds) / down if down else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SecureSums:
    """The secure sums of a whole run.

    Attributes:
        tried: Shards.
        done: Shards whose sum was taken.
        repeated: Shards that took more than one attempt.
        smallest: Vehicles in the smallest sum.
        largest: Vehicles in the largest sum.
        culprits: Who sent wrong shares.
        given_up: How often, by reason.
    """

    tried: int
    done: int
    repeated: int
    smallest: int
    largest: int
    culprits: tuple[str, ...]
    given_up: Mapping[str, int]


def secure_sums(rounds: Iterable[RoundRecord]) -> SecureSums:
    """Gather the shards of all rounds."""
    shards = [shard for record in rounds for shard in record.shards]
    sizes = [len(shard.summed) for shard in shards if shard.given_up is None]
    return SecureSums(
        tried=len(shards),
        done=len(sizes),
        repeated=sum(1 for shard in shards if shard.attempts > 1),
        smallest=min(sizes, default=0),
        largest=max(sizes, default=0),
        culprits=tuple(sorted({name for shard in shards for name in shard.culprits})),
        given_up=Counter(shard.given_up for shard in shards if shard.given_up is not None),
    )


def in_the_clear(report: Report) -> str:
    """What the server learns about single vehicles whatever the codec."""
    told = ["names", "when they answered", "how many bytes they sent"]
    if report.update is not None and not report.privacy.secure_aggregation:
        told.append("example counts")
    if any(record.per_vehicle for record in report.rounds):
        told.append("scores on held-back laps, example counts and training loss")
    elif any(record.score_sums for record in report.rounds):
        told.append("no scores: every vehicle gives them to masked sums only")
    else:
        told.append("no scores: every vehicle withholds them")
    return ", ".join(told)


@dataclass(slots=True)
class UsedBytes:
    """One vehicle's bytes in a whole run."""

    rounds: int = 0
    uplink: int = 0
    downlink: int = 0


def vehicle_bytes(rounds: Iterable[RoundRecord]) -> dict[str, UsedBytes]:
    """By vehicle, over the rounds in which anything travelled."""
    used: dict[str, UsedBytes] = {}
    for record in rounds:
        for vehicle, sent in record.bytes_by_vehicle.items():
            one = used.setdefault(vehicle, UsedBytes())
            one.rounds += 1
            one.uplink += sent.uplink
            one.downlink += sent.downlink
    return dict(sorted(used.items()))


def drivers(closed_loop: Mapping[str, Mapping[str, DriveScore]]) -> dict[str, str]:
    """Names and column heads of all who drove under at least one appearance."""
    present = {driver for scores in closed_loop.values() for driver in scores}
    known = {name: label for name, label in DRIVERS.items() if name in present}
    return known | {name: name for name in sorted(present - known.keys())}


def mean_covered(closed_loop: Mapping[str, Mapping[str, DriveScore]]) -> dict[str, float]:
    """Each driver's track covered, mean over the appearances it drove under."""
    covered: dict[str, list[float]] = {}
    for scores in closed_loop.values():
        for driver, score in scores.items():
            if score.track_covered is not None:
                covered.setdefault(driver, []).append(score.track_covered)
    return {driver: statistics.fmean(values) for driver, values in covered.items()}


def data_uri(picture: Picture, directory: Path) -> str:
    """The picture's file as a URI, so that the page needs nothing beside it."""
    path = (directory / picture.file).resolve()
    media_type = _MEDIA_TYPES.get(path.suffix)
    if media_type is None or not path.is_relative_to(directory.resolve()):
        raise UsageError(f"{picture.file}: a picture is a PNG, JPEG or SVG inside {directory}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: the report names this picture, but {error.strerror}") from error
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def percent(share: float | None) -> str:
    """84.3%."""
    return NOT_MEASURED if share is None else f"{share:.1%}"


def count(number: int) -> str:
    """Thousands apart by a narrow space: 184 182."""
    return f"{number:,}".replace(",", "\u202f")


def size(number_bytes: float | None) -> str:
    """Three digits and a decimal unit: 737 kB."""
    if number_bytes is None:
        return NOT_MEASURED
    unit, scaled = "B", float(number_bytes)
    for larger in ("kB", "MB", "GB", "TB"):
        if scaled < 999.5:
            break
        unit, scaled = larger, scaled / 1000
    if unit == "B":
        return f"{scaled:.0f} B"
    return f"{f'{scaled:#.3g}'.rstrip('.')} {unit}"


def int8_share(release: Release) -> float | None:
    """Bytes of the int8 file over those of the float32 file."""
    if not release.int8_bytes or not release.fp32_bytes:
        return None
    return release.int8_bytes / release.fp32_bytes


def duration(seconds: float) -> str:
    """3 min 41 s; tenths below ten seconds."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def figure(value: float | None) -> str:
    """Any figure in three significant digits; a dash where nothing was measured."""
    return NOT_MEASURED if value is None else f"{value:.3g}"


def _state_of_play(rounds: tuple[RoundRecord, ...]) -> str:
    scores = [r.balanced_accuracy for r in rounds if r.balanced_accuracy is not None]
    return f"balanced accuracy {percent(scores[-1])}" if scores else "nothing evaluated yet"
