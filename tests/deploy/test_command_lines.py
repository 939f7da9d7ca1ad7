"""Every `convoy ...` in the deployment files and in their manual is one that this version takes."""

import re
import shlex
from itertools import takewhile
from pathlib import Path

import click
import pytest

from convoy_cli.verbs import VerbGroup, command_tree, installed_verbs

ROOT = Path(__file__).parents[2]
FILES = sorted(
    path.relative_to(ROOT) for path in [*ROOT.glob("deploy/**/*"), ROOT / "docs/operations.md"]
    if path.is_file()
)  # fmt: skip
PUNCTUATION = set("();<>|&")


def command_lines(text):
    """What follows `convoy` up to the end of the command, words as a shell splits them.

    Comments count too: they are copied from.
    """
    text = re.sub(r"\\\n\s*#?", " ", text).replace("`", "\n")
    for rest in re.findall(r"(?<!lib/)\bconvoy (?=[a-z])(?!convoy-)(.*)", text):
        words = shlex.shlex(rest, posix=True, punctuation_chars=True)
        words.whitespace_split = True
        yield list(takewhile(lambda word: word[0] not in PUNCTUATION, words))


def started_by(dockerfile):
    """What containers of an image run: by default, and as the comments at the top show it."""
    text = re.sub(r"\\\n\s*#?", " ", dockerfile)
    entry, default = (
        re.findall(r'"([^"]*)"', re.search(rf"^{name} (.*)", text, re.MULTILINE)[1])
        for name in ("ENTRYPOINT", "CMD")
    )
    shown = re.findall(r"docker run .* convoy-(?:server|edge|jetson)\b(.*)", text)
    assert shown
    for words in [default, *map(str.split, shown)]:
        yield [*entry, *(words or default)]


def check_command(words):
    """Parse it as `convoy` would, and run nothing.

    Raises:
        KeyError: There is no such verb.
        click.UsageError: The verb has no such option, or lacks one.
    """
    command, rest = command_tree(installed_verbs(), click.Group("convoy")), list(words)
    while isinstance(command, click.Group):
        itself = isinstance(command, VerbGroup) and command.verb is not None
        if itself and (not rest or rest[0] not in command.commands):
            break
        command = command.commands[rest.pop(0)]
    if rest:  # otherwise only the verb is mentioned
        command.make_context(words[0], rest)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_commands_are_understood(path):
    for words in command_lines((ROOT / path).read_text()):
        try:
            check_command(words)
        except (KeyError, click.UsageError) as error:
            pytest.fail(f"convoy {' '.join(words)}: {error}")


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("deploy/docker/Dockerfile.*")), ids=lambda p: p.name
)
def test_an_image_starts_a_command_that_is_understood(path):
    for words in started_by(path.read_text()):
        assert words[0] == "convoy"
        check_command(words[1:])


def test_compose_makes_a_fleet_enrols_joins_and_runs():
    found = list(command_lines((ROOT / "deploy" / "compose.yaml").read_text()))
    verbs = {" ".join(words[:2]) for words in found}
    assert {"fleet init", "fleet add", "fleet enroll", "agent join", "agent --config"} <= verbs


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("test -e x || convoy agent join \"$(cat /t/a)\" --config y\n", ["agent", "join", "$(cat /t/a)", "--config", "y"]),
        ("# convoy runs list \\\n#   --config x > y", ["runs", "list", "--config", "x"]),
        ("say `convoy doctor` first", ["doctor"]),
        ("convoy agent   # a comment", ["agent"]),
    ],
)  # fmt: skip
def test_a_command_ends_where_a_shell_ends_it(text, expected):
    assert list(command_lines(text)) == [expected]


@pytest.mark.parametrize(
    "line", ["fleet enrol car-07", "agent join", "server --chek", "agent --config"]
)
def test_what_convoy_refuses_is_noticed(line):
    words = [*line.split(), "--no-such-option"] if line == "agent join" else line.split()
    with pytest.raises((KeyError, click.UsageError)):
        check_command(words)
