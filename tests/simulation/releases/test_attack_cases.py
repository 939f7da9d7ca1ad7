"""Every attack on releases and every fault ends as it must; `convoy release selftest` plays the same ones."""

from datetime import UTC, datetime

import pytest

from convoy_simulation.releases.attack_cases import CASES, Scene


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_attack_on_a_release_ends_as_it_must(case, tmp_path):
    scene = Scene(tmp_path, datetime.now(UTC))
    assert case.play(scene) == case.expected


def test_every_case_is_there_once():
    assert len({case.name for case in CASES}) == len({case.play for case in CASES}) == len(CASES)
