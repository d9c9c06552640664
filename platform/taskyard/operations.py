"""What people and apps do: submit, cancel and retry jobs, drain workers; for API and pages."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from taskyard import ids
from taskyard.context import Platform
from taskyard.documents import made, with_values
from taskyard.errors import Conflict, InvalidRequest
from taskyard.jobs import lifecycle
from taskyard.jobs.model import INPUTS, Job
from taskyard.jobs.states import JobStatus, Verb
from taskyard.jobs.transition import Transition
from taskyard.store.files import StoredFile

DOWNLOAD_PATH = "/api/files/download/"


def submit(
    platform: Platform,
    wanted: Sequence[Mapping[str, Any]],
    *,
    by: str,
    key: str | None = None,
    body: bytes = b"",
    host: str = "",
    in_list: bool = False,
) -> Sequence[str]:
    """Record jobs durably and have them placed; returns their ids.

    The same ``key`` with the same ``body`` gives the same ids again. Raises InvalidRequest, which
    names the field (and with ``in_list`` the job); then nothing was recorded.
    """
    # Many jobs of a list may have the same file.
    find = functools.cache(platform.store.files.find)
    files = [
        _file(find, request, host, within=f"jobs.{number}." if in_list else "")
        for number, request in enumerate(wanted)
    ]
    now = platform.store.clock.now()
    # Jobs of one instant are run in the order of their ids.
    job_ids: Sequence[str] = sorted(ids.new("job", now) for _ in wanted)
    if key:
        job_ids = platform.store.idempotency.ids_for(by, key, _by_content(body, files), job_ids)
    jobs = [
        _new_job(job_id, {**request, **_input(request, file)}, now=now, by=by)
        for job_id, request, file in zip(job_ids, wanted, files, strict=True)
    ]
    platform.store.jobs.submit(platform.offers.made(jobs))
    platform.nudge("create")
    return job_ids


def cancel(platform: Platform, job_id: str, *, by: str, reason: str | None) -> Job:
    """Cancel a job, or ask its agent to; a second request leaves the first as it is.

    Raises NotFound, Conflict for a job that has ended.
    """
    if platform.store.jobs.get(job_id).cancel_requested:
        asked = platform.store.jobs.confirmed(job_id)
        if asked is not None and asked.cancel_requested and not asked.is_terminal:
            return asked

    def decide(job: Job) -> Transition:
        return lifecycle.cancel(job, by=by, reason=reason, at=platform.moment())

    return platform.store.jobs.change(job_id, decide)


def retry(
    platform: Platform,
    job_id: str,
    *,
    by: str,
    edits: Mapping[str, Any] | None = None,
    key: str | None = None,
) -> Job:
    """Submit an ended job anew, with all its inputs except ``edits``; the same ``key`` gives the
    same new job again.

    Raises NotFound, Conflict, and InvalidRequest for a key of another request.
    """
    job = ended(platform, job_id)
    new_id = ids.new("job", platform.store.clock.now())
    if key:
        # No create request has this body.
        wanted = f"retry {job_id}".encode()
        (new_id,) = platform.store.idempotency.ids_for(by, key, wanted, [new_id])
    fresh = anew(platform, job, job_id=new_id, by=by, **(edits or {}))
    platform.store.jobs.submit(platform.offers.made([fresh]))
    platform.nudge("retry")
    return fresh


def ended(platform: Platform, job_id: str) -> Job:
    """The job, which may be retried. Raises NotFound, Conflict for one that has not ended."""
    job = platform.store.jobs.get(job_id)
    if not job.is_terminal:
        raise Conflict(f"{job_id} has not ended ({job.status}); only ended jobs are retried.")
    return job


def anew(platform: Platform, job: Job, *, job_id: str, by: str, **edits: Any) -> Job:
    """A new job with the inputs of an ended one except ``edits``, not submitted yet."""
    inputs = {name: getattr(job, name) for name in INPUTS} | edits | {"retry_of": job.job_id}
    return _new_job(job_id, inputs, now=platform.store.clock.now(), by=by)


def drain(platform: Platform, worker_id: str, *, draining: bool) -> None:
    """Stop giving a worker new jobs, or resume, and then have a pass run soon.

    Raises NotFound, Gone.
    """
    platform.store.workers.drain(worker_id, draining=draining, now=platform.store.clock.now())
    if not draining:
        platform.nudge("resume")


def _file(
    find: Callable[[str], StoredFile | None],
    request: Mapping[str, Any],
    host: str,
    *,
    within: str,
) -> StoredFile | None:
    """The job's file, if it is one of ours. Raises InvalidRequest if missing or no archive."""
    file_id = request.get("file_id") or _own_file(request.get("file_url"), host)
    if file_id is None:
        return None
    field = within + ("fileId" if request.get("file_id") else "fileUrl")
    stored = find(file_id)
    if stored is None:
        raise InvalidRequest(f"There is no file {file_id!r}.", field=field)
    if not stored.is_archive:
        raise InvalidRequest(f"The file {file_id!r} is not a ZIP archive.", field=field)
    return stored


def _input(request: Mapping[str, Any], file: StoredFile | None) -> dict[str, Any]:
    """The fields of a job's file, if it is stored here."""
    if file is None:
        return {}
    filename = request.get("filename") or file.filename
    return {"file_id": file.file_id, "file_url": None, "filename": filename}


def _by_content(body: bytes, files: Iterable[StoredFile | None]) -> bytes:
    """The body with digests of its files in place of their ids: a file that was uploaded again
    because the answer was lost counts as the same file.
    """
    contents = {file.file_id.encode(): file.sha256.encode() for file in files if file}
    if not contents:
        return body
    return re.sub(rb"file-[\w-]+", lambda found: contents.get(found[0], found[0]), body)


def _own_file(url: str | None, host: str) -> str | None:
    """The id of the file that a URL names, if it is stored here, or None."""
    if not url:
        return None
    parts = urlsplit(url)
    ours = parts.netloc.lower() in ("", host.lower()) and parts.path.startswith(DOWNLOAD_PATH)
    return parts.path.removeprefix(DOWNLOAD_PATH) if ours else None


def _new_job(job_id: str, request: Mapping[str, Any], *, now: datetime, by: str) -> Job:
    submitted = {
        "at": now,
        "verb": str(Verb.SUBMIT),
        "from": None,
        "to": str(JobStatus.QUEUED),
        "attempt": 0,
        "worker": None,
        "reason": f"submitted by {by}",
    }
    job = made(
        Job,
        job_id=job_id,
        created_at=now,
        queued_at=now,
        submitted_by=by,
        history=(submitted,),
        **request,
    )
    return with_values(job, shape=job.requirement.shape)
