r"""One round as a pure state machine: no socket, no clock, no disk.

INVITE -> TRAIN -> UNMASK -> AGGREGATE -> DONE
    \        \         \        \-> ABANDONED   the mean is of no use
     \        \         \-> ABANDONED           too few in the secure sums
     \        \-> ABANDONED                     quorum missed
      \-> ABANDONED                             too few to invite

More clients are invited than needed (over-selection: Bonawitz et al., MLSys 2019, section 2.2). The
round stops waiting as soon as `wanted` updates are accepted; whoever is still training then is
surplus: neither lost nor rejected. In rounds with masked updates a vehicle is accepted when it has
trained; UNMASK then holds the secure sums, and who is missing in them is lost or rejected after all.
Codecs without masks pass UNMASK through.
"""

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal


class Phase(Enum):
    """Where a round stands."""

    INVITE = "invite"
    TRAIN = "train"
    UNMASK = "unmask"
    AGGREGATE = "aggregate"
    DONE = "done"
    ABANDONED = "abandoned"


_BOUNDS: Final = (
    ("rounds min_vehicles max_abandoned_in_a_row evaluate_every", 1, 10**9),
    ("max_examples", 1, 2**27),
    ("cohort_size quorum averaged_rounds evaluation_cohort", 0, 10**9),
    ("deadline_s join_deadline_s", 0.001, 1e9),
    ("over_selection", 1.0, 1e3),
    ("server_learning_rate tau", 1e-12, 1e12),
    ("server_momentum beta_1 beta_2", 0.0, 1.0 - 1e-6),
    ("client_learning_rate_end", 0.0, 1.0),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundConfig:
    """How rounds are run; section [round].

    Attributes:
        rounds: Rounds in a run.
        cohort_size: Updates wanted in a round; 0 or more than the fleet has means every vehicle.
        sampling: "fixed" draws cohort_size vehicles; "poisson" each vehicle by itself, with the chance
            that draws as many on average.
        over_selection: Invited clients over wanted updates, at least 1.
        quorum: Accepted updates without which the round is abandoned; 0 means more than half of
            the wanted ones.
        deadline_s: Seconds after which updates are no longer waited for.
        min_vehicles: Vehicles to wait for before a round. Before the first of a run, or of one that goes
            on after a restart, the run ends without them; later it goes on with those it has.
        join_deadline_s: Seconds to wait for them, and for a vehicle to introduce itself.
        max_abandoned_in_a_row: The run ends after so many abandoned rounds one after another.
        max_examples: A vehicle that claims more training examples is refused.
        weighting: An update weighs as many examples as it was trained on, or every one the same.
        optimizer: What turns the mean update into the next global model.
        server_learning_rate: Step length; 1 with fed_avg is plain averaging.
        server_momentum: Of fed_avg_m, in [0, 1).
        beta_1: First-moment decay of fed_adam and fed_yogi, in [0, 1).
        beta_2: Second-moment decay of fed_adam and fed_yogi, in [0, 1).
        tau: Adaptivity of fed_adam and fed_yogi: added to the root of the second moment, positive.
        client_learning_rate_schedule: How training.learning_rate falls over the rounds.
        client_learning_rate_end: Share of training.learning_rate left in the last round.
        averaged_rounds: The final model is the mean of the last so many global models; 0 means
            the last one itself.
        evaluate_every: Vehicles score the global model after every so many rounds and after the
            last.
        evaluation_cohort: Vehicles asked to score; 0 means all.
    """

    rounds: int = 10
    cohort_size: int = 0
    sampling: Literal["fixed", "poisson"] = "fixed"
    over_selection: float = 1.0
    quorum: int = 0
    deadline_s: float = 600.0
    min_vehicles: int = 1
    join_deadline_s: float = 60.0
    max_abandoned_in_a_row: int = 3
    max_examples: int = 1_000_000
    weighting: Literal["examples", "equal"] = "examples"
    optimizer: Literal["fed_avg", "fed_avg_m", "fed_adam", "fed_yogi"] = "fed_avg"
    server_learning_rate: float = 1.0
    server_momentum: float = 0.9
    beta_1: float = 0.9
    beta_2: float = 0.99
    tau: float = 1e-3
    client_learning_rate_schedule: Literal["constant", "linear", "cosine"] = "constant"
    client_learning_rate_end: float = 0.1
    averaged_rounds: int = 0
    evaluate_every: int = 1
    evaluation_cohort: int = 0

    def __post_init__(self) -> None:
        for names, low, high in _BOUNDS:
            for name in names.split():
                value = getattr(self, name)
                if not low <= value <= high:
                    raise ValueError(f"{name} must be in {low}..{high:g}, got {value}")
        if self.cohort_size and self.quorum > self.cohort_size:
            raise ValueError(f"quorum must be in 0..{self.cohort_size}, got {self.quorum}")
        if self.averaged_rounds > self.rounds:
            raise ValueError(
                f"averaged_rounds must be in 0..{self.rounds}, got {self.averaged_rounds}"
            )


@dataclass(frozen=True, slots=True)
class Rejection:
    """One reply that was refused.

    Attributes:
        vehicle: Its id, or "node-<id>" while that is unknown.
        reason: One of convoy_server.admission.REASONS.
        detail: Expected and got, one line.
    """

    vehicle: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundState:
    """Everything that decides what a round does next.

    Attributes:
        number: From 1.
        wanted: Accepted updates at which the round stops waiting.
        quorum: Accepted updates without which it is abandoned.
        cohort: Who was invited, in the order in which it was drawn.
        accepted: Who is in the sum, in the order of arrival; until UNMASK who will be.
        rejections: Whose reply was refused, in the order of arrival.
        lost: Who never answered, in the order of the cohort; known once waiting has ended.
    """

    number: int
    wanted: int
    quorum: int
    phase: Phase = Phase.INVITE
    cohort: tuple[str, ...] = ()
    accepted: tuple[str, ...] = ()
    rejections: tuple[Rejection, ...] = ()
    lost: tuple[str, ...] = ()

    @property
    def answered(self) -> frozenset[str]:
        """Whose reply was read, whatever was in it."""
        return frozenset(self.accepted) | {rejection.vehicle for rejection in self.rejections}

    @property
    def surplus(self) -> tuple[str, ...]:
        """Who was invited and no longer needed."""
        settled = self.answered | set(self.lost)
        return tuple(vehicle for vehicle in self.cohort if vehicle not in settled)


def begin(number: int, fleet_size: int, config: RoundConfig) -> RoundState:
    """A round that has invited nobody yet; how many it wants follows from the fleet."""
    wanted = min(config.cohort_size or fleet_size, fleet_size)
    quorum = config.quorum or wanted // 2 + 1
    return RoundState(number=number, wanted=wanted, quorum=quorum)


def begin_with(state: RoundState, drawn: int, config: RoundConfig) -> RoundState:
    """The round when as many vehicles are wanted as chance has drawn."""
    _expect(state, Phase.INVITE)
    quorum = config.quorum or drawn // 2 + 1
    return dataclasses.replace(state, wanted=drawn, quorum=quorum)


def invite(state: RoundState, cohort: Sequence[str]) -> RoundState:
    """INVITE -> TRAIN, or ABANDONED where too few can be invited."""
    _expect(state, Phase.INVITE)
    state = dataclasses.replace(state, cohort=tuple(cohort))
    enough = len(state.cohort) >= state.quorum
    return _move(state, Phase.TRAIN if enough else Phase.ABANDONED)


def accept(state: RoundState, vehicle: str) -> RoundState:
    """One update entered the sum; TRAIN -> UNMASK when nobody is left to wait for."""
    _expect(state, Phase.TRAIN)
    state = dataclasses.replace(state, accepted=(*state.accepted, vehicle))
    return _end_of_training(state) if len(state.accepted) == state.wanted else state


def reject(state: RoundState, rejection: Rejection) -> RoundState:
    """One reply was refused; the round goes on without it."""
    _expect(state, Phase.TRAIN)
    return dataclasses.replace(state, rejections=(*state.rejections, rejection))


def stop_waiting(state: RoundState) -> RoundState:
    """The deadline passed or nothing can come any more: TRAIN -> UNMASK or ABANDONED."""
    if state.phase is not Phase.TRAIN:
        return state
    answered = state.answered
    lost = tuple(vehicle for vehicle in state.cohort if vehicle not in answered)
    return _end_of_training(dataclasses.replace(state, lost=lost))


def unmasked(
    state: RoundState,
    summed: Collection[str] | None = None,
    rejections: Sequence[Rejection] = (),
) -> RoundState:
    """The sum is free of masks: UNMASK -> AGGREGATE, or ABANDONED where too few are in it.

    Args:
        state: In UNMASK.
        summed: Who is in the sum; None: everybody whose update was accepted.
        rejections: Whose message of the secure sum was refused.
    """
    _expect(state, Phase.UNMASK)
    if summed is None:
        return _move(state, Phase.AGGREGATE)
    refused = {rejection.vehicle for rejection in rejections}
    state = dataclasses.replace(
        state,
        accepted=tuple(vehicle for vehicle in state.accepted if vehicle in summed),
        rejections=(*state.rejections, *rejections),
        lost=(
            *state.lost,
            *(v for v in state.accepted if v not in summed and v not in refused),
        ),
    )
    enough = len(state.accepted) >= state.quorum
    return _move(state, Phase.AGGREGATE if enough else Phase.ABANDONED)


def finish(state: RoundState, *, aggregated: bool) -> RoundState:
    """The global model stepped, or the sum was of no use: AGGREGATE -> DONE or ABANDONED."""
    _expect(state, Phase.AGGREGATE)
    return _move(state, Phase.DONE if aggregated else Phase.ABANDONED)


def why_abandoned(state: RoundState) -> str:
    """One line for the user."""
    if len(state.cohort) < state.quorum:
        return f"{len(state.cohort)} vehicles could be invited, quorum {state.quorum}"
    if len(state.accepted) < state.quorum:
        return f"{len(state.accepted)} updates were accepted, quorum {state.quorum}"
    return "the mean of the accepted updates makes the model infinite"


def _end_of_training(state: RoundState) -> RoundState:
    enough = len(state.accepted) >= state.quorum
    return _move(state, Phase.UNMASK if enough else Phase.ABANDONED)


def _move(state: RoundState, phase: Phase) -> RoundState:
    return dataclasses.replace(state, phase=phase)


def _expect(state: RoundState, phase: Phase) -> None:
    if state.phase is not phase:
        raise ValueError(f"round {state.number}: expected {phase}, got {state.phase}")
