"""Commands that submit a job: ``run``, which follows it to its end, and ``submit``."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable
from datetime import timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import click

from taskyard.cli import results, show
from taskyard.cli.following import Patient, cancelling, exit_code_of, follow_to_end
from taskyard.cli.inputs import collect, join_command
from taskyard.cli.values import Cpus, Duration, Memory, Target, Variable
from taskyard.client import Client

F = TypeVar("F", bound=Callable[..., Any])


def _wanted(command: F) -> F:
    """Add the options of what a job may ask for, the same for ``run`` and ``submit``."""
    five_minutes = round(timedelta(minutes=5).total_seconds() * 1000)
    options = (
        click.option(
            *("-f", "--file"),
            type=click.Path(exists=True, path_type=Path),
            help="A ZIP, or a folder to pack into one, that the command runs in.",
        ),
        click.option("--cpu", type=Cpus(), default=1.0, show_default=True, help="CPUs to reserve."),
        click.option(
            "--ram", type=Memory(), default=256, show_default="256MB", help="Memory to reserve."
        ),
        click.option("--timeout", type=Duration(), default=five_minutes, show_default="5m"),
        click.option("--retries", type=int, default=3, show_default=True),
        click.option("--retry-on-exit", is_flag=True, help="Try again after a non-zero exit too."),
        click.option("--priority", type=int, default=5, show_default=True, help="0 to 9."),
        click.option("-l", "--label", multiple=True, help="A label the worker must have."),
        click.option("-e", "--env", type=Variable(), multiple=True, help="For the job alone."),
        click.argument("command", nargs=-1, required=True),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command("run")
@_wanted
@click.option("--result", type=Target(), help="Save what it left here.")
@show.output_option
def run_command(result: Path | None, output: str, **options: Any) -> None:
    """Run COMMAND on an agent, show what it prints, and end with its exit code.

    One argument is lines, each run in a shell of its own; several are a command with arguments.
    Ctrl-C cancels the job. It goes on when nobody reads what it prints any more.
    """
    with Client() as client:
        create = _creation(client, options)
        write = Patient()
        with cancelling(client, create):
            # With JSON, stdout is for the one document at the end.
            job = follow_to_end(client, create(), to_stderr=output == "json", write=write)
        unsaved = results.save(client, job, result) if result else 0
        if output == "json":
            write(sys.stdout, f"{show.json_text(job)}\n")
        raise click.exceptions.Exit(exit_code_of(job) or unsaved or int(write.lost))


@click.command("submit")
@_wanted
@show.output_option
def submit_command(output: str, **options: Any) -> None:
    """Queue COMMAND and print the job's id."""
    with Client() as client:
        job_id = _creation(client, options)()
    if output == "json":
        show.as_json({"jobId": job_id})
    else:
        print(job_id)


def _creation(client: Client, options: dict[str, Any]) -> Callable[[], str]:
    """Return a function that creates the one job and returns its id. It may be called again, also
    after an interruption.
    """
    wanted: dict[str, Any] = {}
    with collect(options["file"]) as archive:
        if archive:
            wanted["fileId"] = client.upload(archive)["fileId"]
    submit = partial(
        client.submit,
        join_command(options["command"]),
        key=secrets.token_hex(16),
        requiredCpu=options["cpu"],
        requiredRamMb=options["ram"],
        timeoutMs=options["timeout"],
        maxRetries=options["retries"],
        retryOnExit=options["retry_on_exit"],
        priority=options["priority"],
        labels=list(options["label"]),
        env=dict(options["env"]),
        **wanted,
    )
    # The API forgets the key after a day, so an id that is known is not asked for again.
    return cache(submit)
