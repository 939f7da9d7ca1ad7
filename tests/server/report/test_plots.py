"""Plots: deterministic, one set of ids each, colours of the page."""

import dataclasses
import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convoy_server.report import plots
from convoy_server.report.contract import Baselines, CurvePoint


@pytest.fixture(scope="module")
def drawings(full_report):
    return {
        "learning": plots.learning_curves(full_report),
        "loss": plots.training_loss(full_report.rounds),
        "participation": plots.participation(full_report.rounds),
        "traffic": plots.traffic(full_report.rounds),
    }


def test_every_plot_is_one_well_formed_element_with_a_title(drawings):
    for name, drawing in drawings.items():
        # The page declares no namespaces: HTML knows svg and xlink by themselves.
        root = ET.fromstring(drawing.replace("xlink:href", "href"))
        assert root.tag == "svg", name
        assert root[0].tag == "title", name


def test_no_id_stands_twice_among_all_plots_and_every_reference_finds_its_own(drawings):
    document = "".join(drawings.values())
    ids = re.findall(r'\bid="([^"]+)"', document)
    assert len(ids) == len(set(ids)) > 0
    for name, drawing in drawings.items():
        references = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', drawing)
        assert references, name
        assert {a or b for a, b in references} <= set(re.findall(r'\bid="([^"]+)"', drawing)), name


def test_the_same_report_gives_the_same_bytes(full_report, drawings):
    assert plots.learning_curves(full_report) == drawings["learning"]


def test_colours_are_those_of_the_page_so_that_dark_mode_works(drawings):
    for name, drawing in drawings.items():
        assert not re.search(r"#[0-9a-f]{6}\b", drawing), name
        assert "var(--muted)" in drawing, name


def test_a_plot_brings_no_style_sheet_that_would_reach_the_page(drawings):
    assert not any("<style" in drawing or "<metadata" in drawing for drawing in drawings.values())


def test_a_baseline_without_a_curve_is_a_level_line(full_report):
    with_curve = plots.learning_curves(full_report)
    assert "82% in one place" in with_curve  # `central` has a figure and no curve
    without = dataclasses.replace(
        full_report, baselines=dataclasses.replace(full_report.baselines, central=None)
    )
    assert "in one place" not in plots.learning_curves(without)


def test_without_curves_the_rounds_are_drawn(full_report):
    drawing = plots.learning_curves(dataclasses.replace(full_report, curves={}))
    assert ">round<" in drawing
    assert "80% the fleet" in drawing  # of round 4; round 3 was abandoned


def test_nothing_measured_draws_nothing(full_report):
    empty = dataclasses.replace(full_report, rounds=(), curves={})
    assert plots.learning_curves(empty) == ""
    assert plots.training_loss(()) == plots.participation(()) == plots.traffic(()) == ""


@given(
    wanted=st.lists(st.floats(0, 1), max_size=6).map(sorted),
    gap=st.floats(0.001, 0.3),
)
def test_labels_are_spread_to_the_gap_in_order_about_their_centre(wanted, gap):
    spread = plots.spread(wanted, gap)
    assert len(spread) == len(wanted)
    assert all(b - a >= gap * (1 - 1e-9) - 1e-12 for a, b in pairwise(spread))
    assert sum(spread) == pytest.approx(sum(wanted), abs=1e-9)


def test_labels_far_apart_stay_where_they_are():
    assert plots.spread([0.1, 0.5, 0.9], 0.05) == [0.1, 0.5, 0.9]


def test_a_level_curve_does_not_look_like_a_cliff(full_report):
    flat = (
        CurvePoint(epochs=1, balanced_accuracy=0.500),
        CurvePoint(epochs=2, balanced_accuracy=0.501),
    )
    level = dataclasses.replace(full_report, curves={"federated": flat}, baselines=Baselines())
    ticks = re.findall(r">(\d+)%<", plots.learning_curves(level))
    assert len(ticks) == len(set(ticks)) >= 2
