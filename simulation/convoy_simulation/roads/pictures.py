"""Pictures for the report: what each camera sees, and where the drivers went.

Each stands alone on a light background. Drivers are told apart by colour, by dashes and by width,
so that lines on top of each other show and no reader depends on colour alone.
"""

# Shapes: T points of a line, 2 coordinates in metres.

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.typing import RcKeyType
from PIL import Image

from convoy_server.report.contract import Picture
from convoy_simulation.roads.appearance import appearance_named
from convoy_simulation.roads.camera import CameraSize, picture
from convoy_simulation.roads.car_racing import ROAD_HALF_WIDTH_M, Road, Track
from convoy_simulation.roads.closed_loop import (
    EXPERT,
    ClosedLoopConfig,
    ClosedLoopResult,
    Drive,
    expert_steering,
    hold_speed,
)

APPEARANCE_SIZE = CameraSize(width_px=240, height_px=180)
# The picture is taken where the expert begins to steer: a bend is in sight.
BEND_STEERING = 0.15
APPEARANCE_STEPS = range(60, 600)


@dataclass(frozen=True, slots=True)
class _Line:
    label: str
    colour: str
    width: float
    dashes: str | tuple[float, tuple[float, ...]] = "solid"


# Drawn in this order: the wide ones lie below. Colours are those of the report's page.
_LINES = MappingProxyType(
    {
        EXPERT: _Line("expert", "#b8bec7", 7.0),
        "central": _Line("all in one place", "#0b7f62", 4.2),
        "federated_int8": _Line("fleet, int8", "#0b6cc4", 1.8),
        "single_vehicle": _Line("one vehicle", "#b4530a", 2.2, (0, (2.5, 1.2))),
    }
)
_OTHER = _Line("", "#7b2d8b", 2.0, (0, (1.0, 1.0)))
_STYLE: Final[dict[RcKeyType, Any]] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "convoy",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": "#1f2328",
    "text.parse_math": False,
}


def save_pictures(result: ClosedLoopResult, folder: Path, relative_to: Path) -> tuple[Picture, ...]:
    """Write what each camera sees and, for the first track, where everybody drove with it.

    Args:
        result: The drives.
        folder: Where; made if need be.
        relative_to: The run directory, which file names in the report start from.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures: list[Picture] = []
    for appearance, by_driver in result.drives.items():
        first = {driver: drives[0] for driver, drives in by_driver.items()}
        seed = next(iter(first.values())).track_seed
        seen, driven = folder / f"camera-{appearance}.png", folder / f"driven-{appearance}.svg"
        seen.write_bytes(appearance_png(appearance, seed))
        driven.write_text(driven_lines_svg(Road(seed).track, first), "utf-8")
        pictures.append(
            Picture(
                file=seen.relative_to(relative_to).as_posix(),
                kind="appearance",
                title=appearance,
            )
        )
        pictures.append(
            Picture(
                file=driven.relative_to(relative_to).as_posix(),
                kind="driven_line",
                title=appearance.replace("_", " "),
                caption="Share of the track covered before first leaving the road (cross).",
            )
        )
    return tuple(pictures)


def appearance_png(
    appearance_name: str, track_seed: int, size: CameraSize = APPEARANCE_SIZE, seed: int = 0
) -> bytes:
    """A camera's picture from the expert's drive, as PNG."""
    appearance = appearance_named(appearance_name)
    road, speed_mps = Road(track_seed), ClosedLoopConfig().speed_mps
    steer = expert_steering(road)
    for step in range(APPEARANCE_STEPS.stop):
        steering = steer()
        if step in APPEARANCE_STEPS and abs(steering) > BEND_STEERING:
            break
        road.step(hold_speed(steering, road.speed_mps, speed_mps))
    clean_HWC = picture(road.ground_map(), road.pose, appearance.mount, size)
    png = io.BytesIO()
    Image.fromarray(appearance.develop(clean_HWC, np.random.default_rng(seed))).save(png, "PNG")
    return png.getvalue()


def driven_lines_svg(track: Track, drives: Mapping[str, Drive]) -> str:
    """The road from above and one line a driver, as SVG.

    Args:
        track: The track of all these drives.
        drives: By driver; the names known to the report get its words and colours.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(4.0, 3.7), layout="constrained", facecolor="white")
        axes = figure.add_subplot()
        axes.set_aspect("equal")
        axes.set_axis_off()
        _draw_road(axes, track)
        for driver in [*_LINES, *sorted(drives.keys() - _LINES.keys())]:
            if driver in drives:
                _draw_drive(axes, driver, drives[driver])
        figure.legend(loc="outside lower center", ncols=2, frameon=False, handlelength=2.6)
        svg = io.StringIO()
        figure.savefig(svg, format="svg", metadata={"Date": None})
    return svg.getvalue()


def _draw_road(axes: Axes, track: Track) -> None:
    across_T2 = ROAD_HALF_WIDTH_M * np.stack([np.cos(track.heading_T), np.sin(track.heading_T)], 1)
    left_T2, right_T2 = track.centre_T2 - across_T2, track.centre_T2 + across_T2
    outline_T2 = np.concatenate([left_T2, left_T2[:1], right_T2[:1], right_T2[::-1]])
    axes.fill(*outline_T2.T, facecolor="#e6e8eb", edgecolor="none", zorder=0)
    for edge_T2 in (left_T2, right_T2):
        axes.plot(
            *np.concatenate([edge_T2, edge_T2[:1]]).T, color="#9aa4b0", linewidth=0.7, zorder=1
        )
    start_2 = np.stack([left_T2[0], right_T2[0]])
    axes.plot(*start_2.T, color="#1f2328", linewidth=2.0, zorder=2)
    axes.annotate("start", track.centre_T2[0], (12, -3), textcoords="offset points")


def _draw_drive(axes: Axes, driver: str, drive: Drive) -> None:
    line = _LINES.get(driver, _OTHER)
    axes.plot(
        *drive.path_T2.T,
        color=line.colour,
        linewidth=line.width,
        linestyle=line.dashes,
        solid_capstyle="round",
        label=f"{line.label or driver}, {100 * drive.track_covered:.0f} %",
        zorder=3,
    )
    if drive.left_road_at is not None:
        axes.plot(
            *drive.path_T2[drive.left_road_at],
            marker="x",
            markersize=9,
            markeredgewidth=2.4,
            color=line.colour,
            zorder=4,
        )
