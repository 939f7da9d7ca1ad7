"""The run configuration as the text in which it travels."""

import pytest
from fleet_double import small_run

from convoy_protos.errors import SettingsError
from convoy_server.run_config import RunConfig, run_config_from_json, run_config_to_json


@pytest.mark.parametrize("run", [RunConfig(), small_run(rounds=7, averaged_rounds=2)])
def test_a_run_comes_out_of_its_text(run):
    text = run_config_to_json(run)
    assert run_config_from_json(text) == run
    assert run_config_to_json(run_config_from_json(text)) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "expected an object"),
        ('{"rounds": 3}', "unknown key 'rounds'"),
        ('{"round": {"rounds": 0}}', "rounds must be in 1"),
        ('{"seed": -1}', "seed must be in"),
        ('{"name": ""}', "name must not be empty"),
        ('{"update": {"codec": "zip"}}', "codec: expected one of"),
    ],
)
def test_another_text_is_refused_and_the_field_named(text, message):
    with pytest.raises(SettingsError, match=message):
        run_config_from_json(text)
