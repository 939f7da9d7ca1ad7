"""From what a simulated run gave to report.json; pure."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from convoy_server.federation import FederationResult
from convoy_server.report.contract import (
    Baseline,
    Baselines,
    CurvePoint,
    Final,
    Fleet,
    VehicleResult,
    worst_of,
)
from convoy_server.round_log import RoundRecord
from convoy_simulation.baselines import CENTRAL
from convoy_simulation.baselines import Baseline as TrainedBaseline


def fleet_of(result: FederationResult) -> Fleet:
    """Who took part."""
    return Fleet(
        vehicles=len(result.vehicles),
        examples=sum(result.vehicles.values()),
        parameters=int(result.model_N.size),
    )


def final_of(result: FederationResult, alone: Mapping[str, TrainedBaseline]) -> Final | None:
    """The final model on every vehicle's own held-back laps; None where nobody judged it.

    Where vehicles give their scores to sums only, the figures are those of the last round with any.

    Args:
        result: Of the rounds.
        alone: Single-vehicle baselines by vehicle id.
    """
    scores = result.per_vehicle
    scored = [record for record in result.records if record.balanced_accuracy is not None]
    if not scored:
        return None
    summed = sum(len(one.summed) for one in scored[-1].score_sums)
    balanced, accuracy, throttle_mae = (
        getattr(scored[-1], name)
        if summed
        else fmean(getattr(score, name) for score in scores.values())
        for name in ("balanced_accuracy", "accuracy", "throttle_mae")
    )
    return Final(
        balanced_accuracy=balanced,
        accuracy=accuracy,
        throttle_mae=throttle_mae,
        worst_vehicle=worst_of(
            {vehicle_id: score.balanced_accuracy for vehicle_id, score in scores.items()}
        ),
        summed=summed,
        per_vehicle={
            vehicle_id: VehicleResult(
                examples=score.examples,
                balanced_accuracy=score.balanced_accuracy,
                single_vehicle=(
                    alone[vehicle_id].best.per_vehicle[vehicle_id] if vehicle_id in alone else None
                ),
            )
            for vehicle_id, score in scores.items()
        },
    )


def baselines_of(trained: Sequence[TrainedBaseline]) -> Baselines:
    """Means over the vehicles; the single one also over which vehicle trained."""
    alone = [baseline.best.balanced_accuracy for baseline in trained if baseline.name != CENTRAL]
    central = [baseline.best.balanced_accuracy for baseline in trained if baseline.name == CENTRAL]
    return Baselines(
        single_vehicle=Baseline(balanced_accuracy=fmean(alone)) if alone else None,
        central=Baseline(balanced_accuracy=central[0]) if central else None,
    )


def curves_of(
    records: Sequence[RoundRecord], trained: Sequence[TrainedBaseline], local_epochs: int
) -> dict[str, tuple[CurvePoint, ...]]:
    """Balanced accuracy against passes over the recordings: the fleet, one vehicle, all in one."""
    curves = {
        "federated": tuple(
            CurvePoint(
                epochs=record.round * local_epochs, balanced_accuracy=record.balanced_accuracy
            )
            for record in records
            if record.balanced_accuracy is not None
        )
    }
    alone = [baseline.curve for baseline in trained if baseline.name != CENTRAL]
    if alone:
        curves["single_vehicle"] = tuple(
            CurvePoint(
                epochs=points[0].epoch,
                balanced_accuracy=fmean(point.balanced_accuracy for point in points),
                lowest=min(point.balanced_accuracy for point in points),
                highest=max(point.balanced_accuracy for point in points),
            )
            for points in zip(*alone, strict=True)
        )
    for baseline in trained:
        if baseline.name == CENTRAL:
            curves["central"] = tuple(
                CurvePoint(epochs=point.epoch, balanced_accuracy=point.balanced_accuracy)
                for point in baseline.curve
            )
    return curves
