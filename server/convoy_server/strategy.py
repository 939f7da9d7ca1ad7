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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from numpy.typing import NDArray

from convoy_compression.update.changed_part import changed_part
from convoy_compression.update.codec import codec_on_wire
from convoy_driving.parameters import ParameterSchema
from convoy_privacy.adaptive_clipping import next_clip_norm
from convoy_privacy.party import Party
from convoy_privacy.sealing import sign_sealing_key
from convoy_privacy.secure_sum.terms import MIN_MEMBERS, uploads_needed
from convoy_protos.errors import MalformedMessageError, UsageError
from convoy_protos.flower_messages import (
    CHECK_IN,
    EVALUATE,
    HELPED_UPLOAD,
    MASK_SUM,
    SHARE,
    TRAIN,
    UNMASK,
    UPLOAD,
    instructions_digest,
    model_array,
    read_evaluation,
)
from convoy_protos.protection import Protection, protection_of
from convoy_protos.settings import settings_digest, to_table
from convoy_protos.v1.federation_pb2 import RoundInstructions
from convoy_protos.v1.secure_sum_pb2 import HelperKey
from convoy_server.admission import Expectation, refuse_failed, refuse_foreign
from convoy_server.aggregation import Aggregate
from convoy_server.checkpoint import Checkpoint
from convoy_server.cohort import Purpose, draw, draw_poisson, invitations
from convoy_server.downlink import (
    ModelHolders,
    PublishedModel,
    from_hex_digests,
    hex_digests,
    step_to,
)
from convoy_server.errors import NoVehiclesError, RefusedReplyError, TooManyAbandonedRoundsError
from convoy_server.evaluation import CheckedEvaluation, check_evaluation, merge
from convoy_server.intake import Intake, MaskedIntake, Settled, SingleIntake, shard_record
from convoy_server.mask_helpers import choose_helpers
from convoy_server.noise import NoisePlan
from convoy_server.observer import RoundPhase, RunObserver, Wait, wait_line
from convoy_server.optimizers.registry import optimizer_for
from convoy_server.optimizers.server_optimizer import OptimizerState
from convoy_server.polling_grid import streaming
from convoy_server.robust.canary import CanaryScore, judge
from convoy_server.robust.registry import min_items
from convoy_server.round_in_progress import RoundInProgress, audit_event, round_record
from convoy_server.round_log import RoundRecord, to_line
from convoy_server.rounds import (
    Phase,
    Rejection,
    accept,
    begin,
    begin_with,
    finish,
    invite,
    reject,
    stop_waiting,
    unmasked,
)
from convoy_server.run_config import KEYS_KEY, RunConfig
from convoy_server.run_directory import RunDirectory, model_digest
from convoy_server.schedule import learning_rate_factor
from convoy_server.score_sums import NO_SCORES, SummedScores, sum_scores, summed_scores
from convoy_server.update_state import UpdateState, from_state_table, to_state_table
from convoy_server.vehicles import Addresses, VehicleDirectory

logger = logging.getLogger(__name__)

Float32Vector = NDArray[np.float32]

Canary = Callable[[Float32Vector], CanaryScore]
"""How a global model does on the server's own frames."""

_NODE_POLL_S = 0.2
_MAX_MEMBERS = 16
"""Every one of them is asked about every frame when the student is distilled."""
_EXCHANGES: dict[str, RoundPhase] = {
    CHECK_IN: "check_in",
    SHARE: "share",
    UPLOAD: "upload",
    UNMASK: "unmask",
    HELPED_UPLOAD: "upload",
    MASK_SUM: "unmask",
}


