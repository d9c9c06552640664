"""Result archives: the files that jobs left in their workspaces, packed and stored."""

from __future__ import annotations

from typing import Any, BinaryIO

from taskyard import events, packing
from taskyard.agent.attempt import Attempt
from taskyard.agent.reporting import Reporter
from taskyard.agent.workspace import WorkspaceRoot
from taskyard.context import Platform
from taskyard.store.failures import is_unavailable
from taskyard.store.files import StoredFile

#: Fields of a result that has no archive although the job left files.
_NOT_KEPT = {"resultTruncated": True}


class Archives:
    """Packs and stores the files that attempts left."""

    def __init__(self, platform: Platform, reporter: Reporter, workspaces: WorkspaceRoot) -> None:
        self._files = platform.store.files
        self._settings = platform.settings
        self._reporter = reporter
        self._workspaces = workspaces

    def keep(self, attempt: Attempt) -> dict[str, Any]:
        """Pack and store the result archive; return its fields, none if the job left nothing.

        The archive does not change how the job ended: if it cannot be made (a full disk) or stored,
        it is missing, and the result is marked as truncated. Raises StoreUnavailable.
        """
        if attempt.workspace.is_empty():
            return {}
        try:
            return self._archived(attempt)
        except Exception as error:
            if is_unavailable(error):
                raise
            events.error("agent.pack_failed", error, job=attempt.job.job_id)
            return _NOT_KEPT

    def _archived(self, attempt: Attempt) -> dict[str, Any]:
        with self._workspaces.scratch() as packed:
            report = packing.pack(
                attempt.workspace.folder,
                packed,
                cap_bytes=self._settings.result_cap_bytes,
                cap_entries=self._settings.archive_cap_entries,
            )
            if not report.entries:
                return _NOT_KEPT if report.cut else {}
            name = f"{attempt.job.job_id}-result.zip"
            stored = self._reporter.insist(lambda: self._stored(packed, name))
        return {
            "resultFileId": stored.file_id,
            "resultFilename": stored.filename,
            "resultTruncated": report.cut,
        }

    def _stored(self, packed: BinaryIO, filename: str) -> StoredFile:
        packed.seek(0)
        return self._files.save(
            packed,
            filename=filename,
            cap_bytes=self._settings.result_cap_bytes * 2,
            keep=self._settings.job_retention,
        )
