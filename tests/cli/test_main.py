"""The `convoy` command: its verbs, its exit codes, its one line of error."""

import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from convoy_cli.main import ending, main, run
from convoy_cli.verbs import help_text, installed_verbs, repeat_options

VERBS = '''
"""Verbs of a party that exists for these tests."""

import sys
from typing import Annotated

import typer

from convoy_protos.errors import JobFailedError, SettingsError, UsageError

if "forbidden" in __name__:
    raise AssertionError("a listing must not import the verbs")


def greet(
    name: Annotated[str, typer.Argument(help="Whom to greet.")] = "fleet",
    times: Annotated[int, typer.Option(help="How often.")] = 1,
) -> None:
    """Greet somebody.

    Politely.

    Example:
        convoy greet car7
          --times 2

    Raises:
        UsageError: Never.
    """
    print("hello", name, times)


def fail(kind: str) -> None:
    """Fail in one of many ways."""
    raise {
        "usage": UsageError("my.toml: no such\\n file"),
        "settings": SettingsError("[round] quorum: too large"),
        "job": JobFailedError("the gate refused"),
        "disk": OSError(28, "No space left on device", "runs/x"),
        "fault": KeyError("weird"),
        "stop": KeyboardInterrupt("stopped; --resume goes on"),
        "stop_bare": KeyboardInterrupt(),
    }[kind]


def gather(
    first: str = "none",
    data: Annotated[list[str] | None, typer.Option(help="What.", metavar="PATH")] = None,
) -> None:
    """Gather things."""
    print(first, data)


def refuse() -> int:
    """End with a code."""
    return 1
'''


@pytest.fixture
def verbs(tmp_path, monkeypatch):
    (tmp_path / "party_verbs.py").write_text(VERBS)
    (tmp_path / "forbidden_verbs.py").write_text(VERBS)
    (tmp_path / "heavy_verbs.py").write_text("import no_such_library\n")
    monkeypatch.syspath_prepend(tmp_path)
    entries = {
        "greet": "party_verbs:greet",
        "fail": "party_verbs:fail",
        "refuse": "party_verbs:refuse",
        "gather": "party_verbs:gather",
        "data greet": "party_verbs:greet",
        "data fail": "party_verbs:fail",
        "unread": "forbidden_verbs:greet",
        "heavy": "heavy_verbs:train",
        "gone": "no_such_party:verb",
    }
    yield [EntryPoint(name, value, "convoy.commands") for name, value in entries.items()]
    sys.modules.pop("party_verbs", None)


def test_a_verb_gets_its_arguments(verbs, capsys):
    assert run(["greet", "car7", "--times", "2"], verbs) == 0
    assert capsys.readouterr().out == "hello car7 2\n"


def test_a_name_of_two_words_is_a_sub_command(verbs, capsys):
    assert run(["data", "greet"], verbs) == 0
    assert capsys.readouterr().out == "hello fleet 1\n"


def test_the_listing_reads_summaries_without_importing_the_verbs(verbs, capsys):
    assert run(["--help"], verbs) == 0
    listing = capsys.readouterr().out
    assert "Greet somebody." in listing
    assert "Fail in one of many ways." in listing
    assert "Greet, fail." in listing  # the group `data`
    assert "forbidden_verbs" not in sys.modules


@pytest.mark.usefixtures("verbs")
@pytest.mark.parametrize("order", [("greet", "greet often"), ("greet often", "greet")])
def test_a_verb_may_be_the_first_word_of_another(capsys, order):
    value = {"greet": "party_verbs:greet", "greet often": "party_verbs:gather"}
    both = [EntryPoint(name, value[name], "convoy.commands") for name in order]
    assert run(["greet", "car7", "--times", "2"], both) == 0
    assert run(["greet"], both) == 0
    assert run(["greet", "often", "--first", "x"], both) == 0
    assert capsys.readouterr().out == "hello car7 2\nhello fleet 1\nx None\n"

    assert run(["greet", "--help"], both) == 0
    shown = capsys.readouterr().out
    assert "--times" in shown
    assert "See also `convoy greet often`." in shown
    assert run(["--help"], both) == 0
    assert "Greet somebody." in capsys.readouterr().out


def test_help_of_a_verb_shows_its_example_and_nothing_for_programmers(verbs, capsys):
    assert run(["greet", "--help"], verbs) == 0
    shown = capsys.readouterr().out
    assert "Politely." in shown
    assert "Example:\n    convoy greet car7\n      --times 2\n" in shown
    assert "UsageError" not in shown


@pytest.mark.parametrize(
    "words", [["--data", "a", "b"], ["--data", "a", "--data", "b"]], ids=["at once", "repeated"]
)
def test_an_option_for_several_values_takes_them_either_way(verbs, capsys, words):
    assert run(["gather", *words, "--first", "x"], verbs) == 0
    assert capsys.readouterr().out == "x ['a', 'b']\n"


