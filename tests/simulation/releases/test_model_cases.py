"""Every bad model file is refused as it must; `convoy release selftest` plays the same ones."""

import pytest

from convoy_protos.errors import JobFailedError
from convoy_simulation.releases import attack_cases, commands, model_cases
from convoy_simulation.releases.bad_models import SOUND
from convoy_simulation.releases.model_cases import MODEL_CASES, ModelCase


@pytest.mark.slow
@pytest.mark.parametrize("case", MODEL_CASES, ids=lambda case: case.name)
def test_a_bad_model_file_ends_as_it_must(case, tmp_path):
    assert case.expected in case.play(tmp_path).split("; ")


@pytest.mark.slow
def test_a_sound_file_drives(tmp_path):
    assert ModelCase(name="sound", content=SOUND, expected="").play(tmp_path) == "drives"


@pytest.mark.slow
@pytest.mark.parametrize(("expected", "fails"), [("files", False), ("weights", True)])
def test_the_selftest_fails_where_one_case_ends_otherwise(monkeypatch, capsys, expected, fails):
    monkeypatch.setattr(attack_cases, "CASES", attack_cases.CASES[:1])
    case = ModelCase(name="empty", content=b"", expected=expected)
    monkeypatch.setattr(model_cases, "MODEL_CASES", (case,))

    if fails:
        with pytest.raises(JobFailedError, match="1 of 2 cases ended otherwise"):
            commands.release_selftest()
    else:
        commands.release_selftest()

    assert ("WRONG" in capsys.readouterr().out) == fails
