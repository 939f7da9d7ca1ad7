"""What a person sees of a run: lines, bars, never a peer's control characters."""

import io

import pytest
from rich.console import Console

from convoy_server.observer_group import ObserverGroup
from convoy_server.printable import printable
from convoy_server.progress import LineProgress, LiveProgress, Pace, clock, progress_display
from convoy_server.round_log import RoundRecord
from convoy_server.rounds import Rejection, RoundConfig
from convoy_server.run_config import RunConfig

RUN = RunConfig(name="mine", round=RoundConfig(rounds=4))
EVIL = "car\x1b[31m\r\n9"


class Clock:
    """A clock that is set by hand."""

    now_s = 100.0

    def __call__(self) -> float:
        """Seconds."""
        return self.now_s


def record(number, **changes):
    values = {
        "round": number,
        "outcome": "done",
        "invited": 3,
        "completed": 3,
        "lost": 0,
        "surplus": 0,
        "rejected": {},
        "uplink_bytes": 1,
        "downlink_bytes": 1,
        "wall_s": 2.0,
        "train_loss": 0.5,
        "balanced_accuracy": 0.612,
    }
    return RoundRecord(**(values | changes))


TROUBLED = record(
    2,
    outcome="abandoned",
    abandoned_because="1 updates were accepted, quorum 2",
    completed=1,
    lost=1,
    rejected={"not_finite": 1},
    rejections=(Rejection(vehicle=EVIL, reason="not_finite", detail="nan"),),
    lost_vehicles=("car7",),
    train_loss=None,
    balanced_accuracy=None,
)


def console(*, terminal):
    return Console(file=io.StringIO(), width=120, force_terminal=terminal, color_system=None)


def play(display, clock):
    """Two rounds of four, 5 s each."""
    with display:
        display.run_started(RUN, {"car1": 700, EVIL: 300}, 1)
        for finished in (record(1), TROUBLED):
            display.round_started(finished.round, 3)
            display.update_arrived(finished.round, "car1", True, None)
            display.update_arrived(finished.round, EVIL, False, "not_finite")
            display.phase("evaluate", 1, 3)
            clock.now_s += 5.0
            display.round_finished(finished)


@pytest.fixture
def lines():
    clock, output = Clock(), console(terminal=False)
    play(LineProgress(output, clock), clock)
    return output.file.getvalue().splitlines()


def test_a_run_in_a_pipe_is_one_line_a_round(lines):
    assert lines == [
        "mine: 2 vehicles, 1000 training frames, 4 rounds",
        "round 1/4: 3/3 updates, loss 0.500, balanced accuracy 61.2%, 2.0 s, 0:15 left",
        "round 2/4: 1/3 updates, abandoned: 1 updates were accepted, quorum 2, "
        "refused: car?[31m??9 not_finite, lost: car7, 2.0 s, 0:10 left",
    ]


def test_the_last_round_has_no_time_left():
    clock, output = Clock(), console(terminal=False)
    display = LineProgress(output, clock)
    display.run_started(RUN, {}, 4)
    clock.now_s += 1
    display.round_finished(record(4))
    assert output.file.getvalue().splitlines()[-1].endswith("61.2%, 2.0 s")


def test_a_resumed_run_is_judged_by_the_rounds_of_this_session():
    assert Pace(first_round=11, rounds=20, started_s=0.0).left_s(12, 10.0) == 40.0


def test_a_long_phase_gets_a_line_at_its_ends_and_every_ten_seconds():
    clock, output = Clock(), console(terminal=False)
    display = LineProgress(output, clock)
    for done in range(9):
        display.phase("train baselines", done, 8)
        clock.now_s += 4.0
    assert [line.split()[2] for line in output.file.getvalue().splitlines()] == ["0", "3", "6", "8"]


def test_a_terminal_shows_bars_and_lets_trouble_scroll_by():
    clock, output = Clock(), console(terminal=True)
    play(LiveProgress(output, clock), clock)
    shown = output.file.getvalue()
    for expected in (
        "rounds",
        "2/4",
        "0:10 left",
        "round 2: car?[31m??9 refused: not_finite",
        "round 2: car7 never answered",
        "round 2: abandoned",
    ):
        assert expected in shown, expected
    assert "\x1b[31m\r\n9" not in shown


@pytest.mark.parametrize(
    ("terminal", "kind"), [(True, LiveProgress), (False, LineProgress)], ids=["terminal", "pipe"]
)
def test_the_console_decides_which(terminal, kind):
    assert type(progress_display(console(terminal=terminal))) is kind


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("car 7 – ü", "car 7 – ü"),  # noqa: RUF001 - letters of all languages stay
        ("\x1b]0;title\x07", "?]0;title?"),
        ("a\u202eb", "a?b"),  # right-to-left override
        ("x" * 61, "x" * 59 + "…"),
    ],
)
def test_control_characters_and_excess_do_not_reach_the_terminal(text, clean):
    assert printable(text) == clean


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (221, "3:41"), (3720, "1:02:00")])
def test_clocks_read_like_clocks(seconds, text):
    assert clock(seconds) == text


def test_a_group_tells_every_member_everything():
    outputs = [console(terminal=False) for _ in range(2)]
    clock = Clock()
    group = ObserverGroup([LineProgress(output, clock) for output in outputs])
    group.run_started(RUN, {"car1": 5}, 1)
    group.round_started(1, 3)
    group.update_arrived(1, "car1", True, None)
    group.phase("evaluate", 1, 2)
    clock.now_s += 3
    group.round_finished(record(1))
    first, second = (output.file.getvalue() for output in outputs)
    assert first == second
    assert len(first.splitlines()) == 2
