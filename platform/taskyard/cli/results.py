"""``fetch``: download the archive of what a job left in its workspace."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import click

from taskyard.cli import show, streams
from taskyard.cli.following import NOT_KEPT
from taskyard.cli.values import Target
from taskyard.client import Client
from taskyard.errors import TaskyardError


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
        return  # stdout is for the archive alone
    if output == "json":
        show.as_json({"jobId": job_id, "path": str(path), "truncated": job["resultTruncated"]})
    else:
        print(path)


def save(client: Client, job: dict[str, Any], target: Path) -> int:
    """Fetch what a run left; returns an exit code. A failure is shown and not raised, since the
    job has an exit code of its own.
    """
    if not job["resultFileUrl"] and not job["resultTruncated"]:
        return 0
    try:
        _fetch(client, job, target)
    except (click.ClickException, TaskyardError) as error:
        show.progress(f"what it left is not saved: {error}", "red")
        return error.exit_code
    return 0


def _fetch(client: Client, job: dict[str, Any], target: Path | None) -> Path:
    """Save what a job left, as ``<jobId>-result.zip`` if no target is given; returns where."""
    if not job["resultFileUrl"]:
        raise click.ClickException(f"{NOT_KEPT}.")
    # The archive's own name is not used: an agent may give it that of a file of our user.
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
    """Open a file that takes its name once it is complete; until then an older one stays.

    What is no file of its own, such as /dev/stdout, or is in a folder that takes no new files, is
    written to directly.
    """
    # A symbolic link stays one.
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
