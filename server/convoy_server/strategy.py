"""Convoy's strategy: Flower's Strategy with a loop that survives its clients and itself.

The loop differs from Flower's in what a fleet needs: replies are folded into the sum one at a time
as the grid yields them, whatever is wrong with one is counted and left out, a round can be abandoned,
and every finished round is on disk before the next begins, so that it starts where the last run
stopped and not at round 1.

All rules are pure functions elsewhere (rounds, cohort, admission, aggregation, evaluation,
optimizers); this file moves messages.
"""

# Shapes: N parameters.

import contextlib
import dataclasses
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from numpy.typing import NDArray

from convoy_compression.update.codec import codec_for
from convoy_driving.parameters import ParameterSchema
from convoy_protos.errors import MalformedMessageError
from convoy_protos.flower_messages import (
    EVALUATE,
    TRAIN,
    content_bytes,
    instructions_content,
    model_array,
    read_evaluation,
)
from convoy_protos.settings import to_table
from convoy_protos.v1.federation_pb2 import RoundInstructions
from convoy_server.admission import Expectation, admit, envelope_of, refuse_failed
from convoy_server.aggregation import Aggregation
from convoy_server.checkpoint import Checkpoint
from convoy_server.cohort import Purpose, draw, invitations
from convoy_server.errors import NoVehiclesError, RefusedReplyError, TooManyAbandonedRoundsError
from convoy_server.evaluation import CheckedEvaluation, FleetScore, check_evaluation, merge
from convoy_server.observer import RunObserver
from convoy_server.optimizers.registry import optimizer_for
from convoy_server.optimizers.server_optimizer import OptimizerState, Step
from convoy_server.polling_grid import streaming
from convoy_server.round_log import RoundRecord, line_digest, to_line
from convoy_server.rounds import (
    Phase,
    Rejection,
    RoundState,
    accept,
    begin,
    finish,
    invite,
    reject,
    stop_waiting,
    unmasked,
    why_abandoned,
)
from convoy_server.run_config import RunConfig
from convoy_server.run_directory import RunDirectory, model_digest
from convoy_server.schedule import learning_rate_factor
from convoy_server.vehicles import Addresses, VehicleDirectory

logger = logging.getLogger(__name__)

Float32Vector = NDArray[np.float32]

_NODE_POLL_S = 0.2


@dataclass(slots=True)
class _RoundInProgress:
    """What one round has gathered so far; lives from configure_train to the checkpoint."""

    state: RoundState
    expected: Expectation
    addresses: Addresses
    names: Mapping[int, str]
    model_N: Float32Vector
    optimizer_state: OptimizerState
    uplink_bytes: int = 0
    downlink_bytes: int = 0
    train_loss: float | None = None
    score: FleetScore = field(default_factory=lambda: merge({}))
    evaluation_rejections: list[Rejection] = field(default_factory=list)
    evaluation_lost: tuple[str, ...] = ()


