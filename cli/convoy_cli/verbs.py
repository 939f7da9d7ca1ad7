"""Find every party's verbs without importing them.

A verb is an entry point of the group `convoy.commands`: its name is what the user types ("simulate",
or "data check" for a sub-command), its value a function with typer's annotations. `convoy --help`
reads the summary lines out of the source files, so that neither torch nor Flower is imported before
a verb is really called, and no text stands twice.
"""

import ast
import dataclasses
import importlib.util
import inspect
import re
import textwrap
from collections.abc import Callable, Collection, Iterable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import click
import typer
import typer.core
import typer.main

from convoy_protos.errors import UsageError

GROUP = "convoy.commands"

_SECTION = re.compile(r"^(Args|Raises|Returns|Example|Examples):", re.MULTILINE)


def installed_verbs() -> list[EntryPoint]:
    """What this installation offers, by name."""
    return sorted(entry_points(group=GROUP), key=lambda verb: verb.name)


def command_tree(verbs: Iterable[EntryPoint], root: click.Group) -> click.Group:
    """Hang each verb into `root`; the words of its name before the last become groups."""
    for verb in verbs:
        *above, name = verb.name.split()
        group = root
        for word in above:
            group = _group_in(group, word)
        inner = group.commands.get(name)
        if isinstance(inner, VerbGroup):
            inner.verb = verb
        else:
            group.add_command(VerbOnDemand(name, verb))
        if above:  # a group is described by its verbs: that cannot drift
            group.help = f"{', '.join(group.commands).capitalize()}."
    return root


def _group_in(group: click.Group, word: str) -> click.Group:
    """The group of this name, which may be a verb as well."""
    inner = group.commands.get(word)
    if not isinstance(inner, VerbGroup):
        inner = VerbGroup(word, inner.verb if isinstance(inner, VerbOnDemand) else None)
        group.add_command(inner)
    return inner


class VerbOnDemand(click.Command):
    """Stands in the listing of `--help`; becomes the real command when it is called."""

    def __init__(self, name: str, verb: EntryPoint) -> None:
        super().__init__(name)
        self.verb = verb

    def get_short_help_str(self, limit: int = 45) -> str:
        """The first line of the function's docstring, taken from its source."""
        self.short_help = summary_in_source(self.verb)
        return super().get_short_help_str(limit)

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """Import the verb and let it read its own arguments."""
        return load(self.verb).make_context(info_name, args, parent, **extra)


class VerbGroup(click.Group):
    """The first word of several verbs, which may be a verb itself: `agent` beside `agent join`."""

    def __init__(self, name: str, verb: EntryPoint | None) -> None:
        super().__init__(name, no_args_is_help=True)
        self.verb = verb

    def get_short_help_str(self, limit: int = 45) -> str:
        """The line of the verb, if it is one."""
        self.short_help = summary_in_source(self.verb) if self.verb else None
        return super().get_short_help_str(limit)

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """The first word decides: one of the group's verbs, else the verb itself."""
        if self.verb is None or (args and args[0] in self.commands):
            return super().make_context(info_name, args, parent, **extra)
        command = load(self.verb)
        names = ", ".join(f"`convoy {self.verb.name} {each}`" for each in self.commands)
        command.epilog = f"{command.epilog or ''}\n\nSee also {names}.".strip()
        return command.make_context(info_name, args, parent, **extra)


def load(verb: EntryPoint) -> click.Command:
    """Import the verb's function and make a command of it.

    Raises:
        UsageError: A library that the verb needs is left out of this installation.
    """
    try:
        function = verb.load()
    except ModuleNotFoundError as error:
        raise UsageError(
            f"`convoy {verb.name}` needs {error.name}, which this installation leaves out: "
            "pip install 'convoy-fl[simulation]' brings everything"
        ) from error
    return command_from(function)


def command_from(function: Callable[..., Any]) -> click.Command:
    """A command of a function with typer's annotations and a Google-style docstring."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    text = help_text(inspect.getdoc(function) or "")
    app.command(cls=_VerbCommand, help=text.description, epilog=text.example)(function)
    command = typer.main.get_command(app)
    for option in _repeated_options(command):
        option.metavar = f"{option.metavar or option.type.name.upper()}..."
    command.params.append(debug_option())
    return command


class _VerbCommand(typer.core.TyperCommand):
    """What typer makes of a function, with two things that typer lacks."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Let an option that may be repeated take several values at once, as a shell's * gives."""
        repeated = {name for option in _repeated_options(self) for name in option.opts}
        return super().parse_args(ctx, repeat_options(args, repeated))

    def get_help(self, ctx: click.Context) -> str:
        # typer 0.20 escapes brackets for rich even where the help is plain text.
        return super().get_help(ctx).replace("\\[", "[")


def repeat_options(args: list[str], repeated: Collection[str]) -> list[str]:
    """`--data a b --out x` becomes `--data a --data b --out x`."""
    spread: list[str] = []
    option, values = "", 0
    for place, word in enumerate(args):
        if word == "--":
            return spread + args[place:]
        if word.startswith("-"):
            option, values = (word, 0) if word in repeated else ("", 0)
        elif option:
            values += 1
            if values > 1:
                spread.append(option)
        spread.append(word)
    return spread


def _repeated_options(command: click.Command) -> list[click.Option]:
    return [param for param in command.params if isinstance(param, click.Option) and param.multiple]


def debug_option() -> click.Option:
    """Every verb takes `--debug`; `convoy_cli.main` acts on it, the verb never sees it."""
    return click.Option(
        ["--debug"], is_flag=True, expose_value=False, help="Log more; show tracebacks of errors."
    )


@dataclasses.dataclass(frozen=True)
class HelpText:
    """What `--help` prints above and below the options."""

    description: str
    example: str | None


def help_text(docstring: str) -> HelpText:
    """Keep a docstring's description and its example; the other sections are for programmers."""
    description, *sections = _SECTION.split(docstring)
    for title, body in zip(sections[::2], sections[1::2], strict=True):
        if title.startswith("Example"):
            lines = textwrap.indent(textwrap.dedent(body.strip(" ").strip("\n")).rstrip(), "  ")
            # \b keeps click from re-wrapping the lines.
            return HelpText(description.strip(), f"\b\n{title}:\n{lines}")
    return HelpText(description.strip(), None)


def summary_in_source(verb: EntryPoint) -> str:
    """First line of the docstring of the verb's function; imports its package, never its module."""
    spec = importlib.util.find_spec(verb.module)
    if spec is None or spec.origin is None:
        return "(not in this installation)"
    tree = ast.parse(Path(spec.origin).read_bytes())
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == verb.attr:
            return (ast.get_docstring(node) or "").partition("\n")[0]
    return ""
