"""Moves a job's output from its pipes to the store; stops reading while the store is behind."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor

from taskyard import events
from taskyard.agent.attempt import Attempt
from taskyard.agent.line import waiting_bytes
from taskyard.agent.loop import Loop
from taskyard.agent.output import STREAMS
from taskyard.store.chunks import Chunk

_READ_BYTES = 64 * 1024

#: If a job has this much output waiting, it is stored at once; while an earlier piece is still
#: being stored, the job's pipes are left unread.
BACKLOG_BYTES = 512 * 1024

#: Output of all jobs together that may wait: of many jobs, each has a smaller share.
TOTAL_BACKLOG_BYTES = 4 * BACKLOG_BYTES

#: Output waits at least so long: if its job is over by then, it is written with the job's end.
LINGER_SECONDS = 0.02

Store = Callable[[Attempt, list[Chunk]], None]


class Pump:
    """Moves output for all attempts; called by the loop's thread alone."""

    def __init__(
        self, loop: Loop, helpers: Executor, store: Store, *, flush_seconds: float
    ) -> None:
        self._loop = loop
        self._helpers = helpers
        self._store = store
        self._flush_seconds = flush_seconds
        self._open_pipes = 0

    def open(self, attempt: Attempt, pipes: Sequence[int]) -> None:
        """Begin to read the pipes of one of the attempt's lines: stdout and stderr."""
        for fd, stream in zip(pipes, STREAMS, strict=True):
            os.set_blocking(fd, False)
            attempt.pipes[fd] = stream
            self._open_pipes += 1
            self._watch(attempt, fd)

    def take(self, attempt: Attempt, printed: Sequence[bytes]) -> None:
        """Take the output of a line that has ended, after what is left in the attempt's pipes.

        Those are this line's or an earlier line's, and stay open while some process has them.
        """
        for fd in list(attempt.pipes):
            self._empty(attempt, fd)
        for stream, data in zip(STREAMS, printed, strict=True):
            if data:
                self._feed(attempt, stream, data)
        self._pause_if_behind(attempt)

    def flush(self, attempt: Attempt, now: float) -> None:
        """Have waiting output stored, and read on once the backlog is small enough.

        There is one write at a time, so that the order stays. The first output is stored almost at
        once; what follows closely is gathered for ``flush_seconds``, or until it is much.
        """
        due = now >= attempt.flush_due or attempt.output.pending_bytes >= self._backlog_bytes
        if due and not attempt.flushing and (chunks := attempt.output.take()):
            attempt.flushing = True
            attempt.flush_due = now + self._flush_seconds
            self._helpers.submit(self._write, attempt, chunks)
        if attempt.paused and attempt.output.pending_bytes < self._backlog_bytes:
            attempt.paused = False
            for fd in attempt.pipes:
                self._watch(attempt, fd)

    def close(self, attempt: Attempt) -> None:
        """Close the attempt's pipes."""
        for fd in list(attempt.pipes):
            self._close(attempt, fd)

    @property
    def _backlog_bytes(self) -> int:
        """The share of one job, which has two pipes."""
        part = TOTAL_BACKLOG_BYTES // max(1, self._open_pipes // 2)
        return min(BACKLOG_BYTES, max(_READ_BYTES, part))

    def _watch(self, attempt: Attempt, fd: int) -> None:
        # While the store is behind none is watched; ``flush`` watches all of them again.
        if not attempt.paused:
            self._loop.watch(fd, lambda: self._read(attempt, fd))

    def _empty(self, attempt: Attempt, fd: int) -> None:
        """Read what is in a pipe now, even if the store is behind.

        More may be written at the other end meanwhile: that is not waited for.
        """
        left = waiting_bytes(fd)
        while (count := self._read(attempt, fd)) and left > 0:
            left -= count

    def _read(self, attempt: Attempt, fd: int) -> int:
        """Read a pipe once; return how many bytes came, 0 if none did."""
        try:
            data = os.read(fd, _READ_BYTES)
        except BlockingIOError:
            return 0
        except OSError:
            data = b""
        if not data:
            self._close(attempt, fd)
            return 0
        self._feed(attempt, attempt.pipes[fd], data)
        self._pause_if_behind(attempt)
        return len(data)

    def _pause_if_behind(self, attempt: Attempt) -> None:
        if attempt.output.pending_bytes >= self._backlog_bytes:
            attempt.paused = True
            for other in attempt.pipes:
                self._loop.unwatch(other)

    def _feed(self, attempt: Attempt, stream: str, data: bytes) -> None:
        if not attempt.output.pending_bytes:
            attempt.flush_due = max(attempt.flush_due, time.monotonic() + LINGER_SECONDS)
        attempt.output.feed(stream, data)

    def _close(self, attempt: Attempt, fd: int) -> None:
        self._loop.unwatch(fd)
        if attempt.pipes.pop(fd, None):
            self._open_pipes -= 1
            os.close(fd)

    def _write(self, attempt: Attempt, chunks: list[Chunk]) -> None:
        """Store a piece; runs on a helper."""
        try:
            self._store(attempt, chunks)
        except Exception as error:
            events.error("agent.output_failed", error, job=attempt.job.job_id)
        finally:
            self._loop.post(lambda: setattr(attempt, "flushing", False))
