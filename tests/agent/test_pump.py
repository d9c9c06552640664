"""The pump between a job's pipes and the store, with a store that answers when it is told to."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from taskyard.agent import pump
from taskyard.agent.attempt import Attempt
from taskyard.agent.loop import Loop
from taskyard.agent.output import OutputBuffer
from taskyard.agent.pump import Pump
from taskyard.agent.workspace import Workspace
from taskyard.store.chunks import CHUNK_BYTES, Chunk
from tests import factories
from tests.agent.conftest import Bench, until
from tests.helpers import eventually

PIECE = b"x" * 64 * 1024


class HandLoop(Loop):
    """A loop that reads a pipe only when the test calls the watching function."""

    def __init__(self) -> None:
        self.watched: dict[int, Callable[[], object]] = {}

    def watch(self, fd: int, action: Callable[[], object]) -> None:
        assert fd not in self.watched
        self.watched[fd] = action

    def unwatch(self, fd: int) -> None:
        self.watched.pop(fd, None)

    def post(self, action: Callable[[], object]) -> None:
        action()


class LaterExecutor(Executor):
    """An executor that runs what was submitted when the test calls ``run``."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], Any]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.waiting.append(lambda: fn(*args, **kwargs))
        return Future()

    def run(self) -> None:
        """Run all that was submitted since the last time."""
        waiting, self.waiting = self.waiting, []
        for act in waiting:
            act()


class Yard:
    """A pump, and attempts whose pipes the test writes to."""

    def __init__(self) -> None:
        self.loop, self.store_thread = HandLoop(), LaterExecutor()
        self.stored: list[Chunk] = []
        self.pump = Pump(
            self.loop,
            self.store_thread,
            lambda _, chunks: self.stored.extend(chunks),
            flush_seconds=60,
        )
        self._attempts: list[Attempt] = []
        self._ends: dict[int, tuple[int, int]] = {}

    def attempt(self) -> Attempt:
        """Begin an attempt with its first line."""
        job = factories.running_job()
        made = Attempt(
            job=job,
            workspace=Workspace(base=Path("unused")),
            env={},
            output=OutputBuffer(cap_bytes=1 << 30),
            deadline=float("inf"),
        )
        self._attempts.append(made)
        self.line(made)
        return made

    def line(self, attempt: Attempt) -> None:
        """Begin the attempt's next line, whose pipes the pump then reads."""
        reads = []
        for read, write in (os.pipe(), os.pipe()):
            os.set_blocking(read, False)
            # The pump closes its own copy of the end that is read.
            reads.append(os.dup(read))
            self._ends[reads[-1]] = (read, write)
        self.pump.open(attempt, reads)

    def print(self, attempt: Attempt, count: int = 1) -> int:
        """Print up to ``count`` pieces for as long as they are read; return how many were."""
        for number in range(count):
            fd = next(iter(attempt.pipes))
            if fd not in self.loop.watched:
                return number
            os.write(self._ends[fd][1], PIECE)
            self.loop.watched[fd]()
        return count

    def write(self, attempt: Attempt, text: bytes, *, is_last: bool) -> None:
        """Print to stdout, whether that is read or not; close the pipes if this ``is_last``."""
        fds = list(attempt.pipes)
        os.write(self._ends[fds[0]][1], text)
        for read, write in [self._ends.pop(fd) for fd in fds] if is_last else []:
            os.close(read)
            os.close(write)

    def end(self) -> None:
        for attempt in self._attempts:
            self.pump.close(attempt)
        for ends in self._ends.values():
            for fd in ends:
                os.close(fd)


@pytest.fixture
def yard() -> Iterator[Yard]:
    made = Yard()
    yield made
    made.end()


def test_the_first_output_is_stored_soon_and_what_follows_is_gathered(yard: Yard) -> None:
    attempt = yard.attempt()
    yard.print(attempt)
    soon = time.monotonic() + pump.LINGER_SECONDS
    yard.pump.flush(attempt, now=soon)
    yard.store_thread.run()
    yard.print(attempt, 2)
    yard.pump.flush(attempt, now=soon + 1)
    assert not yard.store_thread.waiting
    yard.pump.flush(attempt, now=soon + 60)
    yard.store_thread.run()
    assert [chunk.seq for chunk in yard.stored] == [0, 1, 2]


def test_much_output_does_not_wait_for_the_next_flush(yard: Yard) -> None:
    attempt = yard.attempt()
    for _ in range(4):
        yard.print(attempt, 100)
        yard.pump.flush(attempt, now=0)
        yard.store_thread.run()
    assert sum(len(chunk.data) for chunk in yard.stored) == 4 * pump.BACKLOG_BYTES
    assert all(len(chunk.data) == CHUNK_BYTES for chunk in yard.stored)


def test_a_job_is_not_read_while_the_store_is_behind(yard: Yard) -> None:
    attempt = yard.attempt()
    yard.print(attempt, 100)
    yard.pump.flush(attempt, now=0)
    assert yard.print(attempt, 100) * len(PIECE) <= pump.BACKLOG_BYTES
    yard.pump.flush(attempt, now=60)
    assert yard.print(attempt, 100) == 0
    yard.store_thread.run()
    yard.pump.flush(attempt, now=60)
    assert yard.print(attempt, 100) > 0


