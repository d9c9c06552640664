"""A chunk of a job's output: how text becomes chunks, and how a chunk is stored.

The id of a chunk is ``{j: job, a: attempt, g: generation, s: sequence}``. So a chunk that is sent
again is a duplicate key and costs nothing; and a whole text that comes with the result
(submit-result) is a new generation, which the finishing write makes the job's output.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bson import MaxKey

from taskyard.jobs.model import Job

#: Generation of the output that is streamed while the job runs.
LIVE = "live"

#: Most text in one chunk document.
CHUNK_BYTES = 64 * 1024


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """A piece of a job's output."""

    seq: int
    stream: str
    data: str


def pieces(stream: str, text: str, first_seq: int) -> Iterator[Chunk]:
    """Split a whole text into chunks, never within a character."""
    # No character takes more than four bytes.
    step = CHUNK_BYTES if text.isascii() else CHUNK_BYTES // 4
    for number, start in enumerate(range(0, len(text), step)):
        yield Chunk(seq=first_seq + number, stream=stream, data=text[start : start + step])


def cut(text: str, room_bytes: int, cap_bytes: int) -> str:
    """The text's first ``room_bytes`` and the mark that more was printed."""
    return beginning(text, room_bytes) + cut_mark(cap_bytes)


def cut_mark(cap_bytes: int) -> str:
    """The mark at the end of output that was cut."""
    return f"\n[taskyard: output cut at {cap_bytes} bytes]\n"


def beginning(text: str, limit_bytes: int) -> str:
    """The text's first ``limit_bytes``, without a character that they would split."""
    return text.encode()[:limit_bytes].decode(errors="ignore")


def small_chunks(job: Job) -> Iterator[Chunk]:
    """The output that is stored in the job itself."""
    for seq, piece in enumerate(job.small_output):
        yield Chunk(seq=seq, stream=piece["stream"], data=piece["data"])


def behind(job_id: str, attempt: int, generation: str, after: int = -1) -> dict[str, Any]:
    """Matches the chunks of one generation after number ``after``."""
    text = {"j": job_id, "a": attempt, "g": generation}
    return {"_id": {"$gt": {**text, "s": after}, "$lt": {**text, "s": MaxKey()}}}


def chunk_of(document: dict[str, Any]) -> Chunk:
    """The chunk that is stored as ``document``."""
    return Chunk(seq=document["_id"]["s"], stream=document["stream"], data=document["data"])


def chunk_document(
    job_id: str, attempt: int, generation: str, chunk: Chunk, now: datetime
) -> dict[str, Any]:
    """How a chunk is stored."""
    return {
        "_id": chunk_id(job_id, attempt, generation, chunk.seq),
        "stream": chunk.stream,
        "data": chunk.data,
        "at": now,
    }


def chunk_id(job_id: str, attempt: int, generation: str, seq: int) -> dict[str, Any]:
    """The ``_id`` under which a chunk is stored."""
    return {"j": job_id, "a": attempt, "g": generation, "s": seq}
