"""Follow a job: its output and its state as they come, for SSE, direct execution and waiting."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from taskyard.context import Platform
from taskyard.jobs.model import Job
from taskyard.store.output import LIVE, Chunk
from taskyard.waiting import explain

#: How often a follower looks when nothing wakes it: the change stream is a hint only.
LOOK_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Place:
    """How far a follower has read: attempt, generation of its text, and sequence."""

    attempt: int = 0
    generation: str = LIVE
    seq: int = -1


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One thing that a follower sees; all but ``job`` may be absent, then nothing is new."""

    job: Job
    chunk: Chunk | None = None
    place: Place
    #: The text read so far is replaced by what follows.
    reset: bool = False
    #: State, attempt or reason are other than before.
    changed: bool = False
    waiting_reason: str | None = None
    ended: bool = False


def follow(platform: Platform, job_id: str, start: Place | None = None) -> Iterator[Seen]:
    """Everything stored so far, then everything new, until the job has ended.

    Yields at least once a second. Raises NotFound.
    """
    place = start or Place()
    resumed = start is not None
    delivered = {"stdout": 0, "stderr": 0}
    state: tuple[object, ...] = ()
    with platform.store.feed.waiting_for(job_id) as woken:
        while True:
            woken.clear()
            # The job is read before its output: what an ended job printed is stored by then.
            job = platform.store.jobs.get(job_id)
            skip = {"stdout": 0, "stderr": 0}
            if (job.output_attempt, job.output_generation) != (place.attempt, place.generation):
                replaced = job.output_attempt == place.attempt
                # A whole text that was streamed before goes on where the stream stopped.
                skip = dict(delivered) if replaced else skip
                place = Place(attempt=job.output_attempt, generation=job.output_generation)
                if replaced and resumed:
                    yield Seen(job=job, place=place, reset=True)
                delivered = {"stdout": 0, "stderr": 0}
            for chunk in platform.store.output.read(job, after=place.seq):
                place = Place(attempt=place.attempt, generation=place.generation, seq=chunk.seq)
                delivered[chunk.stream] += len(chunk.data)
                fresh = chunk.data[skip[chunk.stream] :]
                skip[chunk.stream] = max(0, skip[chunk.stream] - len(chunk.data))
                if fresh:
                    part = Chunk(seq=chunk.seq, stream=chunk.stream, data=fresh)
                    yield Seen(job=job, chunk=part, place=place)
            waiting = explain(platform, [job]).get(job_id)
            reason = waiting.reason if waiting else None
            now_state = (job.status, job.attempts, job.cancel_requested, reason)
            changed, state = now_state != state, now_state
            yield Seen(
                job=job,
                place=place,
                changed=changed,
                waiting_reason=reason,
                ended=job.is_terminal,
            )
            if job.is_terminal:
                return
            woken.wait(LOOK_SECONDS)


def wait_until_ended(platform: Platform, job_id: str, seconds: float) -> Job:
    """The job as soon as it has ended, or as it is after ``seconds``. Raises NotFound."""
    deadline = time.monotonic() + seconds
    with platform.store.feed.waiting_for(job_id) as woken:
        while True:
            woken.clear()
            job = platform.store.jobs.get(job_id)
            left = deadline - time.monotonic()
            if job.is_terminal or left <= 0:
                return job
            woken.wait(min(LOOK_SECONDS, left))
