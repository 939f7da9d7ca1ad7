"""Who teaches the student: the shards' models where there are any, else earlier global models."""

from dataclasses import dataclass, replace
from typing import Literal

from convoy_driving.models.driving_model import DrivingModel
from convoy_driving.models.registry import build_model
from convoy_driving.parameters import Float32Vector, unflatten
from convoy_protos.errors import SettingsError
from convoy_server.federation import FederationResult
from convoy_server.run_config import RunConfig


@dataclass(frozen=True, slots=True)
class Teachers:
    """The ensemble.

    Attributes:
        kind: Who they are besides the final global model, which is always the last of them.
        models: In their order.
    """

    kind: Literal["shards", "vehicles", "snapshots", "global"]
    models: tuple[DrivingModel, ...]

    @property
    def global_model(self) -> DrivingModel:
        """The final one."""
        return self.models[-1]


def teachers_of(run: RunConfig, result: FederationResult) -> Teachers:
    """Build them; one of them may hold NaN, which asking it will tell."""
    release = run.release
    others: tuple[Float32Vector, ...] = ()
    kind: Literal["shards", "vehicles", "snapshots", "global"] = "global"
    if result.members and release.ensemble != "snapshots":
        others = result.members
        kind = "shards" if run.update.codec == "masked" else "vehicles"
    elif release.teachers > 1 and len(result.snapshots) > 1:
        others, kind = result.snapshots[:-1][-(release.teachers - 1) :], "snapshots"
    return Teachers(kind, tuple(_model(run, vector_N) for vector_N in (*others, result.model_N)))


def untaught_student(run: RunConfig) -> DrivingModel:
    """The student before it has learned anything; steering in the teachers' form, no dropout.

    Raises:
        SettingsError: [release] names no known student.
    """
    config = run.release
    try:
        model = replace(run.model, name=config.student, width=config.student_width, dropout=0.0)
        return build_model(model, run.data.frame_height, run.data.frame_width, run.seed)
    except ValueError as error:
        raise SettingsError(f"[release] student: {error}") from error


def _model(run: RunConfig, vector_N: Float32Vector) -> DrivingModel:
    model = build_model(run.model, run.data.frame_height, run.data.frame_width, run.seed)
    unflatten(vector_N, model)
    return model
