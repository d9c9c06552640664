"""Follow a job's output and state as they come, for SSE and direct execution."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b

from taskyard.context import Platform
from taskyard.ends import LOOK_SECONDS
from taskyard.jobs.model import Job
from taskyard.store.chunks import LIVE, Chunk
from taskyard.store.failures import is_unavailable
from taskyard.waiting import reason

#: How many chunks one look reads, at most: about a MB.
_CHUNKS = 16


@dataclass(frozen=True, kw_only=True)
class Place:
    """How far a follower has read: attempt, generation of its output, and sequence number."""

    attempt: int = 0
    generation: str = LIVE
    seq: int = -1


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One step of following a job; without a chunk or a flag nothing is new."""

    job: Job
    chunk: Chunk | None = None
    place: Place
    #: The output read so far is replaced by what follows.
    reset: bool = False
    #: State, attempt, cancel request or waiting reason differ from before.
    changed: bool = False
    waiting_reason: str | None = None
    ended: bool = False


def follow(platform: Platform, job_id: str, start: Place | None = None) -> Iterator[Seen]:
    """Yield everything stored so far, then everything new, until the job has ended.

    Yields now and then while nothing is new, and while MongoDB is unavailable once the job was
    read. Raises NotFound.
    """
    reader = _Reader(start)
    job: Job | None = None
    state: tuple[object, ...] = ()
    with platform.store.feed.waiting_for(job_id) as woken:
        while job is None or not job.is_terminal:
            woken.clear()
            try:
                look = woken.together(reader.place, partial(_look, platform, job_id, reader.place))
                if reader.is_replaced_in(look.job):
                    reader.turn_to(look.job, platform.store.output.read(look.job))
            except Exception as error:
                if job is None or not is_unavailable(error):
                    raise
                # The job itself goes on meanwhile.
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


def replay(platform: Platform, job: Job, attempt: int, start: Place | None) -> Iterator[Seen]:
    """Yield what an attempt that is over printed, behind ``start``, and then the job as it is."""
    place = Place(attempt=attempt)
    if start is not None and start.attempt == attempt:
        place = start
    for chunk in platform.store.output.read(job, after=place.seq, attempt=attempt):
        place = replace(place, seq=chunk.seq)
        yield Seen(job=job, chunk=chunk, place=place)
    yield Seen(job=job, place=place, ended=True)


@dataclass(frozen=True, kw_only=True)
class _Look:
    """A job and its output behind a place, read once for all followers that are there."""

    job: Job
    chunks: Sequence[Chunk]
    #: There may be more output behind these chunks; the waiting reason was not looked up yet.
    more: bool
    waiting_reason: str | None = None


def _look(platform: Platform, job_id: str, place: Place) -> _Look:
    # The job is read before its output: what an ended job printed is stored by then.
    job = platform.store.jobs.get(job_id)
    after = place.seq if _place_of(job) == (place.attempt, place.generation) else -1
    chunks = list(platform.store.output.read(job, after=after, limit=_CHUNKS))
    if len(chunks) == _CHUNKS:
        return _Look(job=job, chunks=chunks, more=True)
    return _Look(job=job, chunks=chunks, more=False, waiting_reason=reason(platform, job))


def _place_of(job: Job) -> tuple[int, str]:
    return job.output_attempt, job.output_generation


class _Reader:
    """Goes on in a job's output from where a follower was, however often it was interrupted."""

    def __init__(self, start: Place | None) -> None:
        self.place = start or Place()
        #: The text given out so far, by stream; None while part of it was given out before an
        #: interruption and is not known.
        self._told: dict[str, _Text] | None = {} if start is None else None
        #: How many characters of each stream to skip: another generation, which begins alike, was
        #: given out so far.
        self._skip: dict[str, int] = {}
        self._reset = False

    def is_replaced_in(self, job: Job) -> bool:
        """Whether the same attempt has another generation of output by now."""
        same_attempt = job.output_attempt == self.place.attempt
        return same_attempt and job.output_generation != self.place.generation

    def turn_to(self, job: Job, text: Iterator[Chunk]) -> None:
        """Go on in another generation of the attempt's output, ``text``: behind what was given out,
        if the new text begins with all of it; else from its start.
        """
        told = self._told
        goes_on = told is not None and _begins_with(text, told)
        self._reset = not goes_on
        self._skip = {stream: one.length for stream, one in (told or {}).items() if goes_on}
        self._begin(job)

    def take(self, look: _Look) -> Iterator[Seen]:
        """Yield what is new in a look; the output of another attempt begins from its start."""
        job = look.job
        if _place_of(job) != (self.place.attempt, self.place.generation):
            self._skip = {}
            self._begin(job)
        if self._reset:
            self._reset = False
            yield Seen(job=job, place=self.place, reset=True)
        for chunk in look.chunks:
            self.place = replace(self.place, seq=chunk.seq)
            if self._told is not None:
                self._told.setdefault(chunk.stream, _Text()).add(chunk.data)
            skip = self._skip.get(chunk.stream, 0)
            fresh = chunk.data[skip:]
            self._skip[chunk.stream] = max(0, skip - len(chunk.data))
            if fresh:
                yield Seen(job=job, chunk=replace(chunk, data=fresh), place=self.place)

    def _begin(self, job: Job) -> None:
        self._told = {}
        self.place = Place(attempt=job.output_attempt, generation=job.output_generation)


class _Text:
    """The text that was given out of one stream, as a length and a digest."""

    def __init__(self) -> None:
        self.length = 0
        self._digest = blake2b()

    def add(self, text: str) -> None:
        """Append text."""
        self.length += len(text)
        self._digest.update(text.encode())

    def is_like(self, other: _Text) -> bool:
        """Whether both are the same text."""
        return self._digest.digest() == other._digest.digest()


def _begins_with(text: Iterator[Chunk], told: Mapping[str, _Text]) -> bool:
    """Whether the text begins, in each stream, with all that was given out."""
    found = {stream: _Text() for stream in told}
    for chunk in text:
        if one := found.get(chunk.stream):
            one.add(chunk.data[: told[chunk.stream].length - one.length])
        if all(one.length == told[stream].length for stream, one in found.items()):
            break
    return all(one.is_like(told[stream]) for stream, one in found.items())
