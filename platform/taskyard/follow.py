"""Follow a job: its output and its state as they come, for SSE, direct execution and waiting."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from taskyard.context import Platform
from taskyard.jobs.model import Job
from taskyard.store.failures import is_unavailable
from taskyard.store.output import LIVE, Chunk
from taskyard.waiting import explain

#: How often a follower looks when nothing wakes it: the change stream is a hint only.
LOOK_SECONDS = 1.0

#: Chunks that one look reads: about a MB, also of a job that prints much.
_CHUNKS = 16


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

    Yields now and then while nothing is new, and waits for a database that goes away meanwhile.
    Raises NotFound.
    """
    reader = _Reader(start)
    job: Job | None = None
    state: tuple[object, ...] = ()
    with platform.store.feed.waiting_for(job_id) as woken:
        while job is None or not job.is_terminal:
            woken.clear()
            try:
                look = woken.together(reader.place, partial(_look, platform, job_id, reader.place))
            except Exception as error:
                if job is None or not is_unavailable(error):
                    raise
                # The job goes on without us.
                yield Seen(job=job, place=reader.place)
                woken.wait(LOOK_SECONDS)
                continue
            yield from reader.take(look)
            if look.more:
                continue
            job = look.job
            now_state = (job.status, job.attempts, job.cancel_requested, look.waiting_reason)
            changed, state = now_state != state, now_state
            yield Seen(
                job=job,
                place=reader.place,
                changed=changed,
                waiting_reason=look.waiting_reason,
                ended=job.is_terminal,
            )
            if not job.is_terminal:
                woken.wait(LOOK_SECONDS)


def replay(
    platform: Platform, job: Job, attempt: int, start: Place | None = None
) -> Iterator[Seen]:
    """All that an attempt printed which is over, behind ``start``, and then the job as it is."""
    place = Place(attempt=attempt)
    if start is not None and start.attempt == attempt:
        place = start
    for chunk in platform.store.output.read(job, after=place.seq, attempt=attempt):
        place = replace(place, seq=chunk.seq)
        yield Seen(job=job, chunk=chunk, place=place)
    yield Seen(job=job, place=place, ended=True)


def wait_until_ended(platform: Platform, job_id: str, seconds: float) -> Job:
    """The job as soon as it has ended, or as it is after ``seconds``. Raises NotFound."""
    deadline = time.monotonic() + seconds
    with platform.store.feed.waiting_for_end(job_id) as woken:
        while True:
            woken.clear()
            job = platform.store.jobs.get(job_id)
            left = deadline - time.monotonic()
            if job.is_terminal or left <= 0:
                return job
            woken.wait(min(LOOK_SECONDS, left))


def wait_until_all_ended(platform: Platform, job_ids: Sequence[str], seconds: float) -> None:
    """Return as soon as all of these jobs have ended, or after ``seconds``."""
    deadline = time.monotonic() + seconds
    live = list(job_ids)
    while live and time.monotonic() < deadline:
        # One stands for all: what was submitted last is mostly over last.
        last = live[-1]
        with platform.store.feed.waiting_for_end(last) as woken:
            while (live := platform.store.live.among(live)) and live[-1] == last:
                left = deadline - time.monotonic()
                if left <= 0:
                    return
                woken.wait(min(LOOK_SECONDS, left))


@dataclass(frozen=True, kw_only=True)
class _Look:
    """A job and what it had printed behind a place, read once for all who are there."""

    job: Job
    chunks: Sequence[Chunk]
    #: There is more output behind these chunks; nothing else is known yet.
    more: bool
    waiting_reason: str | None = None


def _look(platform: Platform, job_id: str, place: Place) -> _Look:
    # The job is read before its output: what an ended job printed is stored by then.
    job = platform.store.jobs.get(job_id)
    after = place.seq if _place_of(job) == (place.attempt, place.generation) else -1
    chunks = list(platform.store.output.read(job, after=after, limit=_CHUNKS))
    if len(chunks) == _CHUNKS:
        return _Look(job=job, chunks=chunks, more=True)
    waiting = explain(platform, job)
    reason = waiting.reason if waiting else None
    return _Look(job=job, chunks=chunks, more=False, waiting_reason=reason)


def _place_of(job: Job) -> tuple[int, str]:
    return job.output_attempt, job.output_generation


class _Reader:
    """Reads a job's output on from where it was, however often it is interrupted."""

    def __init__(self, start: Place | None) -> None:
        self.place = start or Place()
        self._resumed = start is not None
        #: Characters of the text so far that were given out, and that are passed over in another.
        self._delivered = {"stdout": 0, "stderr": 0}
        self._skip = {"stdout": 0, "stderr": 0}

    def take(self, look: _Look) -> Iterator[Seen]:
        """What is new of the job's output; another attempt or text begins anew."""
        job = look.job
        if _place_of(job) != (self.place.attempt, self.place.generation):
            yield from self._turn_to(job)
        for chunk in look.chunks:
            self.place = replace(self.place, seq=chunk.seq)
            self._delivered[chunk.stream] += len(chunk.data)
            fresh = chunk.data[self._skip[chunk.stream] :]
            self._skip[chunk.stream] = max(0, self._skip[chunk.stream] - len(chunk.data))
            if fresh:
                yield Seen(job=job, chunk=replace(chunk, data=fresh), place=self.place)

    def _turn_to(self, job: Job) -> Iterator[Seen]:
        replaced = job.output_attempt == self.place.attempt
        # A whole text that was streamed before goes on where the stream stopped.
        nothing = {"stdout": 0, "stderr": 0}
        self._skip = self._delivered if replaced else nothing
        self._delivered = dict(nothing)
        self.place = Place(attempt=job.output_attempt, generation=job.output_generation)
        if replaced and self._resumed:
            yield Seen(job=job, place=self.place, reset=True)
