"""One log for all processes: fields, levels, other programs' lines, and no keys."""

import io
import json
import logging
import threading

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from convoy_server.service import structured_log
from convoy_server.service.server_config import LogConfig
from convoy_server.service.structured_log import (
    adopt,
    bind,
    is_our_line,
    level_of,
    relay,
    set_up_log,
    without_secrets,
)


@pytest.fixture
def stream():
    """Where a log of a test goes; the root logger gets back what it had."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield io.StringIO()
    bind()
    root.handlers[:] = before
    root.setLevel(level)


def lines(stream):
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_has_time_level_process_and_what_is_known(stream):
    set_up_log(LogConfig(), "executor", stream)
    bind(run="night", round=3)
    logging.getLogger("convoy_server.strategy").info(
        "vehicle %s\nis in", "car1", extra={"vehicle": "car1"}
    )
    (line,) = lines(stream)
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "info",
        "process": "executor",
        "logger": "convoy_server.strategy",
        "message": "vehicle car1\nis in",
        "run": "night",
        "round": 3,
        "vehicle": "car1",
    }


def test_what_the_call_says_wins_over_what_was_bound(stream):
    set_up_log(LogConfig(), "executor", stream)
    bind(round=3)
    logging.getLogger("convoy_server").info("late", extra={"round": 2})
    assert lines(stream)[0]["round"] == 2


def test_fields_belong_to_the_thread_that_bound_them(stream):
    set_up_log(LogConfig(), "executor", stream)
    bind(round=3)
    thread = threading.Thread(target=logging.getLogger("convoy_server").info, args=("elsewhere",))
    thread.start()
    thread.join()
    assert "round" not in lines(stream)[0]


def test_only_known_fields_can_be_bound():
    with pytest.raises(ValueError, match="got key"):
        bind(key="secret")


def test_text_is_one_line_with_the_traceback_below(stream):
    set_up_log(LogConfig(format="text"), "supervisor", stream)
    bind(run="night")
    try:
        raise OSError("no disk")
    except OSError:
        logging.getLogger("convoy_server").exception("cannot\nwrite")
    first, second, *_ = stream.getvalue().splitlines()
    assert first.endswith("ERROR   supervisor run=night: cannot write")
    assert second == "Traceback (most recent call last):"


def test_an_exception_stays_in_its_line(stream):
    set_up_log(LogConfig(), "supervisor", stream)
    try:
        raise OSError("no disk")
    except OSError:
        logging.getLogger("convoy_server").exception("cannot write")
    (line,) = lines(stream)
    assert "OSError: no disk" in line["traceback"]


def test_what_is_below_the_level_is_left_out(stream):
    set_up_log(LogConfig(level="warning"), "supervisor", stream)
    logging.getLogger("convoy_server").info("chatter")
    assert stream.getvalue() == ""


def test_libraries_write_into_the_same_stream_once(stream):
    set_up_log(LogConfig(), "superlink", stream)
    for name in ("flwr", "uvicorn.access"):
        logger = logging.getLogger(name)
        elsewhere = io.StringIO()
        logger.addHandler(logging.StreamHandler(elsewhere))
        logger.propagate = False
        adopt([name])
        logger.warning("from %s", name)
        assert elsewhere.getvalue() == ""
    assert [line["message"] for line in lines(stream)] == ["from flwr", "from uvicorn.access"]


def test_private_keys_never_get_out(stream):
    set_up_log(LogConfig(), "supervisor", stream)
    pem = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    logging.getLogger("convoy_server").info(
        "read %s", pem.decode(), extra={"vehicle": pem.decode()}
    )
    logging.getLogger("convoy_server").info("read convoy sealing key/1 x25519 00ff")
    text = stream.getvalue()
    assert pem.decode().splitlines()[1] not in text
    assert "00ff" not in text
    assert lines(stream)[0]["message"] == "read [private key]\n"
    assert without_secrets("-----BEGIN PRIVATE KEY-----\nabc") == "[private key]"  # cut short


@pytest.mark.parametrize(
    ("text", "level", "message"),
    [
        ("INFO :      Starting Flower SuperLink", logging.INFO, "Starting Flower SuperLink"),
        ("WARNING:  deprecated", logging.WARNING, "deprecated"),
        ("INFORMATION of use", logging.INFO, "INFORMATION of use"),
        ("no level", logging.INFO, "no level"),
        ("Traceback (most recent call last):", logging.INFO, "Traceback (most recent call last):"),
    ],
)
def test_levels_of_other_programs_are_read(text, level, message):
    assert level_of(text) == (level, message)


def test_output_of_a_child_becomes_records_and_our_own_lines_pass(stream):
    set_up_log(LogConfig(), "supervisor", stream)
    own = (
        '{"time": "2026-03-01T12:00:00.000Z", "level": "info", "process": "executor", '
        '"logger": "x", "message": "m", "round": 2}'
    )
    output = [
        b"\x1b[92mINFO \x1b[0m:      up\n",
        b"\n",
        own.encode() + b"\n",
        b"\xff\xfe odd\n",
    ]
    relay(output, "superlink", stream)
    first, second, third = lines(stream)
    assert (first["process"], first["message"]) == ("superlink", "up")
    assert second == json.loads(own)
    assert third["message"].endswith("odd")


@given(st.lists(st.binary(max_size=80), max_size=5))
def test_whatever_a_child_prints_each_line_of_the_log_is_an_object(output):
    stream = io.StringIO()
    logger = logging.getLogger(f"{structured_log.__name__}.child")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(structured_log.JsonFormatter("supervisor"))
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        relay(output, "child", stream)
    finally:
        logger.removeHandler(handler)
        logger.propagate = True
    for line in stream.getvalue().split("\n")[:-1]:
        assert isinstance(json.loads(line), dict)


@pytest.mark.parametrize("text", ["", "{}", '{"time": "', '{"time": "x"}', '{"time": "x"} y'])
def test_other_lines_are_not_taken_for_ours(text):
    assert not is_our_line(text)
