"""`convoy evaluate`: how good a released model is, on recordings or on the simulator's roads."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from rich.table import Table

from convoy_driving.data_config import DataConfig
from convoy_driving.dataset import load_vehicle
from convoy_driving.errors import ModelFileError
from convoy_driving.evaluation import evaluate
from convoy_driving.onnx_driver import OnnxDriver
from convoy_driving.recordings.reader import find_recordings
from convoy_server.release.proxy import FRAMES_FOLDER
from convoy_simulation.fleet import FleetConfig, fleet_appearances
from convoy_simulation.roads.closed_loop import ClosedLoopConfig, closed_loop_scores

FIGURES = ("balanced_accuracy", "accuracy", "throttle_mae")


def evaluate_on_recordings(
    model: Path, recordings: Sequence[Path], cache_dir: Path
) -> dict[str, Any]:
    """Let the model predict every usable frame of every recording.

    Returns:
        "recordings": path, vehicle, examples and figures of each; "mean": over the recordings.

    Raises:
        UsageError: The file is no released model, or a path is no recording.
    """
    driver = OnnxDriver(model)
    data = data_config_of(model, driver)
    rows = []
    for ref in find_recordings(recordings):
        dataset = load_vehicle(ref.vehicle_id, [ref.path], data, cache_dir / FRAMES_FOLDER)
        counts = evaluate(driver.predict, dataset, np.arange(len(dataset.steering_N)))
        rows.append(
            {
                "path": str(ref.path),
                "vehicle": ref.vehicle_id,
                "examples": counts.example_count,
                **{figure: getattr(counts, figure) for figure in FIGURES},
            }
        )
    mean = {figure: fmean(row[figure] for row in rows) for figure in FIGURES}
    return {"model": str(model), "recordings": rows, "mean": mean}


def evaluate_on_roads(model: Path, config: ClosedLoopConfig | None = None) -> dict[str, Any]:
    """Let the model drive with the cameras of the default fleet.

    Args:
        model: A released ONNX file.
        config: How; None takes the default unseen tracks.

    Returns:
        "closed_loop": as in report.json, with the expert beside the model.

    Raises:
        UsageError: The file is no released model.
    """
    data = data_config_of(model, OnnxDriver(model))
    result = closed_loop_scores(
        {"model": model}, config or ClosedLoopConfig(), fleet_appearances(FleetConfig()), data
    )
    return {"model": str(model), "closed_loop": result.report()}


def data_config_of(model: Path, driver: OnnxDriver) -> DataConfig:
    """How recordings become the frames that this model wants, from what the file says of itself.

    Raises:
        ModelFileError: It does not say.
    """
    try:
        spec = json.loads(driver.metadata["convoy.input"])
        return DataConfig(
            frame_height=spec["height"],
            frame_width=spec["width"],
            crop_top=spec["crop_top"],
            crop_bottom=spec["crop_bottom"],
            steering_threshold=float(driver.metadata["convoy.steering_threshold"]),
            held_share=0.0,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(
            f"{model}: does not say how its frames are made ({error}); name a model that "
            "`convoy simulate` or `convoy release build` wrote"
        ) from error


def table_of(figures: Mapping[str, Any]) -> Table:
    """What either evaluation found, for people."""
    table = Table(box=None)
    if "recordings" in figures:
        for head in ("vehicle", "examples", *FIGURES):
            table.add_column(
                head.replace("_", " "), justify="right" if head != "vehicle" else "left"
            )
        for row in figures["recordings"]:
            table.add_row(
                row["vehicle"], str(row["examples"]), *(f"{row[name]:.3f}" for name in FIGURES)
            )
        table.add_row("mean", "", *(f"{figures['mean'][name]:.3f}" for name in FIGURES))
        return table
    columns = ("track_covered", "off_road_share", "return")
    for head in ("camera", "driver", *columns):
        table.add_column(head.replace("_", " "), justify="right" if head in columns else "left")
    for appearance, by_driver in figures["closed_loop"].items():
        for driver, means in by_driver.items():
            table.add_row(appearance, driver, *(f"{means[name]:.3f}" for name in columns))
    return table
