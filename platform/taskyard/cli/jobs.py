"""Commands on jobs."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import click

from taskyard.cli import show, streams
from taskyard.cli.bulk import act_on_each, act_on_matching, search_options
from taskyard.cli.following import (
    NOT_KEPT,
    Patient,
    cancelling,
    exit_code_of,
    follow_to_end,
)
from taskyard.cli.inputs import collect, join_command
from taskyard.cli.values import (
    Cpus,
    Duration,
    Memory,
    Target,
    Variable,
    ago,
    roughly_ago,
    took,
    took_since,
)
from taskyard.client import Client
from taskyard.errors import TaskyardError

F = TypeVar("F", bound=Callable[..., Any])


def _wanted(command: F) -> F:
    """What a job may ask for, the same for ``run`` and ``submit``."""
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

    One argument is a script of shell lines; several are one command with its arguments.
    Ctrl-C cancels the job. It goes on when nobody reads what it prints any more.
    """
    with Client() as client:
        create = _creation(client, options)
        write = Patient()
        with cancelling(client, create):
            # With JSON, stdout is for the one document at the end.
            job = follow_to_end(client, create(), to_stderr=output == "json", write=write)
        unsaved = _save(client, job, result) if result else 0
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


@click.command("status")
@click.argument("job_id")
@click.option("--wait", is_flag=True, help="Until it has ended.")
@show.output_option
def status_command(job_id: str, wait: bool, output: str) -> None:
    """Show a job: where it stands, why it waits, and its timeline."""
    with Client() as client:
        job = client.wait(job_id) if wait else client.status(job_id)
    if output == "json":
        show.as_json(job)
        return
    ended, began = job["completedAt"], job["startedAt"]
    show.pairs(
        [
            ("job", job["jobId"]),
            ("status", job["status"]),
            ("waiting", job["waitingReason"]),
            ("worker", job["assignedAgentId"]),
            ("exit code", job["exitCode"]),
            ("message", job["errorMessage"]),
            ("command", job["command"]),
            ("file", job["filename"]),
            ("attempts", job["attempts"] or None),
            ("refused writes", job["refusedWrites"] or None),
            ("created", ago(job["createdAt"])),
            ("took", took(ended - began) if ended and began else None),
            ("result", job["resultFilename"] or (NOT_KEPT if job["resultTruncated"] else None)),
            ("retry of", job["retryOf"]),
        ]
    )
    for entry in job["history"]:
        reason = f"  {entry['reason']}" if entry["reason"] else ""
        worker = f"  on {entry['worker']}" if entry["worker"] else ""
        line = f"  {ago(entry['at']):>16}  {entry['verb']:<9} {entry['to']}{worker}{reason}"
        print(show.plain(line))


@click.command("list")
@click.option("-s", "--status", multiple=True, help="QUEUED, RUNNING, FAILED, …; may be repeated.")
@click.option("-w", "--worker")
@click.option("-l", "--label")
@click.option("-t", "--text", help="Part of the command, the id or the file's name.")
@click.option("-q", "--search", "q", help="Terms, as in 'status:failed -label:gpu created>-1h'.")
@click.option("-n", "--limit", type=click.IntRange(1, 200), default=20, show_default=True)
@click.option("--after", help="The `next` of the page before.")
@show.output_option
def list_command(output: str, status: tuple[str, ...], **filters: Any) -> None:
    """List jobs, newest first."""
    with Client() as client:
        page = client.list_jobs(status=[name.upper() for name in status], **filters)
    if output == "json":
        show.as_json(page)
        return
    rows = [
        (
            job["jobId"],
            job["status"],
            roughly_ago(job["createdAt"]),
            job["assignedAgentId"],
            job["command"],
            job["waitingReason"] or job["errorMessage"],
        )
        for job in page["jobs"]
    ]
    columns = ["JOB", "STATUS", "CREATED", "WORKER", "COMMAND", "WHY"]
    show.table(columns, rows, bends=columns[3:])
    if page["lookedBackTo"]:
        show.progress(f"looked at the jobs of the last {took_since(page['lookedBackTo'])}")
    if page["next"]:
        show.progress(f"more with --after {page['next']}")


@click.command("logs")
@click.argument("job_id")
@click.option("-f", "--follow", is_flag=True, help="Until the job has ended.")
@click.option("--stream", type=click.Choice(["stdout", "stderr"]), help="One of the two alone.")
@show.output_option
def logs_command(job_id: str, follow: bool, stream: str | None, output: str) -> None:
    """Print what a job printed: its stdout on stdout, its stderr on stderr."""
    names = [stream] if stream else ["stdout", "stderr"]
    with Client() as client:
        if output == "json":
            job = client.wait(job_id) if follow else client.status(job_id)
            # The job itself carries no more than the first MiB of each.
            printed = {name: "".join(client.output(job_id, stream=name)) for name in names}
            show.as_json({"jobId": job["jobId"], "status": job["status"], **printed})
        elif follow and not stream:
            follow_to_end(client, job_id)
        else:
            if follow:
                client.wait(job_id)
            for name in names:
                target = sys.stderr if name == "stderr" and not stream else sys.stdout
                for piece in client.output(job_id, stream=name):
                    target.write(piece)


