"""The verbs `report` and `audit verify`."""

from datetime import UTC, datetime

import pytest

from convoy_protos.errors import JobFailedError, UsageError
from convoy_server.audit import open_audit
from convoy_server.commands import audit_verify, report


@pytest.fixture
def logged(tmp_path):
    (tmp_path / "checkpoint").mkdir()
    log = open_audit(tmp_path, lambda: datetime(2026, 1, 1, tzinfo=UTC))
    for kind in ("started", "resumed", "resumed"):
        log.append({"kind": kind})
    return tmp_path


def test_an_untouched_log_is_confirmed(logged, capsys):
    audit_verify(logged)
    assert capsys.readouterr().out == f"{logged / 'audit.jsonl'}: 3 events, none edited\n"


def test_an_edited_log_is_a_failed_job_that_names_the_line(logged):
    path = logged / "audit.jsonl"
    path.write_text(path.read_text().replace("resumed", "started"))
    with pytest.raises(JobFailedError, match=r"audit\.jsonl:2: edited"):
        audit_verify(logged)


def test_a_directory_without_a_log_is_wrong_usage(tmp_path):
    with pytest.raises(UsageError, match=r"audit\.jsonl: no such file"):
        audit_verify(tmp_path)


def test_a_directory_without_a_run_has_no_report(tmp_path):
    with pytest.raises(UsageError, match="holds no run"):
        report(tmp_path)
