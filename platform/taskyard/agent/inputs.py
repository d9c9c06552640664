"""Brings the input archive of a job into its workspace."""

from __future__ import annotations

import tempfile
from typing import Any, BinaryIO, cast

from taskyard import archive
from taskyard.agent.fetch import Fetch
from taskyard.agent.workspace import Workspace
from taskyard.archive import ArchiveLimits
from taskyard.context import Platform
from taskyard.jobs.model import Job
from taskyard.settings import Settings
from taskyard.store.files import FileStore


def bring(job: Job, workspace: Workspace, platform: Platform, fetch: Fetch) -> None:
    """Fetch and unpack the job's file, for as long as it is wanted.

    Raises BadArchive, NotFound, Unreachable, Unwanted.
    """
    fetch.check()
    with tempfile.TemporaryFile(dir=workspace.base) as kept:
        source = cast(BinaryIO, kept)
        if job.file_id:
            _copy(job.file_id, source, platform.store.files, fetch)
        elif job.file_url:
            # Not at the top: it takes longer to load than many a job takes to run.
            from taskyard.agent.download import download

            download(job.file_url, source, fetch, cap_bytes=platform.settings.upload_cap_bytes)
        source.seek(0)
        _unpack(source, workspace, platform.settings, fetch)


def _copy(file_id: str, target: BinaryIO, files: FileStore, fetch: Fetch) -> None:
    stored = files.get(file_id)
    for piece in files.pieces(file_id, 0, stored.size_bytes):
        fetch.check()
        target.write(piece)


def _unpack(source: BinaryIO, workspace: Workspace, settings: Settings, fetch: Fetch) -> None:
    wanted = cast(BinaryIO, _Wanted(source, fetch))
    archive.extract(wanted, workspace.folder, ArchiveLimits.of(settings))


class _Wanted:
    """A file whose ``read`` raises Unwanted once its fetch was stopped."""

    def __init__(self, source: BinaryIO, fetch: Fetch) -> None:
        self._source = source
        self._fetch = fetch

    def read(self, size: int = -1) -> bytes:
        self._fetch.check()
        return self._source.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)
