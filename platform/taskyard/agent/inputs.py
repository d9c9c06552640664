"""The input archive of a job, unpacked into its workspace."""

from __future__ import annotations

from typing import BinaryIO, cast

from taskyard import archive
from taskyard.agent.workspace import Workspace
from taskyard.archive import ArchiveLimits
from taskyard.context import Platform
from taskyard.errors import BadArchive
from taskyard.jobs.model import Job
from taskyard.settings import Settings

#: How long a server elsewhere may be silent while a file is fetched from it.
SILENCE_SECONDS = 30.0


def limits(settings: Settings) -> ArchiveLimits:
    """What an archive may unpack to here."""
    return ArchiveLimits(
        max_entries=settings.archive_cap_entries, max_bytes=settings.archive_cap_bytes
    )


def fetch(job: Job, workspace: Workspace, platform: Platform) -> None:
    """Unpack the job's file, if it has one. Raises BadArchive."""
    if job.file_id:
        with platform.store.files.open(job.file_id) as stored:
            source = cast(BinaryIO, stored)
            archive.extract(source, workspace.folder, limits(platform.settings))
    elif job.file_url:
        _download(job.file_url, workspace, platform.settings)


def _download(url: str, workspace: Workspace, settings: Settings) -> None:
    """Fetch a file from elsewhere, bounded in size and silence.

    The job itself can reach whatever this host can, so the address is not restricted here;
    ``docs/operations.md`` says how to restrict an agent's network.
    """
    import httpx2

    target = workspace.tmp / "input.zip"
    with target.open("w+b") as kept:
        try:
            with httpx2.stream(
                "GET", url, follow_redirects=True, timeout=SILENCE_SECONDS
            ) as response:
                response.raise_for_status()
                for piece in response.iter_bytes():
                    kept.write(piece)
                    if kept.tell() > settings.upload_cap_bytes:
                        raise BadArchive(
                            f"fileUrl is over {settings.upload_cap_bytes} bytes", field="fileUrl"
                        )
        except httpx2.HTTPError as error:
            raise OSError(f"fileUrl cannot be fetched: {type(error).__name__}") from error
        kept.seek(0)
        archive.extract(kept, workspace.folder, limits(settings))
