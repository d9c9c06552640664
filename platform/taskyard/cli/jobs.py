"""Commands on jobs that exist."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import click

from taskyard.cli import show
from taskyard.cli.bulk import act_on_each, act_on_matching, search_options
from taskyard.cli.following import NOT_KEPT, follow_to_end
from taskyard.cli.values import ago, roughly_ago, took, took_since
from taskyard.client import Client


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
            # The job itself carries no more than the first MiB of each stream.
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
    """Return whether a search names the jobs, and not ids. Raises UsageError for both or none."""
    if bool(job_ids) == bool(search["q"]):
        raise click.UsageError("Say either JOB_IDS or --search.")
    if job_ids and (search["dry_run"] or search["yes"]):
        raise click.UsageError("--dry-run and --yes go with --search.")
    return not job_ids
