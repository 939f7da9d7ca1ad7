"""Who has the wheel: models are exchanged between two frames, and go back by themselves.

    the thread that drives   answer(picture): one model, a few additions; never waits for disk or network
    the keeper's thread      states on disk, loading, warming, shadow, verdicts, telemetry

Make before break: what takes over is loaded and warm, and the model before stays loaded until the new one is
committed to. A frame that the new one does not answer, the model before answers: the same frame. Each state
is on disk before it is entered, but for the way back: that one cannot wait for a disk.
"""

import logging
import queue
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from convoy_driving.errors import InferenceError, ModelFileError
from convoy_edge_client.drive.drive_config import DriveConfig
from convoy_edge_client.drive.frame_statistics import FrameStatistics
from convoy_edge_client.drive.loaded_model import FACTORY, Answer, LoadedModel, load_model
from convoy_edge_client.drive.shadow import Shadow
from convoy_edge_client.drive.timed_model import TimedModel
from convoy_edge_client.drive.trial_rules import (
    DrivenFrames,
    VehicleMoment,
    is_open,
    trial_objection,
)
from convoy_edge_client.errors import FactoryModelError, ReleaseFileError, ReleaseStoreError
from convoy_edge_client.updates import states
from convoy_edge_client.updates.states import Record, Slot, State
from convoy_edge_client.updates.update_file import UpdateFile
from convoy_privacy.releases.layout import RELEASES_FOLDER

logger = logging.getLogger(__name__)

ENGINES_FOLDER: Final = "engines"
_KEEP_EVERY_S: Final = 0.1
_SWITCH_S: Final = 0.0005
_NOT_LOADED: Final = (ReleaseFileError, ModelFileError, InferenceError)

Telemetry = Callable[["Interval"], None]


@dataclass(frozen=True, slots=True)
class Seat:
    """What has the wheel.

    Attributes:
        model: Answers.
        timed: Through which it answers during a trial; None: directly.
        before: Answers if the model does not, and drives from then on; None outside of a trial.
    """

    model: LoadedModel
    timed: TimedModel | None = None
    before: LoadedModel | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """What one line of telemetry sums up.

    Attributes:
        statistics: Of the frames.
        record: As it is now.
        release: That drives.
        provider: That computes it.
        shadow_compared: Frames that a candidate has looked at.
        shadow_difference: Mean difference of its steering.
    """

    statistics: FrameStatistics
    record: Record
    release: str
    provider: str
    shadow_compared: int = 0
    shadow_difference: float = 0.0


