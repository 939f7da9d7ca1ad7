"""The table at the end of a run."""

import dataclasses
import io

from rich.console import Console

from convoy_server.report.contract import Baselines
from convoy_server.report.summary import comparison_rows, print_summary


def printed(report):
    console = Console(file=io.StringIO(), width=100)
    print_summary(report, console)
    return console.file.getvalue()


def test_the_main_figures_are_printed(full_report):
    text = printed(full_report)
    for expected in ("demo, seed 7", "80.0%", "60.0%", "82.0%", "27.6% of float32", "3 min 41 s"):
        assert expected in text, expected
    assert "2 × not_finite, 1 × lost" in text  # noqa: RUF001 - a multiplication sign
    assert "accepted" in text


def test_a_name_with_markup_in_it_is_printed_as_it_is(full_report):
    worst = dataclasses.replace(full_report.final.worst_vehicle, id="[red]car[/blue]")
    final = dataclasses.replace(full_report.final, worst_vehicle=worst)
    assert "[red]car[/blue]" in printed(dataclasses.replace(full_report, final=final))


def test_the_gate_that_refused_is_named(full_report):
    gate = dataclasses.replace(full_report.release.gates[0], value=0.4, passed=False)
    release = dataclasses.replace(full_report.release, accepted=False, gates=(gate,))
    text = printed(dataclasses.replace(full_report, release=release))
    assert "REFUSED" in text
    assert "because      int8_size_ratio: 0.4, limit 0.3" in text


def test_reasons_in_words_are_enough(full_report):
    gate = dataclasses.replace(full_report.release.gates[0], value=0.4, passed=False)
    release = dataclasses.replace(
        full_report.release, accepted=False, gates=(gate,), reasons=("the file is too large",)
    )
    text = printed(dataclasses.replace(full_report, release=release))
    assert "because      the file is too large" in text
    assert "limit" not in text


def test_what_was_not_measured_is_a_dash(full_report):
    bare = dataclasses.replace(full_report, baselines=Baselines(), closed_loop=None)
    assert comparison_rows(bare) == [("balanced accuracy", "80.0%", "–", "–")]  # noqa: RUF001
