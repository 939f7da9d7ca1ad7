"""The report's plots, as SVG that lives inside the page.

matplotlib draws with stand-in colours that are replaced by CSS variables afterwards: the same plot
then suits a light and a dark page. Text stays text, in the page's own font. Every id gets the plot's
name in front, because all plots share one document.
"""

import html
import io
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from matplotlib.typing import LineStyleType, RcKeyType

from convoy_server.report.contract import CurvePoint, Report
from convoy_server.round_log import RoundRecord

WIDTH_PX, HEIGHT_PX = 400, 250

_INK, _MUTED, _GRID = "#010101", "#010102", "#010103"
_FLEET, _CENTRAL, _SINGLE, _BAD, _LOST = "#010104", "#010105", "#010106", "#010107", "#010108"
_DOWN = "#010109"
_CSS_COLOURS = {
    _INK: "currentColor",
    _MUTED: "var(--muted)",
    _GRID: "var(--rule)",
    _FLEET: "var(--fleet)",
    _CENTRAL: "var(--central)",
    _SINGLE: "var(--single)",
    _BAD: "var(--bad)",
    _LOST: "var(--lost)",
    _DOWN: "var(--down)",
}
_CURVES: Final[dict[str, tuple[str, str, LineStyleType]]] = {
    "central": ("in one place", _CENTRAL, (0, (5, 2))),
    "federated": ("the fleet", _FLEET, "solid"),
    "single_vehicle": ("one vehicle", _SINGLE, (0, (1.5, 1.5))),
}
_STYLE: Final[dict[RcKeyType, Any]] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "convoy",
    "font.size": 11,
    "font.family": "DejaVu Sans",
    "text.color": _INK,
    "text.parse_math": False,
    "axes.labelcolor": _MUTED,
    "axes.edgecolor": _GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 2.4,
    "lines.solid_capstyle": "round",
}


def learning_curves(report: Report) -> str:
    """Balanced accuracy of the fleet beside its baselines; empty before the first finished round."""
    curves = {name: list(points) for name, points in report.curves.items() if points}
    by_round = "federated" not in curves
    if by_round:
        curves = {"federated": _curve_of(report.rounds)}
    if not curves["federated"]:
        return ""
    constants = {
        "central": report.baselines.central,
        "single_vehicle": report.baselines.single_vehicle,
    }
    with mpl.rc_context(_STYLE):
        figure, axes = _plot(right_px=112)
        ends: list[tuple[float, str, str]] = []
        for name, (label, colour, dashes) in _CURVES.items():
            if points := curves.get(name):
                _draw_curve(axes, points, colour, dashes)
                ends.append((points[-1].balanced_accuracy, label, colour))
            elif baseline := constants.get(name):
                axes.axhline(baseline.balanced_accuracy, color=colour, linestyle=dashes)
                ends.append((baseline.balanced_accuracy, label, colour))
        axes.set_xlabel("round" if by_round else "passes over the recordings")
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.margins(y=0.08)
        _widen(axes, least_span=0.1)
        _label_ends(axes, ends)
        return _svg(figure, "learning", "Balanced accuracy over the training, by kind of training")


def training_loss(rounds: Sequence[RoundRecord]) -> str:
    """Mean training loss of the vehicles per round; empty when no round has one."""
    points = [(r.round, r.train_loss) for r in rounds if r.train_loss is not None]
    if not points:
        return ""
    with mpl.rc_context(_STYLE):
        figure, axes = _plot()
        axes.plot(*zip(*points, strict=True), color=_FLEET, marker="o", markersize=3.5)
        axes.set_xlabel("round")
        axes.set_ylim(0, 1.1 * max(loss for _, loss in points))
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        return _svg(figure, "loss", "Training loss on the vehicles, by round")


def participation(rounds: Sequence[RoundRecord]) -> str:
    """Invited vehicles per round: updates taken, messages refused, vehicles lost."""
    return _stacked_bars(
        rounds,
        {
            _FLEET: [r.completed for r in rounds],
            _BAD: [sum(r.rejected.values()) for r in rounds],
            _LOST: [r.lost for r in rounds],
        },
        "participation",
        "Updates taken, messages refused and vehicles lost, by round",
        whole=True,
    )