def test_the_help_says_that_an_option_takes_several_values(verbs, capsys):
    assert run(["gather", "--help"], verbs) == 0
    assert "--data PATH..." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "spread"),
    [
        ("x --data a b c --out o y", "x --data a --data b --data c --out o y"),
        ("--data=a b", "--data=a b"),  # one word is one value; b stands alone
        ("--data", "--data"),
        ("--out a b", "--out a b"),  # not an option that may be repeated
        ("--data a -- b --data c d", "--data a -- b --data c d"),  # what follows -- is verbatim
    ],
)
def test_values_are_spread_over_repetitions_of_their_option(words, spread):
    assert repeat_options(words.split(), {"--data"}) == spread.split()


@pytest.mark.parametrize(
    ("kind", "exit_code", "line"),
    [
        ("usage", 2, "convoy: my.toml: no such file\n"),  # one line, whatever the message
        ("settings", 2, "convoy: [round] quorum: too large\n"),
        ("job", 1, "convoy: the gate refused\n"),
        ("disk", 1, "convoy: runs/x: No space left on device\n"),
        ("stop", 130, "\nconvoy: stopped; --resume goes on\n"),  # a line after the terminal's ^C
        ("stop_bare", 130, "\nconvoy: stopped\n"),
    ],
)
def test_a_failing_verb_ends_with_one_line_and_a_code(verbs, capsys, kind, exit_code, line):
    assert run(["fail", kind], verbs) == exit_code
    assert capsys.readouterr().err == line


def test_a_fault_of_ours_names_itself_and_the_way_to_see_more(verbs, capsys):
    assert run(["fail", "fault"], verbs) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "KeyError: 'weird'" in line
    assert "--debug" in line


@pytest.mark.parametrize("where", [["--debug", "fail", "usage"], ["fail", "usage", "--debug"]])
def test_tracebacks_come_only_with_debug(verbs, capsys, where):
    assert run(where, verbs) == 2
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_a_verb_may_return_its_exit_code(verbs):
    assert run(["refuse"], verbs) == 1


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["grete"], "greet"),  # a near miss is answered with the verb
        (["greet", "--tmes", "2"], "--times"),
        (["greet", "--times", "often"], "often"),
        (["data"], "Usage: convoy data"),
        ([], "Usage: convoy"),
    ],
)
def test_wrong_usage_ends_with_two_and_a_hint(verbs, capsys, arguments, hint):
    assert run(arguments, verbs) == 2
    assert hint in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["heavy", "gone"])
def test_a_verb_whose_library_is_left_out_says_what_to_install(verbs, capsys, verb):
    assert run([verb], verbs) == 2
    error = capsys.readouterr().err
    assert f"`convoy {verb}` needs no_such_" in error
    assert "pip install 'convoy-fl[simulation]'" in error


def test_an_operating_system_error_without_a_file_is_told_as_it_is():
    assert ending(OSError(28, "No space left on device")) == ("No space left on device", 1)


@pytest.mark.parametrize(
    ("docstring", "description", "example"),
    [
        ("", "", None),
        ("Do it.", "Do it.", None),
        ("Do it.\n\nArgs:\n    x: what\n", "Do it.", None),
        ("Do it.\n\nExamples:\n    convoy do\n", "Do it.", "\b\nExamples:\n  convoy do"),
        ("Do it.\n\nExample: convoy do", "Do it.", "\b\nExample:\n  convoy do"),
    ],
)
def test_a_docstring_becomes_description_and_example(docstring, description, example):
    text = help_text(docstring)
    assert (text.description, text.example) == (description, example)


def test_the_installed_command_lists_its_verbs_quickly_and_without_heavy_imports():
    code = (
        "import sys; from convoy_cli.main import run, installed_verbs; "
        "code = run(['--help'], installed_verbs()); "
        "heavy = {'torch', 'flwr', 'numpy', 'matplotlib'} & set(sys.modules); "
        "sys.exit(code or (f'imported {heavy}' if heavy else 0))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert {verb.name.split()[0] for verb in installed_verbs()} <= set(done.stdout.split())


def test_flower_may_not_phone_home_whatever_the_verb(monkeypatch, capsys):
    """Flower reads these when it is imported, which no verb does before."""
    monkeypatch.setattr(os, "environ", {"FLWR_TELEMETRY_ENABLED": "1"})
    monkeypatch.setattr(sys, "argv", ["convoy", "--version"])
    with pytest.raises(SystemExit):
        main()
    assert os.environ == {
        "FLWR_TELEMETRY_ENABLED": "1",  # its owner's wish
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    }
    capsys.readouterr()


def test_the_version_is_that_of_the_distribution(capsys):
    assert run(["--version"], []) == 0
    assert capsys.readouterr().out.startswith("convoy, version ")


def test_every_installed_verb_has_an_example_in_its_help(capsys):
    for verb in installed_verbs():
        assert run([*verb.name.split(), "--help"], [verb]) == 0, verb.name
        assert f"convoy {verb.name}" in capsys.readouterr().out.split("Example")[-1], verb.name


def test_the_script_is_installed():
    assert Path(sys.executable).with_name("convoy").exists()
