"""The `convoy` command: parse, run one verb, end with one line and an exit code.

exit code   meaning
        0   done
        1   the job failed, or a gate refused its result
        2   wrong usage or bad input
      130   interrupted with Ctrl-C
"""

import logging
import os
import sys
import traceback
from collections.abc import Iterable, Sequence
from importlib.metadata import EntryPoint, version

import click

from convoy_cli.verbs import command_tree, debug_option, installed_verbs
from convoy_protos.errors import ConvoyError, UsageError

DONE = 0
FAILED = 1
WRONG_USAGE = 2
INTERRUPTED = 130


def main() -> None:
    """Run the command line of this process; never returns."""
    forbid_phoning_home()
    sys.exit(run(sys.argv[1:], installed_verbs()))


def run(arguments: Sequence[str], verbs: Iterable[EntryPoint]) -> int:
    """Run one verb and say on standard error, in one line, why it did not end well.

    Args:
        arguments: The command line without the program's name.
        verbs: Entry points of the group `convoy.commands`.

    Returns:
        The exit code.
    """
    debug = "--debug" in arguments
    log_to_standard_error(debug=debug)
    try:
        outcome = _program(verbs).main(list(arguments), prog_name="convoy", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort as error:
        # click wraps KeyboardInterrupt; a verb may have put into it how to go on.
        say(str(error.__cause__ or "") or "stopped")
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last stop: a user sees one line, never a traceback
        if debug:
            traceback.print_exception(error)
        message, exit_code = ending(error)
        say(message)
        return exit_code
    return outcome if isinstance(outcome, int) else DONE


def ending(error: Exception) -> tuple[str, int]:
    """The line and the exit code for an error that reached the top."""
    if isinstance(error, UsageError):
        return one_line(error), WRONG_USAGE
    if isinstance(error, ConvoyError):
        return one_line(error), FAILED
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}", FAILED
    return (
        f"a fault in convoy itself: {type(error).__name__}: {one_line(error)} "
        "(the same command with --debug shows where)"
    ), FAILED


def one_line(error: Exception) -> str:
    """The error's message without line breaks."""
    return " ".join(str(error).split())


def say(message: str) -> None:
    """One line on standard error."""
    click.echo(f"convoy: {message}", err=True)


def log_to_standard_error(*, debug: bool) -> None:
    """Warnings always; everything that our own packages log, with --debug."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.addFilter(
        lambda record: record.levelno >= logging.WARNING or record.name.startswith("convoy_")
    )
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, handlers=[handler])


def forbid_phoning_home() -> None:
    """Flower may neither report usage nor look for updates nor install anything while it runs."""
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
    os.environ.setdefault("FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION", "1")


def _program(verbs: Iterable[EntryPoint]) -> click.Group:
    root = click.Group(
        "convoy",
        help="Train driving models on a fleet of vehicles without moving their recordings.",
        epilog="`convoy VERB --help` shows an example of each.",
        no_args_is_help=True,
        params=[debug_option()],
    )
    click.version_option(version("convoy-fl"), prog_name="convoy")(root)
    return command_tree(verbs, root)