def traffic(rounds: Sequence[RoundRecord]) -> str:
    """Megabytes sent up and down per round."""
    return _stacked_bars(
        rounds,
        {
            _FLEET: [r.uplink_bytes / 1e6 for r in rounds],
            _DOWN: [r.downlink_bytes / 1e6 for r in rounds],
        },
        "traffic",
        "Megabytes from and to the vehicles, by round",
        whole=False,
    )


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Move sorted positions apart until neighbours are at least `gap` from each other.

    The positions keep their order and, where they collide, their common centre.
    """
    groups = [[position] for position in wanted]
    while True:
        centres = [sum(group) / len(group) for group in groups]
        for index, (low, high) in enumerate(pairwise(range(len(groups)))):
            reach = gap * (len(groups[low]) + len(groups[high])) / 2
            if centres[high] - centres[low] < reach:
                groups[index : index + 2] = [groups[low] + groups[high]]
                break
        else:
            return [
                centre + gap * (place - (len(group) - 1) / 2)
                for centre, group in zip(centres, groups, strict=True)
                for place in range(len(group))
            ]


def _curve_of(rounds: Sequence[RoundRecord]) -> list[CurvePoint]:
    return [
        CurvePoint(epochs=r.round, balanced_accuracy=r.balanced_accuracy)
        for r in rounds
        if r.balanced_accuracy is not None
    ]


def _plot(right_px: float = 12) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH_PX / 72, HEIGHT_PX / 72))
    left_px, bottom_px, top_px = 40, 40, 8
    axes = figure.add_axes(
        (
            left_px / WIDTH_PX,
            bottom_px / HEIGHT_PX,
            1 - (left_px + right_px) / WIDTH_PX,
            1 - (bottom_px + top_px) / HEIGHT_PX,
        )
    )
    return figure, axes


def _draw_curve(
    axes: Axes, points: Sequence[CurvePoint], colour: str, dashes: LineStyleType
) -> None:
    epochs = [point.epochs for point in points]
    band = [(p.epochs, p.lowest, p.highest) for p in points if p.lowest is not None]
    if band:
        band_epochs, lowest, highest = zip(*band, strict=True)
        axes.fill_between(band_epochs, lowest, highest, color=colour, alpha=0.16, linewidth=0)
    values = [point.balanced_accuracy for point in points]
    axes.plot(epochs, values, color=colour, linestyle=dashes)
    axes.plot(epochs[-1:], values[-1:], color=colour, marker="o", markersize=5.5)


def _widen(axes: Axes, least_span: float) -> None:
    """Keep a nearly level curve from looking like a cliff."""
    low, high = axes.get_ylim()
    lacking = max(0.0, least_span - (high - low))
    axes.set_ylim(low - lacking / 2, high + lacking / 2)


def _label_ends(axes: Axes, ends: list[tuple[float, str, str]]) -> None:
    """Names beside the ends of the curves instead of a legend, never over each other."""
    low, high = axes.get_ylim()
    ends.sort()
    places = spread([value for value, _, _ in ends], gap=0.065 * (high - low))
    for (value, label, colour), place in zip(ends, places, strict=True):
        axes.annotate(
            f"{value:.0%} {label}",
            (1.0, place),
            xycoords=("axes fraction", "data"),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            fontsize=11,
            annotation_clip=False,
        )


def _stacked_bars(
    rounds: Sequence[RoundRecord],
    heights: Mapping[str, Sequence[float]],
    name: str,
    title: str,
    *,
    whole: bool,
) -> str:
    if not rounds:
        return ""
    numbers = [r.round for r in rounds]
    with mpl.rc_context(_STYLE):
        figure, axes = _plot()
        below = [0.0] * len(rounds)
        for colour, values in heights.items():
            axes.bar(numbers, values, 0.72, bottom=below, color=colour, linewidth=0)
            below = [base + value for base, value in zip(below, values, strict=True)]
        axes.set_xlabel("round")
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=whole))
        axes.set_xlim(numbers[0] - 0.6, numbers[-1] + 0.6)
        return _svg(figure, name, title)


def _svg(figure: Figure, name: str, title: str) -> str:
    """The figure as an element of an HTML page, `name` in front of all its ids."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    drawing = buffer.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r"<(metadata|style).*?</\1>\s*", "", drawing, flags=re.DOTALL)
    drawing = re.sub(r'(\bid="|href="#|url\(#)', rf"\1{name}-", drawing)
    drawing = re.sub(r" font-family: [^;]*;", "", drawing)
    for stand_in, colour in _CSS_COLOURS.items():
        drawing = drawing.replace(stand_in, colour)
    opening = (
        f'<svg class="plot" viewBox="0 0 {WIDTH_PX} {HEIGHT_PX}" role="img" '
        f'aria-labelledby="{name}-title">\n<title id="{name}-title">{html.escape(title)}</title>'
    )
    return re.sub(r"<svg[^>]*>", lambda _: opening, drawing, count=1)