class FleetStrategy(Strategy):
    """One federated run over one run directory."""

    def __init__(
        self,
        run: RunConfig,
        schema: ParameterSchema,
        directory: RunDirectory,
        observer: RunObserver,
        *,
        now_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._run = run
        self._schema = schema
        self._directory = directory
        self._observer = observer
        self._now_s = now_s
        self._sleep = sleep
        self._codec = codec_for(run.update.codec)
        self._optimizer = optimizer_for(run.round)
        self._vehicles = VehicleDirectory(run.round.max_examples)
        self._scored_model = _last_round_is_scored(directory.records())
        self._open: _RoundInProgress | None = None

    @property
    def examples(self) -> dict[str, int]:
        """Training examples by vehicle id, as the vehicles declared them."""
        return self._vehicles.examples()

    def start(  # noqa: PLR0917 - Flower's signature
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Run the rounds that the run directory has not finished yet.

        Args:
            grid: Any grid; see polling_grid.
            initial_arrays: The global model after the last finished round.
            num_rounds: Number of the last round.
            timeout: Seconds that training and evaluation of one round may take, each.
            train_config: Not used: instructions follow from the run configuration.
            evaluate_config: Not used, likewise.
            evaluate_fn: Called with every new global model.

        Raises:
            NoVehiclesError: Too few vehicles connected in time.
            TooManyAbandonedRoundsError: Rounds kept missing their quorum.
            StorageError: The run directory cannot be written.
        """
        grid = streaming(grid)
        first = self._directory.checkpoint.round + 1
        self._wait_for_vehicles(grid)
        self._vehicles.meet(grid, self._run.round.join_deadline_s)
        self._observer.run_started(self._run, self.examples, first)
        self.summary()
        config = ConfigRecord()
        result = Result(arrays=initial_arrays)
        for number in range(first, num_rounds + 1):
            started_s = self._now_s()
            self._vehicles.meet(grid, self._run.round.join_deadline_s)
            messages = self.configure_train(number, result.arrays, train_config or config, grid)
            replies = grid.send_and_receive(messages, timeout=timeout)
            arrays, train_metrics = self.aggregate_train(number, replies)
            result.arrays = arrays or result.arrays
            messages = self.configure_evaluate(
                number, result.arrays, evaluate_config or config, grid
            )
            replies = grid.send_and_receive(messages, timeout=timeout) if messages else ()
            metrics = self.aggregate_evaluate(number, replies)
            record = self._commit(number, self._now_s() - started_s)
            _remember(result, number, train_metrics, metrics)
            if evaluate_fn is not None and (own := evaluate_fn(number, result.arrays)):
                result.evaluate_metrics_serverapp[number] = own
            self._observer.round_finished(record)
            self._end_if_hopeless()
        return result

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Draw the cohort and write its messages; none where too few can be invited."""
        del config
        nodes = self._vehicles.nodes_by_name(grid.get_node_ids())
        state = begin(server_round, len(nodes), self._run.round)
        count = invitations(state.wanted, self._run.round.over_selection, len(nodes))
        cohort = draw(
            nodes,
            count,
            seed=self._run.seed,
            round_number=server_round,
            purpose=Purpose.TRAIN,
        )
        state = invite(state, cohort)
        asked = cohort if state.phase is Phase.TRAIN else ()
        model_N = packed(arrays)
        messages = self._messages(server_round, model_N, TRAIN, [nodes[name] for name in asked])
        self._open = _RoundInProgress(
            state=state,
            expected=self._expectation(server_round),
            addresses=Addresses(messages),
            names={node: name for name, node in nodes.items()},
            model_N=model_N,
            optimizer_state=self._directory.checkpoint.optimizer_state,
            downlink_bytes=sum(content_bytes(message.content) for message in messages),
        )
        self._observer.round_started(server_round, len(cohort))
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Fold the replies into the sum one at a time, then step; (None, None) if abandoned."""
        current = self._current(server_round)
        aggregation = Aggregation(
            self._codec.accumulator(self._schema.parameter_count), self._run.round.weighting
        )
        with _closing(replies) as stream:
            for reply in stream if current.state.phase is Phase.TRAIN else ():
                self._take_update(reply, current, aggregation)
                # The next reply is fetched while this name is still bound: let go of this one.
                del reply
                if current.state.phase is not Phase.TRAIN:
                    break
        current.state = stop_waiting(current.state)
        if current.state.phase is not Phase.UNMASK:
            return None, None
        current.state = unmasked(current.state)
        step = self._step(current, aggregation)
        current.state = finish(current.state, aggregated=step is not None)
        if step is None:
            return None, None
        current.model_N, current.optimizer_state = step
        current.train_loss = aggregation.train_loss
        self._scored_model = False
        return packed_record(step.model_N), MetricRecord(
            {"train_loss": aggregation.train_loss or 0.0}
        )

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Ask the vehicles how the global model does, in rounds in which that is due."""
        del config, arrays
        current = self._current(server_round)
        settings = self._run.round
        last = server_round == settings.rounds
        due = last or server_round % settings.evaluate_every == 0
        # A mean of several models is another model than any that was scored before.
        known_score = self._scored_model and not (last and settings.averaged_rounds)
        if not due or known_score:
            return []
        known = self._vehicles.examples()
        nodes = {
            name: node
            for name, node in self._vehicles.nodes_by_name(grid.get_node_ids()).items()
            if name in known
        }
        asked = draw(
            nodes,
            settings.evaluation_cohort or len(nodes),
            seed=self._run.seed,
            round_number=server_round,
            purpose=Purpose.EVALUATE,
        )
        model_N = self._published(self._next_checkpoint(current))
        messages = self._messages(server_round, model_N, EVALUATE, [nodes[name] for name in asked])
        current.addresses = Addresses(messages)
        current.evaluation_lost = asked
        current.downlink_bytes += sum(content_bytes(message.content) for message in messages)
        return messages

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Merge what the vehicles counted; None where nobody was asked or nobody answered."""
        current = self._current(server_round)
        asked = current.evaluation_lost
        checked: dict[str, CheckedEvaluation] = {}
        answered: set[str] = set()
        with _closing(replies) as stream:
            for reply in stream:
                self._take_evaluation(reply, current, checked, answered)
                self._observer.phase("evaluate", len(answered), len(asked))
        current.evaluation_lost = tuple(name for name in asked if name not in answered)
        current.score = merge(checked)
        if not checked:
            return None
        self._scored_model = True
        return MetricRecord(
            {
                name: value
                for name in ("balanced_accuracy", "accuracy", "throttle_mae")
                if (value := getattr(current.score, name)) is not None
            }
        )

    def summary(self) -> None:
        """Log what is about to run."""
        logger.info(
            "run %s: rounds %d..%d, %d parameters, %d vehicles, %s, codec %s",
            self._run.name,
            self._directory.checkpoint.round + 1,
            self._run.round.rounds,
            self._schema.parameter_count,
            len(self.examples),
            self._run.round.optimizer,
            self._codec.name,
        )

    def _take_update(
        self, reply: Message, current: _RoundInProgress, aggregation: Aggregation
    ) -> None:
        """Add one reply to the sum or count it as rejected."""
        number = current.state.number
        vehicle = _sender(reply, current)
        current.uplink_bytes += content_bytes(reply.content) if reply.has_content() else 0
        try:
            _refuse_stranger(vehicle, current.state.answered)
            aggregation.add(admit(envelope_of(reply), vehicle, current.expected))
        except RefusedReplyError as error:
            current.state = reject(current.state, Rejection(vehicle, error.reason, error.detail))
            # The text and not the error: a log record that is kept must not keep the update alive.
            text = str(error)
            logger.warning("round %d: vehicle %s is rejected: %s", number, vehicle, text)
            self._observer.update_arrived(number, vehicle, accepted=False, reason=error.reason)
        else:
            current.state = accept(current.state, vehicle)
            logger.info("round %d: vehicle %s is in the sum", number, vehicle)
            self._observer.update_arrived(number, vehicle, accepted=True, reason=None)

    def _take_evaluation(
        self,
        reply: Message,
        current: _RoundInProgress,
        checked: dict[str, CheckedEvaluation],
        answered: set[str],
    ) -> None:
        """Keep one vehicle's counts or note why not."""
        vehicle = _sender(reply, current)
        current.uplink_bytes += content_bytes(reply.content) if reply.has_content() else 0
        try:
            _refuse_stranger(vehicle, answered)
            refuse_failed(reply)
            evaluation = read_evaluation(reply.content)
            checked[vehicle] = check_evaluation(evaluation, vehicle, current.expected)
        except MalformedMessageError as error:
            current.evaluation_rejections.append(Rejection(vehicle, "malformed", str(error)))
        except RefusedReplyError as error:
            current.evaluation_rejections.append(Rejection(vehicle, error.reason, error.detail))
        answered.add(vehicle)

    def _step(self, current: _RoundInProgress, aggregation: Aggregation) -> Step | None:
        """The next global model; None where it would not be finite."""
        # Overflow is looked for below; numpy need not warn of it as well.
        with np.errstate(over="ignore", invalid="ignore"):
            step = self._optimizer.step(
                current.model_N, aggregation.mean(), current.optimizer_state
            )
        vectors = (step.model_N, *step.state.values())
        return step if all(bool(np.isfinite(vector_N).all()) for vector_N in vectors) else None

    def _messages(
        self, number: int, model_N: Float32Vector, kind: str, nodes: Iterable[int]
    ) -> list[Message]:
        """One message a node; the content is the same object for all of them."""
        run = self._run
        factor = learning_rate_factor(number, run.round)
        rate = run.training.learning_rate * factor
        training = dataclasses.replace(run.training, learning_rate=rate)
        tables = {"data": run.data, "model": run.model, "training": training}
        instructions = RoundInstructions(
            run_id=self._directory.checkpoint.run_id,
            round=number,
            seed=run.seed,
            schema_digest=self._schema.digest,
            model_digest=model_digest(model_N),
            codec=self._codec.name,
            settings_json=json.dumps(
                {
                    name: to_table(table)
                    for name, table in (tables | {"privacy": run.privacy}).items()
                },
                sort_keys=True,
            ),
        )
        content = instructions_content(instructions, model_array(model_N))
        return [Message(content, node, kind, group_id=str(number)) for node in nodes]

    def _expectation(self, number: int) -> Expectation:
        return Expectation(
            run_id=self._directory.checkpoint.run_id,
            round_number=number,
            schema_digest=self._schema.digest,
            parameter_count=self._schema.parameter_count,
            codec=self._codec,
            max_examples=self._run.round.max_examples,
        )

    def _current(self, number: int) -> _RoundInProgress:
        if self._open is None or self._open.state.number != number:
            raise ValueError(f"round {number} has not been configured")
        return self._open

    def _wait_for_vehicles(self, grid: Grid) -> None:
        """Wait until enough nodes are connected.

        Raises:
            NoVehiclesError: They are not in time.
        """
        wanted, limit_s = self._run.round.min_vehicles, self._run.round.join_deadline_s
        end_s = self._now_s() + limit_s
        while (connected := len(list(grid.get_node_ids()))) < wanted:
            if self._now_s() >= end_s:
                raise NoVehiclesError(
                    f"{connected} of {wanted} vehicles connected within {limit_s:g} s: start them, "
                    "or lower [round] min_vehicles, or raise [round] join_deadline_s"
                )
            self._sleep(_NODE_POLL_S)

    def _next_checkpoint(self, current: _RoundInProgress) -> Checkpoint:
        """The run after this round, without the round's line."""
        last, settings = self._directory.checkpoint, self._run.round
        done = current.state.phase is Phase.DONE
        average_N, count = last.average_N, last.average_count
        if current.state.number > settings.rounds - settings.averaged_rounds:
            count += 1
            average_N = _running_mean(average_N, current.model_N, count)
        kept = self._run.release.teachers
        return dataclasses.replace(
            last,
            round=current.state.number,
            model_N=current.model_N,
            optimizer_state=current.optimizer_state,
            snapshots=(*last.snapshots, current.model_N)[-kept:] if done else last.snapshots,
            average_N=average_N,
            average_count=count,
            abandoned_in_a_row=0 if done else last.abandoned_in_a_row + 1,
        )

    def _published(self, checkpoint: Checkpoint) -> Float32Vector:
        """The model that would be published if the run ended here; scored in the last round."""
        return published_model(checkpoint, self._run)

    def _commit(self, number: int, wall_s: float) -> RoundRecord:
        """Put the round on disk."""
        current = self._current(number)
        record = _record(current, wall_s)
        line = to_line(record)
        checkpoint = dataclasses.replace(
            self._next_checkpoint(current), round_line=line, round_event=_event(current, line)
        )
        self._directory.commit(checkpoint)
        self._open = None
        logger.info(
            "round %d %s: %d of %d updates, %d lost, %d rejected, balanced accuracy %s, %.1f s",
            number,
            record.outcome,
            record.completed,
            record.invited,
            record.lost,
            sum(record.rejected.values()),
            record.balanced_accuracy,
            wall_s,
        )
        return record

    def _end_if_hopeless(self) -> None:
        """Give up after too many abandoned rounds.

        Raises:
            TooManyAbandonedRoundsError: With the reasons and the way out.
        """
        checkpoint, limit = self._directory.checkpoint, self._run.round.max_abandoned_in_a_row
        if checkpoint.abandoned_in_a_row < limit:
            return
        last = self._directory.records()[-1]
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(last.rejected.items()))
        self._directory.log({"kind": "ended", "round": last.round, "because": "abandoned rounds"})
        raise TooManyAbandonedRoundsError(
            f"{checkpoint.abandoned_in_a_row} rounds in a row were abandoned; round {last.round}: "
            f"{last.abandoned_because} ({last.lost} lost, rejected: {reasons or 'none'}); "
            "see rounds.jsonl for who and why, or lower [round] quorum, or raise [round] deadline_s"
        )


def published_model(checkpoint: Checkpoint, run: RunConfig) -> Float32Vector:
    """The global model of a run: the last one, or at the end the mean of the last ones."""
    if checkpoint.round == run.round.rounds and checkpoint.average_N is not None:
        return checkpoint.average_N
    return checkpoint.model_N


def packed_record(model_N: Float32Vector) -> ArrayRecord:
    """The global model as Flower carries it between rounds."""
    return ArrayRecord({"packed": model_array(model_N)})


def packed(arrays: ArrayRecord) -> Float32Vector:
    """The inverse of `packed_record`; a read-only view."""
    return np.frombuffer(arrays["packed"].data, "<f4")


def _sender(reply: Message, current: _RoundInProgress) -> str:
    node = current.addresses.node_of(reply)
    return "unknown" if node is None else current.names.get(node, f"node-{node}")


def _refuse_stranger(vehicle: str, answered: Iterable[str]) -> None:
    if vehicle == "unknown":
        raise RefusedReplyError("malformed", "the reply belongs to no message of this round")
    if vehicle in answered:
        raise RefusedReplyError("replayed", "the second reply in this round")


def _record(current: _RoundInProgress, wall_s: float) -> RoundRecord:
    state, score = current.state, current.score
    done = state.phase is Phase.DONE
    return RoundRecord(
        round=state.number,
        outcome="done" if done else "abandoned",
        abandoned_because=None if done else why_abandoned(state),
        invited=len(state.cohort),
        completed=len(state.accepted),
        lost=len(state.lost),
        surplus=len(state.surplus),
        rejected=dict(sorted(Counter(one.reason for one in state.rejections).items())),
        uplink_bytes=current.uplink_bytes,
        downlink_bytes=current.downlink_bytes,
        wall_s=round(wall_s, 3),
        train_loss=current.train_loss,
        balanced_accuracy=score.balanced_accuracy,
        accuracy=score.accuracy,
        throttle_mae=score.throttle_mae,
        rejections=state.rejections,
        lost_vehicles=state.lost,
        evaluation_rejections=tuple(current.evaluation_rejections),
        evaluation_lost=current.evaluation_lost,
        per_vehicle=score.per_vehicle,
    )


def _event(current: _RoundInProgress, line: str) -> dict[str, Any]:
    state = current.state
    return {
        "kind": "round",
        "round": state.number,
        "outcome": state.phase.value,
        "cohort": list(state.cohort),
        "accepted": list(state.accepted),
        "rejected": [[one.vehicle, one.reason] for one in state.rejections],
        "lost": list(state.lost),
        "model_sha256": model_digest(current.model_N).hex(),
        "record_sha256": line_digest(line),
    }


def _last_round_is_scored(records: list[RoundRecord]) -> bool:
    """Whether the current global model has been scored, also before a restart."""
    for record in reversed(records):
        if record.per_vehicle:
            return True
        if record.outcome == "done":
            return False
    return False


def _running_mean(
    mean_N: Float32Vector | None, model_N: Float32Vector, count: int
) -> Float32Vector:
    if mean_N is None:
        return model_N
    return mean_N + (model_N - mean_N) * np.float32(1.0 / count)


def _remember(
    result: Result, number: int, trained: MetricRecord | None, scored: MetricRecord | None
) -> None:
    if trained is not None:
        result.train_metrics_clientapp[number] = trained
    if scored is not None:
        result.evaluate_metrics_clientapp[number] = scored


@contextlib.contextmanager
def _closing(replies: Iterable[Message]) -> Iterator[Iterable[Message]]:
    """Tell a generator grid that nobody waits any more."""
    try:
        yield replies
    finally:
        close = getattr(replies, "close", None)
        if close is not None:
            close()
