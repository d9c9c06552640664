"""Writes how attempts ended, in groups: the first at once, those that follow closely together.

A result costs MongoDB 0.2 ms of CPU in a group of thirty, and 0.5 to 1 ms alone. Each result has
its own guard all the same; one whose guard does not match any more is decided anew, alone.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from typing import Any

from taskyard import events
from taskyard.agent.held import Held
from taskyard.agent.reporting import Reporter
from taskyard.errors import StaleAttempt
from taskyard.jobs import lifecycle
from taskyard.jobs.states import TERMINAL, JobStatus
from taskyard.jobs.transition import Moment, Outcome, Transition
from taskyard.store.chunks import Chunk
from taskyard.store.output import SMALL_BYTES

#: After a write, results are gathered for this long for each result that it wrote: the more end,
#: the larger the groups.
GATHER_SECONDS = 0.005
_GATHER_MOST_SECONDS = 0.04

#: Most results in one write.
AT_ONCE = 200


@dataclass(frozen=True, kw_only=True)
class Result:
    """How one attempt ended."""

    held: Held
    outcome: Outcome
    #: When its last process ended, by the database's clock.
    at: Moment
    #: The output that is not stored yet, and of all of its output the size and whether it was cut.
    chunks: Sequence[Chunk] = ()
    output_bytes: int = 0
    output_truncated: bool = False
    #: Stored fields about its result archive.
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def is_small(self) -> bool:
        """Whether it has all of the output, and that fits in the write that ends the job."""
        is_whole = bool(self.chunks) and self.chunks[0].seq == 0
        return is_whole and self.output_bytes <= SMALL_BYTES


class Results:
    """Writes the results that are added, and tells when nothing more is written about a job."""

    def __init__(
        self,
        reporter: Reporter,
        helpers: Executor,
        reported: Callable[[Sequence[Held]], None],
        requeued: Callable[[], None],
    ) -> None:
        """``reported`` is called with what is written; ``requeued`` after it, if a job is to run
        again.
        """
        self._reporter = reporter
        self._helpers = helpers
        self._reported = reported
        self._requeued = requeued
        self._added: queue.SimpleQueue[Result | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="results", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self) -> None:
        """End once every result that was added before was tried."""
        self._added.put(None)

    def add(self, result: Result) -> None:
        """Have a result written; from any thread."""
        self._added.put(result)

    def _run(self) -> None:
        write_at = 0.0
        while (first := self._added.get()) is not None:
            # Gathered after the pause, so that attempts that end together are written together.
            pause = write_at - time.monotonic()
            if pause > 0:
                time.sleep(pause)
            group, ends = self._gathered(first)
            self._write_guarded(group)
            gather_seconds = min(GATHER_SECONDS * len(group), _GATHER_MOST_SECONDS)
            write_at = time.monotonic() + gather_seconds
            if ends:
                return

    def _gathered(self, first: Result) -> tuple[list[Result], bool]:
        """Return the first with all that wait behind it, and whether ``stop`` was called."""
        group = [first]
        while len(group) < AT_ONCE and not self._added.empty():
            result = self._added.get()
            if result is None:
                return group, True
            group.append(result)
        return group, False

    def _write_guarded(self, group: Sequence[Result]) -> None:
        left: Sequence[Result] = group
        try:
            left = self._write(group)
        except Exception as error:
            # A defect in one result must not lose the others: each is tried alone.
            events.error("agent.results_failed", error, jobs=len(group))
        # The helpers are shut down when the agent leaves: what is left then is given up.
        with contextlib.suppress(RuntimeError):
            for result in left:
                self._helpers.submit(self._write_alone, result)

    def _write(self, group: Sequence[Result]) -> list[Result]:
        """Write the group; return the results that have to be written alone."""
        decided = [(result, _decide(result)) for result in group]
        transitions = [transition for _, transition in decided if transition is not None]
        performed = self._reporter.end_all(
            transitions,
            [
                (result.held.job, result.chunks)
                for result, transition in decided
                if transition is not None and "smallOutput" not in transition.changes
            ],
        )
        won = set(map(id, performed))
        self._reported([result.held for result, decision in decided if id(decision) in won])
        if any(transition.to is JobStatus.QUEUED for transition in performed):
            self._requeued()
        return [result for result, decision in decided if id(decision) not in won]

    def _write_alone(self, result: Result) -> None:
        """Read, decide and write, as often as it takes; runs on a helper."""
        held, job = result.held, None
        try:
            job = self._reporter.finish(
                held.lease,
                replace(result.outcome, fields=_fields(result, with_text=False)),
                at=result.at,
                printed=result.chunks,
                tried=True,
            )
        except Exception as error:
            # Not reported and renewed no more: its lease ends, and the job is tried elsewhere.
            events.error("agent.report_failed", error, job=held.lease.job_id)
        finally:
            self._reported([held])
            if job is not None and job.status is JobStatus.QUEUED:
                self._requeued()


def _decide(result: Result) -> Transition | None:
    """Decide the end of the job as it is known here; None if the result has to be written alone."""
    try:
        transition = _end(result, with_text=result.is_small)
        if result.is_small and transition.to not in TERMINAL:
            # Only an ended job carries its output: one that is tried again keeps it by attempt.
            return _end(result, with_text=False)
    except StaleAttempt:
        return None
    return transition


def _end(result: Result, *, with_text: bool) -> Transition:
    outcome = replace(result.outcome, fields=_fields(result, with_text=with_text))
    return lifecycle.finish(result.held.job, result.held.lease, outcome, at=result.at)


def _fields(result: Result, *, with_text: bool) -> dict[str, Any]:
    """Return the stored fields of the result; the text of its output is one if that is wanted."""
    fields = dict(result.fields)
    if result.held.spawned_at:
        fields["startedAt"] = result.held.spawned_at
    if result.chunks:
        fields["outputBytes"] = result.output_bytes
        if with_text:
            fields["smallOutput"] = [{"stream": c.stream, "data": c.data} for c in result.chunks]
        else:
            fields["lastStreamedAt"] = result.at.now
    if result.output_truncated:
        fields["outputTruncated"] = True
    return fields
