"""Findings of a check: one line each, for people and for machines."""

import io
import json

from rich.console import Console

from convoy_protos.findings import (
    Finding,
    Level,
    findings_json,
    ok,
    print_findings,
    problem,
    problems,
    warning,
)

FOUND = [
    ok("disk", "12 MB free"),
    warning("clock", "nothing keeps it in step: install chrony"),
    problem("port", "[metrics] 127.0.0.1:9093: in use"),
]


def test_problems_are_told_from_the_rest():
    assert problems(FOUND) == [FOUND[2]]
    assert FOUND[0] == Finding(level=Level.OK, subject="disk", message="12 MB free")


def test_each_finding_is_a_line_and_brackets_stay_as_they_are():
    text = io.StringIO()
    print_findings(FOUND, Console(file=text, width=20))
    lines = text.getvalue().splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["ok", "disk"],
        ["warning", "clock"],
        ["problem", "port"],
    ]
    assert "[metrics] 127.0.0.1:9093: in use" in lines[2]


def test_machines_get_a_list():
    assert json.loads(findings_json(FOUND))[1] == {
        "level": "warning",
        "subject": "clock",
        "message": "nothing keeps it in step: install chrony",
    }
