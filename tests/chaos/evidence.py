"""The evidence after a run: the jobs' own log, API answers, collections, and host processes."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
from pymongo.database import Database

from tests.chaos.load import Accepted, Answers

Document = dict[str, Any]

#: The most output that a job's status carries; longer output is read from the output route.
_STATUS_TEXT_BYTES = 2**20


@dataclass(kw_only=True)
class Run:
    """One process of a job by the jobs' own log. Times are wall-clock seconds."""

    job_id: str
    attempt: int
    pid: int
    began: float
    #: The last sign of life of the process, or of a child that it left behind.
    last: float
    #: The exit code it logged just before its end; None when it was killed.
    code: int | None = None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One job as the API shows it."""

    status: str
    attempts: int
    exit_code: int | None
    output_bytes: int
    #: Stream -> (bytes, sha256) of its output.
    printed: Mapping[str, tuple[int, str]]


@dataclass(frozen=True, kw_only=True)
class Survivor:
    """A process still running with a job's id in its environment."""

    pid: int
    job_id: str
    command: str


@dataclass(kw_only=True)
class Evidence:
    """Everything that the checker examines."""

    accepted: Mapping[str, Accepted] = field(default_factory=dict)
    keys: Mapping[str, Sequence[tuple[str, ...]]] = field(default_factory=dict)
    wrong: Sequence[str] = ()
    runs: Sequence[Run] = ()
    #: Job id -> its document.
    documents: Mapping[str, Document] = field(default_factory=dict)
    answers: Mapping[str, Answer] = field(default_factory=dict)
    #: (job id, attempt) -> sequence numbers of its stored chunks.
    chunks: Mapping[tuple[str, int], Sequence[int]] = field(default_factory=dict)
    #: Workers as the API lists them.
    workers: Sequence[Mapping[str, Any]] = ()
    #: (queue, seconds since it was published) of each remaining message.
    messages: Sequence[tuple[str, float]] = ()
    survivors: Sequence[Survivor] = ()
    own_ends: Sequence[str] = ()
    #: Unexpected exceptions that the platform's processes logged.
    defects: Sequence[str] = ()


def gather(
    answers: Answers,
    *,
    database: Database[Document],
    job_log: Path,
    url: str,
    own_ends: Sequence[str] = (),
    logs: Iterable[Path] = (),
    skew: float = 0.0,
) -> Evidence:
    """Gather all evidence once; the platform's clocks are up to ``skew`` seconds wrong."""
    documents = {found["_id"]: found for found in database["jobs"].find()}
    with httpx2.Client(base_url=url, timeout=60) as http:
        shown = {job_id: _ask(http, job_id) for job_id in answers.accepted if job_id in documents}
        workers = http.get("/api/workers/list").raise_for_status().json()["workers"]
    return Evidence(
        accepted=answers.accepted,
        keys=answers.keys,
        wrong=answers.wrong,
        runs=read_log(job_log),
        documents=documents,
        answers=shown,
        chunks=_chunks(database),
        workers=workers,
        messages=messages_left(database, skew),
        survivors=survivors(documents),
        own_ends=own_ends,
        defects=[words for log in logs for words in defects_in(log.name, log.read_text())],
    )


def read_log(path: Path) -> list[Run]:
    """Return the runs in the jobs' own log, in the order they began."""
    lines = path.read_text().splitlines() if path.exists() else []
    return runs_of(line.split() for line in lines)


def runs_of(lines: Iterable[Sequence[str]]) -> list[Run]:
    """Return the runs that the log's lines (split into words) describe."""
    found: dict[tuple[str, int, int], Run] = {}
    for event, job_id, attempt, pid, at, *code in lines:
        key = (job_id, int(attempt), int(pid))
        run = found.setdefault(
            key,
            Run(job_id=job_id, attempt=key[1], pid=key[2], began=float(at), last=float(at)),
        )
        run.last = max(run.last, float(at))
        if event == "end":
            run.code = int(code[0])
    return sorted(found.values(), key=lambda run: run.began)


def defects_in(name: str, log: str) -> list[str]:
    """Return the events of level ``error`` in a log: each is a defect."""
    found = []
    for line in log.split("\n"):
        # Other lines are Celery's, gunicorn's, and those that a kill -9 has cut off.
        with suppress(ValueError):
            event = json.loads(line)
            if isinstance(event, dict) and event["level"] == "error":
                found.append(f"{name}: {event['event']}: {event['exception']}")
    return found


def messages_left(database: Database[Document], skew: float) -> list[tuple[str, float]]:
    """Return the queue and age of each message that waits or is leased in the broker.

    Expired messages are left out: the server deletes those once a minute. A message's time is by
    its sender's clock, which may be ``skew`` seconds wrong; so much is subtracted from its age.
    """
    told: datetime = database.client.admin.command("hello")["localTime"]
    now = told.replace(tzinfo=UTC)
    kept = {"$or": [{"expireAt": None}, {"expireAt": {"$gt": now}}]}
    found = database["broker.messages"].find(kept, {"queue": 1})
    return [(m["queue"], (now - m["_id"].generation_time).total_seconds() - skew) for m in found]


def survivors(job_ids: Iterable[str]) -> list[Survivor]:
    """Return the processes of these jobs that run on this host."""
    wanted = set(job_ids)
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # the process has ended meanwhile, or we may not read it
        named = (
            v.split(b"=", 1)[1].decode() for v in variables if v.startswith(b"TASKYARD_JOB_ID=")
        )
        for job_id in named:
            if job_id in wanted:
                found.append(Survivor(pid=int(entry.name), job_id=job_id, command=command.strip()))
    return found


def _ask(http: httpx2.Client, job_id: str) -> Answer:
    job = http.get("/api/jobs/status", params={"jobId": job_id}).raise_for_status().json()
    printed = {}
    for stream in ("stdout", "stderr"):
        text = job[stream].encode()
        if len(text) >= _STATUS_TEXT_BYTES:
            query = {"jobId": job_id, "stream": stream}
            text = http.get("/api/jobs/output", params=query).raise_for_status().content
        printed[stream] = (len(text), hashlib.sha256(text).hexdigest())
    return Answer(
        status=job["status"],
        attempts=job["attempts"],
        exit_code=job["exitCode"],
        output_bytes=job["outputBytes"],
        printed=printed,
    )


def _chunks(database: Database[Document]) -> dict[tuple[str, int], list[int]]:
    found = defaultdict(list)
    for chunk in database["output"].find({}, {"_id": 1}):
        identity = chunk["_id"]
        found[identity["j"], identity["a"]].append(identity["s"])
    return {key: sorted(numbers) for key, numbers in found.items()}