class FleetStrategy(Strategy):
    """One federated run over one run directory."""

    def __init__(
        self,
        run: RunConfig,
        schema: ParameterSchema,
        directory: RunDirectory,
        observer: RunObserver,
        *,
        keys: Party | None = None,
        canary: Canary | None = None,
        refresh_keys: Callable[[Party], Party] = lambda keys: keys,
        now_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        utc_now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Nothing has run yet.

        Args:
            run: What to do.
            schema: Of the global model.
            directory: Where the run is written.
            observer: Watches the run.
            keys: The aggregator's certificate and keys; needed for masked and sealed updates.
            canary: How a global model does on the server's own frames; None: no check.
            refresh_keys: Gives the keys with the newest list of revocations, before each round.
            now_s: Clock of deadlines.
            sleep: Waits.
            utc_now: Clock of certificates.

        Raises:
            UsageError: The codec needs keys, and there are none.
        """
        self._run = run
        self._schema = schema
        self._directory = directory
        self._observer = observer
        self._now_s = now_s
        self._sleep = sleep
        self._keys = keys
        self._refresh_keys = refresh_keys
        self._canary = canary
        self._utc_now = utc_now
        self._sent = changed_part(schema.names, schema.sizes, run.training.freeze)
        self._codec = run.update.wire_name
        check_keys(keys, self._codec)
        self._noise = self._noise_at(run.privacy.clip_norm)
        self._holders = ModelHolders(always_full=run.update.downlink == "full")
        self._grid: Grid | None = None
        self._optimizer = optimizer_for(run.round)
        self._vehicles = VehicleDirectory(run.round.max_examples)
        self._scored_model = _last_round_is_scored(directory.records())
        # After a restart all helpers have the same chances again.
        self._helper_failures: Counter[str] = Counter()
        self._open: RoundInProgress | None = None

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
        grid = self._grid = streaming(grid)
        state = from_state_table(self._directory.checkpoint.update_state)
        self._holders.held = from_hex_digests(state.held)
        first = self._directory.checkpoint.round + 1
        self._wait_for_first_vehicles(grid, first)
        self._vehicles.meet(grid, self._run.round.join_deadline_s)
        self._wait_for_helpers(grid)
        self._observer.run_started(self._run, self.examples, first)
        self.summary()
        config = ConfigRecord()
        result = Result(arrays=initial_arrays)
        for number in range(first, num_rounds + 1):
            started_s = self._now_s()
            if not self._affords_a_round(grid):
                break
            self._wait_for_vehicles(grid, number)
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
        del config, arrays
        if self._keys is not None:
            self._keys = self._refresh_keys(self._keys)
        connected = list(grid.get_node_ids())
        everybody = self._vehicles.nodes_by_name(connected)
        nodes = self._vehicles.training(connected)
        state = begin(server_round, len(nodes), self._run.round)
        rate = state.wanted / max(1, len(nodes))
        if self._run.round.sampling == "poisson":
            cohort = draw_poisson(
                nodes,
                rate,
                seed=self._run.seed,
                round_number=server_round,
                purpose=Purpose.TRAIN,
            )
            state = begin_with(state, len(cohort), self._run.round)
        else:
            count = invitations(state.wanted, self._run.round.over_selection, len(nodes))
            cohort = draw(
                nodes,
                count,
                seed=self._run.seed,
                round_number=server_round,
                purpose=Purpose.TRAIN,
            )
            rate = len(cohort) / max(1, len(nodes))
        state = invite(state, cohort)
        asked = cohort if state.phase is Phase.TRAIN else ()
        checkpoint = self._directory.checkpoint
        update_state = from_state_table(checkpoint.update_state)
        model = _published(checkpoint)
        self._open = current = RoundInProgress(
            state=state,
            expected=self._expectation(server_round),
            addresses=Addresses(()),
            names={node: name for name, node in everybody.items()},
            nodes=everybody,
            model=model,
            settings_json=self._settings_json(server_round, update_state.clip_norm),
            update_state=update_state,
            optimizer_state=checkpoint.optimizer_state,
            clip_norm=update_state.clip_norm,
            rate=rate,
        )
        messages, contents = self._messages(current, model, TRAIN, asked)
        current.intake = self._intake(current, contents)
        self._observer.round_started(server_round, len(cohort))
        if asked:
            self._announce("train", asked, state.wanted, state.quorum, self._run.round.deadline_s)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Fold the replies into the sum one at a time, then step; (None, None) if abandoned."""
        current = self._current(server_round)
        assert current.intake is not None  # noqa: S101 - configure_train sets it
        with _closing(replies) as stream:
            for reply in stream if current.state.phase is Phase.TRAIN else ():
                self._take_update(reply, current, current.intake)
                # The next reply is fetched while this name is still bound: let go of this one.
                del reply
                if current.state.phase is not Phase.TRAIN:
                    break
        current.state = stop_waiting(current.state)
        if current.state.phase is not Phase.UNMASK:
            return None, None
        settled = current.intake.settle()
        parts = settled.aggregate.parts if settled.aggregate is not None else ()
        settled = current.settled = settled.without_parts()
        for shard in settled.shards:
            self._helper_failures.update(shard.helpers_lost)
        current.update_uplink_bytes = sum(current.traffic.uplink.values())
        # What was opened is spent, and what overflowed is known, also where the round is abandoned.
        current.update_state = current.update_state.replace(
            spent=settled.state.spent,
            sum_sigma=(
                current.update_state.sum_sigma if settled.aggregate else settled.state.sum_sigma
            ),
        )
        current.state = unmasked(current.state, settled.summed, settled.rejections)
        if current.state.phase is not Phase.AGGREGATE:
            return None, None
        self._announce("aggregate")
        step = self._step(current, settled.aggregate)
        current.state = finish(current.state, aggregated=step is not None)
        if step is None or settled.aggregate is None:
            return None, None
        current.members = self._members(current, parts)
        current.model, current.optimizer_state = step
        current.update_state = self._next_update_state(settled)
        current.train_loss = settled.aggregate.train_loss
        self._scored_model = False
        metrics = MetricRecord()
        if current.train_loss is not None:
            metrics["train_loss"] = current.train_loss
        return packed_record(current.model.model_N), metrics

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
        # Who came back since the round began has been met before, but not in this round.
        current.nodes = {**current.nodes, **nodes}
        current.names = {node: name for name, node in current.nodes.items()}
        published_N = published_model(self._next_checkpoint(current), self._run)
        model = current.model
        if published_N is not model.model_N:
            model = PublishedModel(model_N=published_N, digest=model_digest(published_N))
        current.evaluation_lost = asked
        messages = self._messages(current, model, EVALUATE, asked)[0]
        if asked:
            self._announce("evaluate", asked, len(asked), 0, settings.deadline_s)
        return messages

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Merge what the vehicles counted; None where nobody was asked or nobody answered."""
        current = self._current(server_round)
        asked = current.evaluation_lost
        checked: dict[str, CheckedEvaluation] = {}
        waiting: set[str] = set()
        answered: set[str] = set()
        with _closing(replies) as stream:
            for reply in stream:
                self._take_evaluation(reply, current, checked, waiting, answered)
                self._observer.phase("evaluate", len(answered), len(asked))
        summed = self._sum_scores(current, waiting) if waiting else NO_SCORES
        refused = {one.vehicle for one in current.evaluation_rejections}
        told = (answered - waiting) | {name for one in current.score_sums for name in one.summed}
        current.evaluation_lost = tuple(name for name in asked if name not in told | refused)
        current.score = merge(checked, summed)
        if current.score.balanced_accuracy is None:
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
            self._codec,
        )

    def _intake(self, current: RoundInProgress, contents: Mapping[str, RecordDict]) -> Intake:
        """Where this round's replies go."""
        if protection_of(self._codec) is Protection.MASKED:
            assert self._keys is not None  # noqa: S101 - checked when built
            return MaskedIntake(
                self._run,
                current.expected,
                current.update_state,
                current.model.digest,
                settings_digest(current.settings_json),
                keys=self._keys,
                ask=lambda kind, requests: self._ask(current, kind, requests),
                now=self._utc_now,
                helpers=self._mask_helpers(current.nodes.values()),
                noise=self._noise_at(current.clip_norm),
                rate=current.rate,
            )
        return SingleIntake(
            codec_on_wire(self._codec, self._run.update),
            self._run,
            current.expected,
            current.update_state,
            keys=self._keys,
            contexts={name: instructions_digest(content) for name, content in contents.items()},
            now=self._utc_now,
        )

    def _mask_helpers(self, nodes: Iterable[int]) -> dict[str, HelperKey]:
        """The helpers of a round; none where vehicles mask pairwise."""
        assert self._keys is not None  # noqa: S101 - checked when built
        return choose_helpers(
            self._vehicles.helpers(nodes),
            self._run.update.helpers,
            self._keys.trust,
            self._utc_now(),
            self._helper_failures,
        )

    def _ask(
        self, current: RoundInProgress, kind: str, contents: Mapping[str, RecordDict]
    ) -> Iterator[tuple[str, Message]]:
        """One exchange of the secure sums; see convoy_server.secure_sums and helped_sums."""
        assert self._grid is not None  # noqa: S101 - `start` sets it
        number = str(current.state.number)
        messages = []
        for name, content in contents.items():
            messages.append(Message(content, current.nodes[name], kind, group_id=number))
            current.traffic.goes(name, content)
        addresses = Addresses(messages)
        timeout = self._run.update.exchange_deadline_s
        self._announce(_EXCHANGES[kind], tuple(contents), len(contents), 0, timeout)
        answered = 0
        with _closing(self._grid.send_and_receive(messages, timeout=timeout)) as stream:
            for reply in stream:
                node = addresses.node_of(reply)
                if node is None:
                    logger.warning("round %s: a reply to no message of %s", number, kind)
                    continue
                name = current.names[node]
                current.traffic.came(name, reply)
                answered += 1
                self._observer.answered(name)
                self._observer.phase("secure sum", answered, len(messages))
                yield name, reply

    def _take_update(self, reply: Message, current: RoundInProgress, intake: Intake) -> None:
        """Take one reply in or count it as rejected."""
        number = current.state.number
        vehicle = _sender(reply, current)
        current.traffic.came(vehicle, reply)
        current.replies += 1
        self._observer.answered(vehicle)
        fields = {"round": number, "vehicle": vehicle}
        try:
            _refuse_stranger(vehicle, current.state.answered)
            intake.take(vehicle, reply)
        except RefusedReplyError as error:
            self._holders.failed(vehicle)
            current.state = reject(current.state, Rejection(vehicle, error.reason, error.detail))
            # The text and not the error: a log record that is kept must not keep the update alive.
            text = str(error)
            logger.warning(
                "round %d: vehicle %s is rejected: %s", number, vehicle, text, extra=fields
            )
            self._observer.update_arrived(number, vehicle, accepted=False, reason=error.reason)
        else:
            self._holders.answered(vehicle, current.sent_model)
            current.state = accept(current.state, vehicle)
            logger.info("round %d: vehicle %s is accepted", number, vehicle, extra=fields)
            self._observer.update_arrived(number, vehicle, accepted=True, reason=None)

    def _take_evaluation(
        self,
        reply: Message,
        current: RoundInProgress,
        checked: dict[str, CheckedEvaluation],
        waiting: set[str],
        answered: set[str],
    ) -> None:
        """Keep one vehicle's counts, or note that they wait for a masked sum, or why there are none."""
        vehicle = _sender(reply, current)
        current.traffic.came(vehicle, reply)
        self._observer.answered(vehicle)
        try:
            _refuse_stranger(vehicle, answered)
            refuse_failed(reply)
            evaluation = read_evaluation(reply.content)
            if evaluation.withheld:
                refuse_foreign(
                    evaluation.run_id,
                    evaluation.round,
                    evaluation.vehicle_id,
                    vehicle,
                    current.expected,
                )
                if evaluation.summed:
                    waiting.add(vehicle)
            else:
                checked[vehicle] = check_evaluation(evaluation, vehicle, current.expected)
        except MalformedMessageError as error:
            self._holders.failed(vehicle)
            current.evaluation_rejections.append(Rejection(vehicle, "malformed", str(error)))
        except RefusedReplyError as error:
            self._holders.failed(vehicle)
            current.evaluation_rejections.append(Rejection(vehicle, error.reason, error.detail))
        else:
            self._holders.answered(vehicle, current.sent_model)
        answered.add(vehicle)

    def _sum_scores(self, current: RoundInProgress, waiting: set[str]) -> SummedScores:
        """Sum the scores that wait on the vehicles, where this run has masked sums without noise."""
        if protection_of(self._codec) is not Protection.MASKED or self._noise is not None:
            return NO_SCORES
        assert self._keys is not None  # noqa: S101 - checked when built
        sums = sum_scores(
            waiting,
            self._run,
            current.expected,
            current.sent_model,
            settings_digest(current.settings_json),
            keys=self._keys,
            ask=lambda kind, requests: self._ask(current, kind, requests),
            now=self._utc_now,
        )
        current.score_sums = tuple(shard_record(one) for one in sums)
        current.evaluation_rejections += [refusal for one in sums for refusal in one.rejections]
        return summed_scores(sums)

    def _step(
        self, current: RoundInProgress, aggregate: Aggregate | None
    ) -> tuple[PublishedModel, OptimizerState] | None:
        """The next global model; None where there is none, it is not finite, or it collapses."""
        if aggregate is None:
            robust = self._run.aggregation
            current.too_few_items = f"[aggregation] rule {robust.rule} needs {min_items(robust)} shards or single updates"
            return None
        base = current.model
        # Overflow is looked for below; numpy need not warn of it as well.
        with np.errstate(over="ignore", invalid="ignore"):
            step = self._optimizer.step(
                base.model_N, self._sent.scatter(aggregate.update_M), current.optimizer_state
            )
        vectors = (step.model_N, *step.state.values())
        if not all(bool(np.isfinite(vector_N).all()) for vector_N in vectors):
            return None
        new_N, delta = step.model_N, b""
        if self._run.update.downlink == "delta":
            new_N, delta = step_to(new_N, base.model_N, self._run.update.downlink_step)
        current.rolled_back = self._collapse(base.model_N, new_N)
        if current.rolled_back:
            logger.warning("round %d is rolled back: %s", current.state.number, current.rolled_back)
            return None
        model = PublishedModel(
            model_N=new_N,
            digest=model_digest(new_N),
            base_digest=base.digest if delta else b"",
            delta=delta,
        )
        return model, step.state

    def _members(
        self, current: RoundInProgress, parts: Sequence[Float32Vector]
    ) -> tuple[Float32Vector, ...]:
        """Models of the round's shards, or of single vehicles, if they may teach the release's student."""
        release = self._run.release
        shards = protection_of(self._codec) is Protection.MASKED
        wanted = release.ensemble == "singles" or (release.ensemble == "auto" and shards)
        near_the_end = current.state.number > self._run.round.rounds - release.teachers
        if not (release.enabled and wanted and near_the_end) or len(parts) < 2:
            return ()
        base_N = current.model.model_N
        models = (base_N + self._sent.scatter(update_M) for update_M in parts[:_MAX_MEMBERS])
        return tuple(model_N for model_N in models if bool(np.isfinite(model_N).all()))

    def _collapse(self, before_N: Float32Vector, after_N: Float32Vector) -> str:
        """Why the new model must not stay; empty where it may."""
        if self._canary is None:
            return ""
        verdict = judge(self._canary(before_N), self._canary(after_N), self._run.canary)
        return "" if verdict.keep else verdict.reason

    def _noise_at(self, clip_norm: float | None) -> NoisePlan | None:
        """The noise of a round with that bound; None where there is none."""
        if self._run.privacy.noise_multiplier is None:
            return None
        privacy = dataclasses.replace(self._run.privacy, clip_norm=clip_norm)
        return NoisePlan(privacy, self._sent.size, self._run.update.modulus_bits)

    def _affords_a_round(self, grid: Grid) -> bool:
        """Whether the privacy budget allows another round; logs where it does not."""
        state = from_state_table(self._directory.checkpoint.update_state)
        noise = self._noise_at(state.clip_norm)
        if noise is None:
            return True
        settings = self._run.round
        fleet = len(self._vehicles.training(grid.get_node_ids()))
        wanted = begin(1, fleet, settings).wanted
        shard = min(wanted, self._run.update.shard_size)
        if shard < MIN_MEMBERS:
            return True
        minimum = self._run.update.minimum_cohort
        planned = noise.facts(
            noise.step(shard, minimum),
            survivors=shard,
            needed=uploads_needed(shard, minimum),
            rounds=settings,
            rate=wanted / fleet,
        )
        if noise.affords(state.spent, planned):
            return True
        last = self._directory.checkpoint.round
        logger.warning(
            "the run ends after round %d: another one would take epsilon beyond %g",
            last,
            self._run.privacy.epsilon_budget,
        )
        self._directory.log({"kind": "ended", "round": last, "because": "epsilon budget"})
        return False

    def _next_update_state(self, settled: Settled) -> UpdateState:
        """The clipping bound follows the share of updates that it clipped."""
        privacy, state = self._run.privacy, settled.state
        share, quantile = settled.clipped_share, privacy.clip_quantile
        if state.clip_norm is None or share is None or quantile is None:
            return state
        return state.replace(
            clip_norm=next_clip_norm(state.clip_norm, share, quantile, privacy.clip_learning_rate)
        )

    def _messages(
        self, current: RoundInProgress, model: PublishedModel, kind: str, vehicles: Sequence[str]
    ) -> tuple[list[Message], dict[str, RecordDict]]:
        """One message a vehicle; the content is the same object for all that need the same."""
        number = current.state.number
        contents = self._holders.contents(self._instructions(current, model), model, vehicles)
        for vehicle, content in contents.items():
            current.traffic.goes(vehicle, content)
        current.models_sent += len(contents)
        current.sent_model = model.digest
        messages = [
            Message(content, current.nodes[vehicle], kind, group_id=str(number))
            for vehicle, content in contents.items()
        ]
        current.addresses = Addresses(messages)
        return messages, contents

    def _settings_json(self, number: int, clip_norm: float | None) -> str:
        """What vehicles go by in a round."""
        run = self._run
        rate = run.training.learning_rate * learning_rate_factor(number, run.round)
        tables = {
            "data": run.data,
            "model": run.model,
            "training": dataclasses.replace(run.training, learning_rate=rate),
            "privacy": dataclasses.replace(run.privacy, clip_norm=clip_norm),
            "update": run.update,
        }
        return json.dumps({name: to_table(table) for name, table in tables.items()}, sort_keys=True)

    def _instructions(self, current: RoundInProgress, model: PublishedModel) -> RoundInstructions:
        run, number = self._run, current.state.number
        sealed = protection_of(self._codec) is Protection.SEALED
        keys = self._keys
        # Whom vehicles seal to may be revoked; with pairwise masks the roster brings the list.
        sealing = sealed or run.update.helpers > 0
        revocations = keys.trust.revocations if sealing and keys is not None else None
        return RoundInstructions(
            run_id=self._directory.checkpoint.run_id,
            round=number,
            seed=run.seed,
            schema_digest=self._schema.digest,
            model_digest=model.digest,
            codec=self._codec,
            settings_json=current.settings_json,
            aggregator=(
                sign_sealing_key(keys.sealing_key, keys.identity)
                if sealed and keys is not None and keys.sealing_key is not None
                else None
            ),
            revocations=revocations.der if revocations is not None else b"",
        )

    def _expectation(self, number: int) -> Expectation:
        return Expectation(
            run_id=self._directory.checkpoint.run_id,
            round_number=number,
            schema_digest=self._schema.digest,
            parameter_count=self._sent.size,
            codec=self._codec,
            max_examples=self._run.round.max_examples,
        )

    def _current(self, number: int) -> RoundInProgress:
        if self._open is None or self._open.state.number != number:
            raise ValueError(f"round {number} has not been configured")
        return self._open

    def _wait_for_first_vehicles(self, grid: Grid, first: int) -> None:
        """Wait until enough vehicles are connected to begin, or to go on after a restart.

        Raises:
            NoVehiclesError: They are not in time.
        """
        connected, wanted = self._wait_for_vehicles(grid, first), self._run.round.min_vehicles
        if connected < wanted:
            raise NoVehiclesError(
                f"{connected} of {wanted} vehicles connected within "
                f"{self._run.round.join_deadline_s:g} s: start them, "
                "or lower [round] min_vehicles, or raise [round] join_deadline_s"
            )

    def _wait_for_vehicles(self, grid: Grid, number: int) -> int:
        """Wait until enough vehicles are connected or the deadline has passed.

        Without this, a cut that takes all of them off the network for a moment would abandon one
        round after another in no time, and with them the run.

        Returns:
            How many are connected.
        """
        wanted, limit_s = self._run.round.min_vehicles, self._run.round.join_deadline_s
        end_s = self._now_s() + limit_s
        self._announce("invite", (), wanted, 0, limit_s, number=number)
        told = -1
        while True:
            connected = len(list(grid.get_node_ids()))
            if connected != told:
                logger.info("round %d: %d of %d vehicles are connected", number, connected, wanted)
                self._observer.connected(connected)
            if connected >= wanted or self._now_s() >= end_s:
                return connected
            told = connected
            self._sleep(_NODE_POLL_S)

    def _wait_for_helpers(self, grid: Grid) -> None:
        """Wait until there are as many mask helpers as a sum has.

        Raises:
            NoVehiclesError: They are not in time.
        """
        wanted, limit_s = self._run.update.helpers, self._run.round.join_deadline_s
        end_s = self._now_s() + limit_s
        while wanted and (found := len(self._mask_helpers(grid.get_node_ids()))) < wanted:
            if self._now_s() >= end_s:
                raise NoVehiclesError(
                    f"{found} of {wanted} mask helpers introduced themselves within {limit_s:g} s: "
                    "start them, or lower [update] helpers, or raise [round] join_deadline_s"
                )
            self._sleep(_NODE_POLL_S)
            self._vehicles.meet(grid, limit_s)

    def _announce(
        self,
        phase: RoundPhase,
        vehicles: tuple[str, ...] = (),
        wanted: int = 0,
        quorum: int = 0,
        deadline_s: float = 0.0,
        *,
        number: int | None = None,
    ) -> None:
        """Say what is waited for from now on, and for how long."""
        if number is None:
            assert self._open is not None  # noqa: S101 - only "invite" comes before a round is open
            number = self._open.state.number
        wait = Wait(
            round=number,
            phase=phase,
            wanted=wanted,
            quorum=quorum,
            deadline_s=deadline_s,
            vehicles=vehicles,
        )
        logger.info("%s", wait_line(wait), extra={"round": number})
        self._observer.waiting(wait)

    def _next_checkpoint(self, current: RoundInProgress) -> Checkpoint:
        """The run after this round, without the round's line."""
        last, settings = self._directory.checkpoint, self._run.round
        done = current.state.phase is Phase.DONE
        average_N, count = last.average_N, last.average_count
        if current.state.number > settings.rounds - settings.averaged_rounds:
            count += 1
            average_N = _running_mean(average_N, current.model.model_N, count)
        kept = self._run.release.teachers
        return dataclasses.replace(
            last,
            round=current.state.number,
            model_N=current.model.model_N,
            base_digest=current.model.base_digest,
            delta=current.model.delta,
            update_state=to_state_table(
                current.update_state.replace(held=hex_digests(self._holders.useful(current.model)))
            ),
            optimizer_state=current.optimizer_state,
            snapshots=(
                (*last.snapshots, current.model.model_N)[-kept:] if done else last.snapshots
            ),
            members=current.members if done else last.members,
            average_N=average_N,
            average_count=count,
            abandoned_in_a_row=0 if done else last.abandoned_in_a_row + 1,
        )

    def _commit(self, number: int, wall_s: float) -> RoundRecord:
        """Put the round on disk."""
        current = self._current(number)
        record = round_record(current, wall_s, self._sent.size, self._schema.parameter_count)
        if self._noise is not None:
            spent = self._noise.epsilon(current.update_state.spent)
            record = dataclasses.replace(record, epsilon=spent)
        line = to_line(record)
        checkpoint = dataclasses.replace(
            self._next_checkpoint(current), round_line=line, round_event=audit_event(current, line)
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


def check_keys(keys: Party | None, codec: str) -> None:
    """Refuse to start a run whose updates nobody could open or sum.

    Raises:
        UsageError: Says which key is missing and how to make it.
    """
    protection = protection_of(codec)
    if protection is Protection.NONE:
        return
    if keys is None:
        raise UsageError(
            f"codec {codec} needs the aggregator's keys: make them with `convoy fleet add FLEET NAME "
            f"--role aggregator` and name their folder under {KEYS_KEY!r} in the run configuration"
        )
    if protection is Protection.SEALED and keys.sealing_key is None:
        raise UsageError(
            f"codec {codec} needs a sealing key, and {keys.identity.name} has none: "
            "make the aggregator's folder with `convoy fleet add FLEET NAME --role aggregator`"
        )


def _published(checkpoint: Checkpoint) -> PublishedModel:
    return PublishedModel(
        model_N=checkpoint.model_N,
        digest=model_digest(checkpoint.model_N),
        base_digest=checkpoint.base_digest,
        delta=checkpoint.delta,
    )


def _sender(reply: Message, current: RoundInProgress) -> str:
    node = current.addresses.node_of(reply)
    return "unknown" if node is None else current.names.get(node, f"node-{node}")


def _refuse_stranger(vehicle: str, answered: Iterable[str]) -> None:
    if vehicle == "unknown":
        raise RefusedReplyError("malformed", "the reply belongs to no message of this round")
    if vehicle in answered:
        raise RefusedReplyError("replayed", "the second reply in this round")


def _last_round_is_scored(records: list[RoundRecord]) -> bool:
    """Whether the current global model has been scored, also before a restart."""
    for record in reversed(records):
        if record.balanced_accuracy is not None:
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
