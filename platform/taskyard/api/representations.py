"""Jobs and workers as the API shows them: stored values, and values derived on reading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from taskyard.api import job_schemas, schemas
from taskyard.api.base import platform
from taskyard.clock import epoch_ms
from taskyard.jobs.model import Job
from taskyard.operations import DOWNLOAD_PATH
from taskyard.waiting import explain, reasons
from taskyard.workers.model import NOTHING

#: The most text of one stream in a job's status; the output route has all of it.
STATUS_TEXT_BYTES = 2**20


def _spelled(schema: schemas.ApiSchema) -> list[tuple[str, str]]:
    return [(str(field.data_key), name) for name, field in schema.dump_fields.items()]


#: The fields of a job in a list, of a job in full, and of a result: names in JSON and in Python.
_LISTED = _spelled(job_schemas.Job())
_IN_FULL = _spelled(job_schemas.JobStatusAnswer())
_RESULT = _spelled(job_schemas.JobResult())


#: In the result of a job that printed more than a result may have.
_NO_TEXT = {"stdout": None, "stderr": None}


def job(found: Job, waiting_reason: str | None = None) -> dict[str, Any]:
    """Return a job's stored and derived values, by their names in Python."""
    result = f"{DOWNLOAD_PATH}{found.result_file_id}" if found.result_file_id else None
    upload = f"{DOWNLOAD_PATH}{found.file_id}" if found.file_id else found.file_url
    return {
        **vars(found),
        "id": found.job_id,
        "file_url": upload,
        "result_file_url": result,
        "waiting_reason": waiting_reason,
    }


def jobs(found: Sequence[Job]) -> list[dict[str, Any]]:
    """Return jobs for a list, the queued ones with the reason why they wait.

    Made without the schema: stored values need no check, and the schema would only change names and
    instants, but look up every field again for each job.
    """
    waiting = reasons(platform(), found)
    return [_shown(job(entry, waiting.get(entry.job_id)), _LISTED) for entry in found]


def results(found: Sequence[Job]) -> list[dict[str, Any]]:
    """Return the results of jobs, with their output if it is short; made like ``jobs``."""
    texts = platform().store.output.small_texts(found)
    return [_shown({**job(e), **texts.get(e.job_id, _NO_TEXT)}, _RESULT) for e in found]


def job_in_full(found: Job) -> dict[str, Any]:
    """Return a job with its output and, while it is queued, the reasons why it waits."""
    output = platform().store.output
    waiting = explain(platform(), found)
    return _shown(
        {
            **job(found, waiting.reason if waiting else None),
            "stdout": output.text(found, stream="stdout", limit_bytes=STATUS_TEXT_BYTES),
            "stderr": output.text(found, stream="stderr", limit_bytes=STATUS_TEXT_BYTES),
            "waiting_workers": dict(waiting.workers) if waiting else {},
            "history": [{**entry, "at": epoch_ms(entry["at"])} for entry in found.history],
        },
        _IN_FULL,
    )


def workers() -> list[dict[str, Any]]:
    """Return all workers with status, health reason and reserved resources, derived now."""
    store, offline_after = platform().store, platform().settings.offline_after
    usage, now = store.live.usage(), store.clock.now()
    shown = []
    for worker in store.workers.listed():
        used = usage.get(worker.worker_id, NOTHING).of(worker)
        shown.append(
            {
                **vars(worker),
                "status": str(worker.status(used, now, offline_after)),
                "health_reason": worker.trouble(now) or worker.health_reason,
                "reserved_cpu": used.cpu,
                "reserved_ram_mb": used.ram_mb,
                "current_job_ids": list(used.job_ids),
            }
        )
    return shown


def _shown(values: Mapping[str, Any], spelled: Sequence[tuple[str, str]]) -> dict[str, Any]:
    return {key: _plain(values[name]) for key, name in spelled}


def _plain(value: Any) -> Any:
    return epoch_ms(value) if isinstance(value, datetime) else value