@click.command("fetch")
@click.argument("job_id")
@click.argument("target", type=Target(), required=False)
@show.output_option
def fetch_command(job_id: str, target: Path | None, output: str) -> None:
    """Fetch the archive of what a job left in its workspace."""
    with Client() as client:
        job = client.status(job_id)
        if not job["resultFileUrl"] and not job["resultTruncated"]:
            raise click.ClickException(f"{job_id} has left no archive.")
        path = _fetch(client, job, target)
    if streams.is_stdout(path):
        return  # the archive is all that belongs there
    if output == "json":
        show.as_json({"jobId": job_id, "path": str(path), "truncated": job["resultTruncated"]})
    else:
        print(path)


@click.command("cancel")
@click.argument("job_ids", nargs=-1)
@click.option("--reason")
@search_options
@show.output_option
def cancel_command(
    job_ids: tuple[str, ...], reason: str | None, output: str, **search: Any
) -> None:
    """Cancel jobs: at once while queued, else their agent stops them."""
    if _by_search(job_ids, search):
        act_on_matching("cancel", reason=reason, output=output, **search)
        return
    with Client() as client:
        answers, failure = act_on_each(job_ids, partial(client.cancel, reason=reason))
    if output == "json":
        show.as_json(answers)
    else:
        for answer in answers:
            print(f"{answer['jobId']}\t{show.plain(answer['message'])}")
    if failure:
        raise failure


@click.command("retry")
@click.argument("job_ids", nargs=-1)
@search_options
@show.output_option
def retry_command(job_ids: tuple[str, ...], output: str, **search: Any) -> None:
    """Submit ended jobs anew, with the same inputs; prints the new ids."""
    if _by_search(job_ids, search):
        act_on_matching("retry", output=output, **search)
        return
    with Client() as client:
        made, failure = act_on_each(
            job_ids, lambda job_id: {"jobId": client.retry(job_id), "retryOf": job_id}
        )
    if output == "json":
        show.as_json(made)
    else:
        for entry in made:
            print(entry["jobId"])
    if failure:
        raise failure


def _by_search(job_ids: tuple[str, ...], search: dict[str, Any]) -> bool:
    """Whether a search says which jobs; else ids have to."""
    if bool(job_ids) == bool(search["q"]):
        raise click.UsageError("Say either JOB_IDS or --search.")
    if job_ids and (search["dry_run"] or search["yes"]):
        raise click.UsageError("--dry-run and --yes go with --search.")
    return not job_ids


def _creation(client: Client, options: dict[str, Any]) -> Callable[[], str]:
    """Creates the one job and gives its id; when that was interrupted, it may be called again."""
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
    # Its key is forgotten after a day: an id that is known is not asked for again.
    return cache(submit)


def _save(client: Client, job: dict[str, Any], target: Path) -> int:
    """Fetch what a run left; a failure is said and is a code, for the job has one of its own."""
    if not job["resultFileUrl"] and not job["resultTruncated"]:
        return 0
    try:
        _fetch(client, job, target)
    except (click.ClickException, TaskyardError) as error:
        show.progress(f"what it left is not saved: {error}", "red")
        return error.exit_code
    return 0


def _fetch(client: Client, job: dict[str, Any], target: Path | None) -> Path:
    """Save what a job left, as ``<jobId>-result.zip`` where no other is given; returns where."""
    if not job["resultFileUrl"]:
        raise click.ClickException(f"{NOT_KEPT}.")
    # An agent may give its archive any name, one of our user's own files too.
    target = target or Path(f"{job['jobId']}-result.zip")
    try:
        with _whole(target) as file:
            client.download(job["resultFileUrl"], file)
    except OSError as error:
        raise click.ClickException(f"{target}: {error.strerror}") from None
    cut = " (cut: more was left than could be kept)" if job["resultTruncated"] else ""
    show.progress(f"saved {target}{cut}")
    return target


@contextmanager
def _whole(target: Path) -> Iterator[BinaryIO]:
    """A file that takes its name once all is in it; until then, what has that name stays.

    What is no file of its own, as /dev/stdout, is written to as it is.
    """
    # A link stays one.
    place = Path(os.path.realpath(target))
    is_own = target.is_file() and not streams.is_stdout(target)
    if target.exists() and not (is_own and os.access(place.parent, os.W_OK)):
        with target.open("wb") as file:
            yield file
        return
    draft = place.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with draft.open("xb") as file:
            yield file
        if is_own:
            shutil.copymode(place, draft)
        draft.replace(place)
    finally:
        draft.unlink(missing_ok=True)
