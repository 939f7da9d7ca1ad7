"""health.json: what the supervisor says, read back as it was said."""

import pytest

from convoy_protos.errors import SettingsError
from convoy_server.service.health_file import (
    HEALTH_FILE,
    ProcessHealth,
    ServiceHealth,
    load_health,
    save_health,
)


def test_it_is_read_as_it_was_said(tmp_path):
    health = ServiceHealth(
        processes=(ProcessHealth(name="superlink", running=True, restarts=2, rss_bytes=10),),
        superlink_answers=True,
    )
    save_health(tmp_path, health)
    assert load_health(tmp_path) == health


def test_where_nobody_has_said_anything_nothing_runs(tmp_path):
    assert load_health(tmp_path) == ServiceHealth()


@pytest.mark.parametrize("text", ["", "[]", '{"draining": "soon"}'])
def test_what_is_no_health_is_refused_by_name(tmp_path, text):
    (tmp_path / HEALTH_FILE).write_text(text)
    with pytest.raises(SettingsError, match=r"health\.json"):
        load_health(tmp_path)
