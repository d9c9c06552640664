"""Actions on many jobs: on each that is named, or on all that a search finds. Those are counted
first, and then acted on batch by batch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from typing import Any, TypeVar

import click

from taskyard.cli import show
from taskyard.client import Client
from taskyard.errors import TaskyardError

#: Refusals that concern one job alone: others are still tried.
_OF_ONE_JOB = (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT)

F = TypeVar("F", bound=Callable[..., Any])


def search_options(command: F) -> F:
    """Add ``-q``, ``--dry-run`` and ``--yes``."""
    options = (
        click.option("-q", "--search", "q", help="All jobs that these terms find, instead of ids."),
        click.option("--dry-run", is_flag=True, help="Only say how many that are."),
        click.option("-y", "--yes", is_flag=True, help="Do not ask."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def act_on_each(
    job_ids: Iterable[str], act: Callable[[str], Any]
) -> tuple[list[Any], TaskyardError | None]:
    """Act on each job; returns the answers and the first failure. A failure that concerns one job
    alone does not keep the others from being acted on and reported.
    """
    answers: list[Any] = []
    first: TaskyardError | None = None
    for job_id in job_ids:
        try:
            answers.append(act(job_id))
        except TaskyardError as error:
            if first is not None:
                show.progress(str(error), "red")
            first = first or error
            if getattr(error, "status", None) not in _OF_ONE_JOB:
                break
    return answers, first


def act_on_matching(
    action: str, *, q: str, dry_run: bool, yes: bool, output: str, reason: str | None = None
) -> None:
    """Count the jobs that match, ask, and act on them; prints the ids of those that were."""
    with Client() as client:
        counted = client.act_on_all(action, q=q, dryRun=True)
        if dry_run:
            _tell(output, counted, [counted["message"]])
            return
        _confirm(action, counted, yes=yes)
        done: list[str] = []
        skipped = 0
        task = {"q": q, "asOf": counted["asOf"], "reason": reason}
        try:
            for batch in _batches(client, action, task):
                done += batch["jobIds"]
                skipped += batch["skipped"]
                if batch["next"]:
                    show.progress(f"{len(done)} jobs so far")
        finally:
            # Also after an error or an interruption: that much is done.
            if skipped:
                show.progress(f"{skipped} jobs had ended or gone before their turn came")
            _tell(output, {"jobIds": done, "skipped": skipped}, done)


def _batches(client: Client, action: str, task: dict[str, Any]) -> Iterator[dict[str, Any]]:
    batch = client.act_on_all(action, **task)
    yield batch
    while batch["next"]:
        batch = client.act_on_all(action, **task, after=batch["next"])
        yield batch


def _confirm(action: str, counted: dict[str, Any], *, yes: bool) -> None:
    if yes or (not counted["matched"] and not counted["more"]):
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{counted['message']}; with --yes it is done without asking.")
    if not click.confirm(f"{counted['message']}. {action.capitalize()} them?", err=True):
        raise click.ClickException("Nothing was done.")


def _tell(output: str, data: Any, lines: list[str]) -> None:
    if output == "json":
        show.as_json(data)
    else:
        for line in lines:
            print(line)