def test_many_jobs_share_what_may_wait(yard: Yard) -> None:
    attempts = [yard.attempt() for _ in range(16)]
    for attempt in attempts:
        yard.print(attempt, 100)
    waiting = sum(attempt.output.pending_bytes for attempt in attempts)
    assert waiting < 1.5 * pump.TOTAL_BACKLOG_BYTES
    for attempt in attempts[1:]:
        yard.pump.close(attempt)
    yard.pump.flush(attempts[0], now=time.monotonic() + 1)
    assert yard.print(attempts[0], 100) * len(PIECE) == pump.BACKLOG_BYTES


def test_a_line_that_begins_while_the_store_is_behind_is_read_with_the_others(yard: Yard) -> None:
    attempt = yard.attempt()
    yard.print(attempt, 100)
    assert not yard.loop.watched
    yard.line(attempt)
    yard.pump.flush(attempt, now=0)
    assert set(yard.loop.watched) == set(attempt.pipes)


def test_what_was_in_the_pipes_comes_before_what_the_next_line_prints(yard: Yard) -> None:
    attempt = yard.attempt()
    yard.write(attempt, b"first ", is_last=True)
    yard.pump.take(attempt, [b"", b""])
    assert not attempt.pipes
    yard.pump.take(attempt, [b"second", b""])
    assert [chunk.data for chunk in attempt.output.take()] == ["first second"]


def test_what_waits_in_a_pipe_that_is_not_read_comes_before_what_the_next_line_printed(
    yard: Yard,
) -> None:
    attempt = yard.attempt()
    yard.print(attempt, 100)
    assert attempt.paused
    yard.write(attempt, b"rest ", is_last=False)
    yard.pump.take(attempt, [b"next", b""])
    printed = "".join(chunk.data for chunk in attempt.output.take())
    assert printed.endswith("xrest next")


def test_no_line_begins_while_the_store_is_behind(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(pump, "BACKLOG_BYTES", 1)
    asked, answers = threading.Event(), threading.Event()
    go, end, mark = tmp_path / "go", tmp_path / "end", tmp_path / "mark"
    put = bench.store.output.put

    def slow(*args: Any, **kwargs: Any) -> Any:
        asked.set()
        answers.wait(20)
        return put(*args, **kwargs)

    monkeypatch.setattr(bench.store.output, "put", slow)
    lease = bench.give(f"echo a; {until(go)}; echo b; {until(end)}\ntouch {mark}; echo c")
    (held,) = eventually(lambda: list(bench.runner._held.values()))
    assert asked.wait(10)
    go.touch()
    eventually(lambda: held.attempt and held.attempt.paused)
    end.touch()
    eventually(lambda: held.attempt and held.attempt.waits)
    assert not mark.exists()
    answers.set()
    job = bench.ended(lease)
    assert (job.status, bench.printed(job)) == ("COMPLETED", "a\nb\nc\n")


def test_what_a_line_printed_whose_pipes_were_never_here_is_stored_as_soon(yard: Yard) -> None:
    attempt = yard.attempt()
    yard.pump.take(attempt, [b"hi", b"oh"])
    yard.pump.flush(attempt, now=time.monotonic() + pump.LINGER_SECONDS)
    yard.store_thread.run()
    assert [(chunk.stream, chunk.data) for chunk in yard.stored] == [
        ("stdout", "hi"),
        ("stderr", "oh"),
    ]


def test_pipes_that_somebody_else_holds_are_read_on_after_the_line(yard: Yard) -> None:
    attempt = yard.attempt()
    yard.write(attempt, b"hi", is_last=False)
    yard.pump.take(attempt, [b"", b""])
    assert [chunk.data for chunk in attempt.output.take()] == ["hi"]
    assert set(yard.loop.watched) == set(attempt.pipes)


def test_characters_are_stored_whole_and_in_chunks_that_are_bounded(yard: Yard) -> None:
    attempt = yard.attempt()
    text = "\N{SLIGHTLY SMILING FACE}" * 20_000
    attempt.output.feed("stdout", text.encode())
    yard.pump.flush(attempt, now=0)
    yard.store_thread.run()
    assert "".join(chunk.data for chunk in yard.stored) == text
    assert all(len(chunk.data.encode()) <= CHUNK_BYTES for chunk in yard.stored)


def test_a_piece_that_cannot_be_stored_is_told_of_and_the_next_is_stored(
    yard: Yard, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("a defect")

    attempt = yard.attempt()
    with monkeypatch.context() as broken:
        broken.setattr(yard, "stored", SimpleNamespace(extend=fail))
        yard.pump.take(attempt, [b"lost", b""])
        yard.pump.flush(attempt, now=float("inf"))
        yard.store_thread.run()
    assert "agent.output_failed" in capsys.readouterr().err
    yard.pump.take(attempt, [b"kept", b""])
    yard.pump.flush(attempt, now=float("inf"))
    yard.store_thread.run()
    assert [chunk.data for chunk in yard.stored] == ["kept"]
