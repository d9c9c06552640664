"""The output of jobs: chunks in one sequence over both streams, stored apart from the job."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from bson import MaxKey, MinKey
from pymongo import ReturnDocument, UpdateOne
from pymongo.database import Database
from pymongo.errors import BulkWriteError, DuplicateKeyError

from taskyard.documents import to_record
from taskyard.errors import InvalidRequest, StaleAttempt
from taskyard.jobs.model import Job
from taskyard.store.chunks import (
    LIVE,
    Chunk,
    beginning,
    behind,
    chunk_document,
    chunk_id,
    chunk_of,
    cut,
    small_chunks,
)
from taskyard.store.failures import accept_duplicates, insert_missing
from taskyard.store.leases import extension
from taskyard.store.statements import still_running
from taskyard.store.together import Together

#: Output up to this size is stored in the job itself, with the write that ends the job.
SMALL_BYTES = 2048

#: How many jobs' chunks one query reads: MongoDB has to plan a range for each job.
_TOGETHER = 100

#: How many chunks are fetched at once: a reader holds a MB or two, not the 16 MB that MongoDB
#: would send.
_BATCH = 16


@dataclass(frozen=True, kw_only=True)
class Printed:
    """What a running attempt printed since the last time, and how much that makes in all."""

    job: Job
    chunks: Sequence[Chunk]
    total_bytes: int
    truncated: bool
    at: datetime


class OutputStore:
    """Verbs on output."""

    def __init__(self, database: Database[dict[str, Any]], cap_bytes: int) -> None:
        self._output = database["output"]
        self._jobs = database["jobs"]
        self._cap_bytes = cap_bytes
        self._put_soon = Together(self._put)

    def append(
        self,
        job: Job,
        stream: str,
        data: str,
        *,
        seq: int | None,
        now: datetime,
        lease: timedelta | None = None,
    ) -> None:
        """Append one chunk of an HTTP agent to the attempt that was read.

        It is a sign of life, which renews the lease for ``lease``, if given. With ``seq`` a chunk
        that is sent again changes nothing else. Text over the cap is cut, and a mark says so once.
        Raises StaleAttempt when the attempt is over by now, and InvalidRequest when another chunk
        has the same number.
        """
        size = len(data.encode())
        counted = self._count(job, size, now, lease)
        room = self._cap_bytes - (counted.output_bytes - size)
        if room <= 0 and counted.output_truncated:
            return
        text = data if size <= room else cut(data, max(0, room), self._cap_bytes)
        chunk = Chunk(seq=seq if seq is not None else counted.output_seq, stream=stream, data=text)
        try:
            self._output.insert_one(chunk_document(job.job_id, job.attempts, LIVE, chunk, now))
        except DuplicateKeyError:
            self._jobs.update_one(still_running(job), {"$inc": {"outputBytes": -size}})
            self._require_the_same(job, chunk)
            return
        if size > room:
            self._jobs.update_one(still_running(job), {"$set": {"outputTruncated": True}})

    def store(
        self,
        job_id: str,
        attempt: int,
        chunks: Sequence[Chunk],
        *,
        now: datetime,
        generation: str = LIVE,
    ) -> None:
        """Write chunks of an attempt; chunks that exist already are left as they are."""
        insert_missing(
            self._output,
            [chunk_document(job_id, attempt, generation, chunk, now) for chunk in chunks],
        )

    def store_all(self, printed: Sequence[tuple[Job, Sequence[Chunk]]], *, now: datetime) -> None:
        """Write chunks of the running attempts of several jobs, all in one command."""
        documents = [
            chunk_document(job.job_id, job.attempts, LIVE, chunk, now)
            for job, chunks in printed
            for chunk in chunks
        ]
        insert_missing(self._output, documents)

    def take_back(self, job_id: str, attempt: int, chunks: Sequence[Chunk]) -> None:
        """Remove chunks that were stored after their attempt was over."""
        ids = [chunk_id(job_id, attempt, LIVE, chunk.seq) for chunk in chunks]
        self._output.delete_many({"_id": {"$in": ids}})

    def put(self, printed: Printed) -> None:
        """Store chunks and note the progress, together with what other threads bring meanwhile.

        Only the note is fenced, so it comes last. Raises StaleAttempt when the attempt is over: the
        chunks are stored all the same then, and have to be taken back.
        """
        self._put_soon(printed)

    def read(
        self, job: Job, *, after: int = -1, attempt: int | None = None, limit: int = 0
    ) -> Iterator[Chunk]:
        """The chunks of an attempt (default: the last) in order, from the one after number
        ``after``; at most ``limit``, or all if that is 0.
        """
        number = job.output_attempt if attempt is None else attempt
        is_last = number == job.output_attempt
        if job.small_output and is_last:
            yield from (chunk for chunk in small_chunks(job) if chunk.seq > after)
            return
        generation = job.output_generation if is_last else self._told_last(job.job_id, number)
        wanted = behind(job.job_id, number, generation, after)
        batches = self._output.find(wanted, sort=[("_id", 1)], limit=limit)
        yield from map(chunk_of, batches.batch_size(_BATCH))

    def text(self, job: Job, *, stream: str, limit_bytes: int) -> str:
        """The first ``limit_bytes`` of one stream's text."""
        if job.is_terminal and not job.output_bytes:
            return ""
        parts: list[str] = []
        size = 0
        for chunk in self.read(job):
            if chunk.stream == stream:
                parts.append(chunk.data)
                size += len(chunk.data.encode())
            if size >= limit_bytes:
                break
        text = "".join(parts)
        return text if size <= limit_bytes else beginning(text, limit_bytes)

    def small_texts(self, jobs: Sequence[Job]) -> dict[str, dict[str, str]]:
        """The text of both streams, by job id, of those jobs that printed at most
        ``SMALL_BYTES``.
        """
        little = {job.job_id: job for job in jobs if job.output_bytes <= SMALL_BYTES}
        printed = {job_id: list(small_chunks(job)) for job_id, job in little.items()}
        apart = [job for job in little.values() if job.output_bytes and not job.small_output]
        for job_id, chunk in self._all_of(apart):
            printed[job_id].append(chunk)
        return {
            job_id: {
                stream: "".join(chunk.data for chunk in chunks if chunk.stream == stream)
                for stream in ("stdout", "stderr")
            }
            for job_id, chunks in printed.items()
        }

    def delete(self, job_ids: Sequence[str]) -> int:
        """Remove all output of these jobs."""
        whole = [
            {"_id": {"$gt": {"j": job_id, "a": MinKey()}, "$lt": {"j": job_id, "a": MaxKey()}}}
            for job_id in job_ids
        ]
        return self._output.delete_many({"$or": whole}).deleted_count if whole else 0

    def _put(self, group: Sequence[Printed]) -> None:
        """Store the chunks of several attempts, then note the progress of each. Raises StaleAttempt
        when any of them is over.
        """
        self.store_all([(each.job, each.chunks) for each in group], now=group[0].at)
        notes = [UpdateOne(still_running(each.job), _note(each)) for each in group]
        try:
            noted = self._jobs.bulk_write(notes, ordered=False).matched_count
        except BulkWriteError as error:
            accept_duplicates(error)
            raise
        if noted < len(group):
            raise StaleAttempt(group[0].job.job_id)

    def _all_of(self, jobs: Sequence[Job]) -> Iterator[tuple[str, Chunk]]:
        """All chunks of these jobs, in order for each job, by few reads for many jobs."""
        whole = [behind(job.job_id, job.output_attempt, job.output_generation) for job in jobs]
        for start in range(0, len(whole), _TOGETHER):
            query = {"$or": whole[start : start + _TOGETHER]}
            for found in self._output.find(query, sort=[("_id", 1)]):
                yield found["_id"]["j"], chunk_of(found)

    def _told_last(self, job_id: str, attempt: int) -> str:
        """The generation of an earlier attempt's output: its whole text, if the agent sent one.

        The job names the generation of its last attempt only, so this looks for them, with one read
        for each. They are few: the streamed output, and the whole text, which is sent once.
        """
        of_attempt = {"j": job_id, "a": attempt}
        seen: dict[str, Any] = {**of_attempt, "g": MinKey()}
        told: list[tuple[datetime, str]] = []
        while True:
            within = {"$gt": seen, "$lt": {**of_attempt, "g": MaxKey()}}
            first = self._output.find_one({"_id": within}, {"at": 1}, sort=[("_id", 1)])
            if first is None:
                return max(told)[1] if told else LIVE
            generation = first["_id"]["g"]
            seen = {**of_attempt, "g": generation, "s": MaxKey()}
            if generation != LIVE:
                told.append((first["at"], generation))

    def _require_the_same(self, job: Job, chunk: Chunk) -> None:
        """Raise InvalidRequest if another chunk has this number: the agent's mistake must not lose
        output silently. Text that was cut cannot be compared.
        """
        there = self._output.find_one({"_id": chunk_id(job.job_id, job.attempts, LIVE, chunk.seq)})
        cut_since = job.output_truncated or len(chunk.data.encode()) > self._cap_bytes
        same = there and (there["stream"], there["data"]) == (chunk.stream, chunk.data)
        if there and not same and not cut_since:
            raise InvalidRequest(
                f"{chunk.seq} is another chunk's: one count goes over both streams of an attempt.",
                field="seq",
            )

    def _count(self, job: Job, size: int, now: datetime, lease: timedelta | None) -> Job:
        """Count the chunk under the attempt's guard, which also numbers it. Raises StaleAttempt."""
        count = {
            "outputBytes": {"$add": ["$outputBytes", size]},
            "outputSeq": {"$add": ["$outputSeq", 1]},
            "lastStreamedAt": now,
            "lastSeenAt": now,
        }
        renewal = extension(now, lease, lease) if lease else []
        counted = self._jobs.find_one_and_update(
            still_running(job),
            [{"$set": count}, *renewal],
            return_document=ReturnDocument.AFTER,
        )
        if counted is None:
            raise StaleAttempt(job.job_id)
        return to_record(Job, counted)


def _note(printed: Printed) -> dict[str, Any]:
    return {
        "$set": {"lastStreamedAt": printed.at, "outputTruncated": printed.truncated},
        "$max": {"outputBytes": printed.total_bytes},
    }