class Wheel:
    """The models of one vehicle; one thread drives."""

    def __init__(
        self,
        file: UpdateFile,
        factory: Path,
        config: DriveConfig,
        telemetry: Telemetry = lambda _: None,
    ) -> None:
        """Load what drives: it can answer when this returns.

        Args:
            file: The states.
            factory: Folder of the model that the vehicle was built with; never written.
            config: How it drives.
            telemetry: Told every telemetry_every_s, by the keeper's thread.

        Raises:
            FactoryModelError: Nothing can be loaded, not even the factory's model.
        """
        self._file = file
        self._factory = factory
        self._config = config
        self._telemetry = telemetry
        self._engines = file.folder / ENGINES_FOLDER
        self._moment = VehicleMoment()
        self._left: queue.SimpleQueue[tuple[Slot, str]] = queue.SimpleQueue()
        self._shape: tuple[int, ...] = ()
        self._shadow: Shadow | None = None
        self._warm: LoadedModel | None = None
        self._asked_s = 0.0
        self._statistics = self._fresh()
        self._since_swap = self._fresh()
        self._before = DrivenFrames()
        self._record, self._seat = self._first_seat()
        self._stop = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="convoy-keeper", daemon=True)

    def start(self) -> None:
        """Begin to look after the states; without it the first model drives for ever."""
        # By default a thread may hold the interpreter for 5 ms while the one that drives waits for it.
        sys.setswitchinterval(_SWITCH_S)
        self._keeper.start()

    def close(self) -> None:
        """End the threads and processes; what was counted is told."""
        self._stop.set()
        if self._keeper.is_alive():
            self._keeper.join()
            try:
                self._file.step(states.ended)
            except ReleaseStoreError as error:
                logger.warning("states: %s", error)
        self._end_shadow()
        self._tell()

    def answer(self, picture_HWC: NDArray[np.uint8]) -> Answer:
        """What to do now.

        Args:
            picture_HWC: uint8, RGB, of any size.

        Raises:
            InferenceError: The model fails, and there is none before it to go back to.
        """
        started_s = self._asked_s = time.perf_counter()
        seat = self._seat
        try:
            answer = (seat.timed or seat.model).answer(picture_HWC)
        except InferenceError as error:
            self._statistics.failures += 1
            slot = seat.model.slot
            if slot is None:
                raise  # nothing stands behind the factory's model
            if seat.before is not None:
                self._take(Seat(seat.before))
                self._left.put((slot, str(error)))
            else:
                self._leave(slot, str(error))
            answer = self._seat.model.answer(picture_HWC)
        finally:
            self._asked_s = 0.0
        latency_ms = (time.perf_counter() - started_s) * 1e3
        for statistics in (self._statistics, self._since_swap):
            statistics.add(latency_ms, answer.steering, answer.probabilities)
        self._shape = picture_HWC.shape
        shadow = self._shadow
        if shadow is not None:
            shadow.offer(picture_HWC, answer.steering)
        return replace(answer, latency_ms=latency_ms)

    def tell(self, moment: VehicleMoment) -> None:
        """What the vehicle says of itself; opens and closes the swap window."""
        self._moment = moment

    @property
    def record(self) -> Record:
        """As the keeper last saw it."""
        return self._record

    @property
    def hangs_s(self) -> float:
        """For how long the present frame has waited for its answer."""
        asked_s = self._asked_s
        return time.perf_counter() - asked_s if asked_s else 0.0

    # The keeper's thread.

    def _keep(self) -> None:
        told_s, stamp = time.monotonic(), (0, 0)
        while not self._stop.wait(_KEEP_EVERY_S):
            try:
                newest = self._file.stamp()
                if newest != stamp:
                    self._record, stamp = self._file.read(), newest
                self._tend()
            except ReleaseStoreError as error:
                # The model that drives goes on; the next try is a tenth of a second away.
                logger.warning("states: %s", error)
                self._stop.wait(1.0)
            if time.monotonic() - told_s >= self._config.telemetry_every_s:
                told_s = time.monotonic()
                self._tell()

    def _tend(self) -> None:
        """The next thing that the states ask for."""
        while not self._left.empty():
            slot, why = self._left.get()
            logger.warning("%s is left: %s", slot.release, why)
            self._step(_failing(slot, why))
        self._follow()
        state, candidate = self._record.state, self._record.candidate
        if state is not State.SHADOW:
            self._end_shadow()
        settled = self._since_swap.frames >= self._config.settled_frames
        if settled and self._record.starts and state is not State.TRIAL:
            self._step(states.drives_well)
        if candidate is None or state not in states.WITH_DRIVER:
            self._warm = None
            return
        if state is State.SHADOW:
            self._watch_shadow(candidate)
        elif state is State.READY:
            self._hand_over(candidate)
        elif state is State.TRIAL:
            self._judge_trial(candidate)

    def _follow(self) -> None:
        """Let go of a model that the states do not name any more: withdrawn, or sent back."""
        seat = self._seat
        if seat.model.slot == states.driven(self._record):
            return
        if seat.before is not None and seat.before.slot == states.driven(self._record):
            self._take(Seat(seat.before))
            logger.info("%s drives again", seat.before.release)
            return
        if self._record.state is State.TRIAL:
            return  # _judge_trial
        record, other = self._loaded(self._record)
        self._record = record
        self._take(other)

    def _watch_shadow(self, candidate: Slot) -> None:
        if self._shadow is not None and self._shadow.slot != candidate:
            self._end_shadow()
        if self._shadow is None:
            if self._shape:  # known from the first frame on
                folder = self._folder(candidate)
                self._shadow = Shadow(folder, candidate, self._config, self._engines, self._shape)
            return
        verdict = self._shadow.verdict
        if verdict is None:
            return
        compared, difference = self._shadow.compared, self._shadow.mean_difference
        self._end_shadow()
        if verdict:
            logger.warning("%s fails in the shadow: %s", candidate.release, verdict)
            self._step(lambda held: states.candidate_failed(held, candidate.release, verdict))
        else:
            logger.info("%s agrees: %.3f off in %d frames", candidate.release, difference, compared)
            self._step(lambda held: states.shadow_passed(held, candidate.release))

    def _hand_over(self, candidate: Slot) -> None:
        if not self._record.may_advance:
            return
        if not is_open(self._config.swap_window, self._moment):
            return
        if self._warm is None or self._warm.slot != candidate:
            try:
                self._warm = load_model(
                    self._folder(candidate), candidate, self._config, self._engines
                )
            except _NOT_LOADED as error:
                why = str(error)
                self._step(lambda held: states.unusable(held, candidate, why))
                return
            if not is_open(self._config.swap_window, self._moment):
                return  # closed meanwhile: it is warm for the next time
        after = self._step(lambda held: states.trial_begins(held, candidate.release))
        if after.state is State.TRIAL and after.candidate == candidate:
            self._before = _counted(self._since_swap)
            before = self._seat.model
            self._take(Seat(self._warm, TimedModel(self._warm, self._config.watchdog_s), before))
            self._warm = None
            logger.info("%s drives on trial", candidate.release)

    def _judge_trial(self, candidate: Slot) -> None:
        seat = self._seat
        if seat.model.slot != candidate:
            return  # left a moment ago; the next look finds it in the queue
        verdict = trial_objection(self._before, _counted(self._since_swap), self._config)
        if verdict is None:
            return
        if verdict:
            if seat.before is not None:
                self._take(Seat(seat.before))
            logger.warning("%s fails on trial: %s", candidate.release, verdict)
            self._step(lambda held: states.candidate_failed(held, candidate.release, verdict))
            return
        after = self._step(lambda held: states.trial_passed(held, candidate.release))
        if after.committed == candidate and self._seat is seat:
            self._seat = Seat(seat.model)
            if seat.timed is not None:
                seat.timed.close()
            logger.info("%s is committed", candidate.release)

    def _step(self, change: Callable[[Record], Record]) -> Record:
        self._record = self._file.step(change)
        return self._record

    def _take(self, seat: Seat) -> None:
        """Between two frames: one assignment."""
        left, self._seat = self._seat, seat
        self._since_swap = self._fresh()
        if left.timed is not None:
            left.timed.close()

    def _tell(self) -> None:
        statistics, self._statistics = self._statistics, self._fresh()
        model, shadow = self._seat.model, self._shadow
        interval = Interval(
            statistics=statistics,
            record=self._record,
            release=model.release,
            provider="cpu" if model.slot is None else model.slot.provider,
            shadow_compared=0 if shadow is None else shadow.compared,
            shadow_difference=0.0 if shadow is None else shadow.mean_difference,
        )
        try:
            self._telemetry(interval)
        except ReleaseStoreError as error:
            logger.warning("telemetry: %s", error)

    def _end_shadow(self) -> None:
        shadow, self._shadow = self._shadow, None
        if shadow is not None:
            shadow.close()

    def _fresh(self) -> FrameStatistics:
        return FrameStatistics(deadline_ms=self._config.frame_period_s * 1e3)

    # Loading.

    def _first_seat(self) -> tuple[Record, Seat]:
        try:
            record = self._file.step(states.started)
        except ReleaseStoreError as error:
            # What cannot be counted must not be tried.
            logger.warning("states: %s; what is committed drives", error)
            record = self._file.read()
            if record.state is State.TRIAL:
                record = replace(record, state=State.READY, may_advance=False)
        return self._loaded(record)

    def _loaded(self, record: Record) -> tuple[Record, Seat]:
        """What the record says, or the first on the way back that can be loaded."""
        faults: list[str] = []
        for slot in states.ways(record):
            try:
                model = load_model(self._folder(slot), slot, self._config, self._engines)
            except _NOT_LOADED as error:
                faults.append(f"{FACTORY if slot is None else slot.release}: {error}")
                logger.warning("not loaded: %s", faults[-1])
                if slot is not None:
                    record = self._noted(record, slot, str(error))
                continue
            if record.state is State.TRIAL and slot == record.candidate and slot is not None:
                timed = TimedModel(model, self._config.watchdog_s)
                return record, Seat(model, timed, self._fallback(record))
            return record, Seat(model)
        raise FactoryModelError(
            f"{self._factory}: the factory's model cannot be loaded ({faults[-1]}); put a release's "
            "folder there"
        )

    def _fallback(self, record: Record) -> LoadedModel:
        return self._loaded(replace(record, state=State.READY))[1].model

    def _leave(self, slot: Slot, why: str) -> None:
        """What is committed fails under way: this frame waits for the way back."""
        logger.warning("%s fails while it drives: %s", slot.release, why)
        try:
            record = self._file.step(lambda held: states.committed_failed(held, slot, why))
        except ReleaseStoreError as error:
            logger.warning("states: %s", error)
            record = states.committed_failed(self._file.read(), slot, why)
        self._record, seat = self._loaded(replace(record, candidate=None, state=State.ROLLED_BACK))
        self._take(seat)

    def _noted(self, record: Record, slot: Slot, why: str) -> Record:
        try:
            return self._file.step(lambda held: states.unusable(held, slot, why))
        except ReleaseStoreError as error:
            logger.warning("states: %s", error)
            return states.unusable(record, slot, why)

    def _folder(self, slot: Slot | None) -> Path:
        if slot is None:
            return self._factory
        return self._file.folder / RELEASES_FOLDER / slot.release


def _counted(statistics: FrameStatistics) -> DrivenFrames:
    return DrivenFrames(
        frames=statistics.frames, p50_ms=statistics.quantile_ms(0.5), missed=statistics.missed
    )


def _failing(slot: Slot, why: str) -> Callable[[Record], Record]:
    return lambda record: states.candidate_failed(record, slot.release, why)
