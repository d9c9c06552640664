"""The command line. Data goes to stdout, everything else to stderr.

Exit codes: 0 done; 1 something else went wrong; 2 usage, settings or a request that makes no
sense; 3 the embedded server; 4 nobody answers; 5 not allowed; 6 no such thing; 7 the state does
not allow it. ``run`` ends with the job's own code, 124 when the job timed out, 125 when it did
not run to an end, and 130 after Ctrl-C. A command whose output nobody reads any more ends with 0,
but ``run`` follows its job to the end.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click

from taskyard import __version__
from taskyard.cli import show, streams
from taskyard.errors import TaskyardError

USAGE = 2
INTERRUPTED = 130

#: Each command with the module it is in and its help, so that ``--help`` loads none of them.
COMMANDS: Mapping[str, tuple[str, str]] = {
    "up": ("up", "Start everything on this machine."),
    "run": ("run", "Run a command on an agent and end with its exit code."),
    "submit": ("run", "Queue a command and print the job's id."),
    "status": ("jobs", "Show a job."),
    "list": ("jobs", "List jobs, newest first."),
    "logs": ("jobs", "Print what a job printed."),
    "fetch": ("results", "Fetch the archive of what a job left."),
    "cancel": ("jobs", "Cancel jobs."),
    "retry": ("jobs", "Submit ended jobs anew."),
    "workers": ("workers", "List workers; drain, resume or delete one."),
    "tokens": ("tokens", "Make, list and revoke API tokens."),
    "doctor": ("doctor", "Say what works and what does not."),
}


class LazyGroup(click.Group):
    """Loads a command's module when the command is run."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Parse the command line; this also prints ``--help``."""
        with _while_read():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with _while_read():
            return super().invoke(ctx)

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """Return all names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load the command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"taskyard.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of commands, without loading any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="taskyard")
def taskyard() -> None:
    """Taskyard: run jobs on agents, recorded in MongoDB.

    TASKYARD_URL and TASKYARD_TOKEN say which API to use; without them it is the one that
    `taskyard up` has left in your configuration folder.
    """


def main() -> None:
    """Run the command line; every expected error is one line and an exit code."""
    streams.prepare()
    sys.exit(streams.flushed(_run()))


def _run() -> int:
    try:
        return taskyard.main(standalone_mode=False) or 0
    except click.ClickException as error:
        with streams.lossy(sys.stderr):
            error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except TaskyardError as error:
        return _told(str(error), error.exit_code)
    except UnicodeEncodeError:
        if not (words := _not_text(sys.argv[1:])):
            raise
        return _told(f"{', '.join(words)} cannot be sent: that is no text in UTF-8.", USAGE)
    except OSError as error:
        with streams.lossy(sys.stdout):
            return _told(str(error), 1)


def _told(message: str, code: int) -> int:
    with streams.lossy(sys.stderr):
        print(f"taskyard: {show.plain_lines(message)}", file=sys.stderr)
    return code


def _not_text(words: Sequence[str]) -> list[str]:
    """Return the words with bytes that the system could not decode, fit to print."""
    return [ascii(word) for word in words if any("\ud800" <= c <= "\udfff" for c in word)]


@contextmanager
def _while_read() -> Iterator[None]:
    """End with 0 if our reader has gone: it has seen enough. Click would end with 1, silently."""
    try:
        yield
    except BrokenPipeError:
        streams.silence(sys.stdout)
        streams.silence(sys.stderr)
        raise click.exceptions.Exit(0) from None
