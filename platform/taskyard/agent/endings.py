"""Ends jobs: has a result written after the last line, or gives back a job that did not begin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor

from taskyard import events
from taskyard.agent.attempt import Attempt
from taskyard.agent.held import Held
from taskyard.agent.loop import Loop
from taskyard.agent.pump import Pump
from taskyard.agent.results import Result, Results
from taskyard.agent.stages import Stages
from taskyard.jobs.transition import Outcome


class Endings:
    """Ends the jobs that the runner holds; called by the loop's thread alone unless noted."""

    def __init__(
        self,
        loop: Loop,
        helpers: Executor,
        stages: Stages,
        pump: Pump,
        held: dict[str, Held],
        left: Callable[[Held], None],
        requeued: Callable[[], None],
    ) -> None:
        """``held`` are all jobs of the runner; ``left`` is called for each that runs no more, and
        ``requeued`` when one is to run again.
        """
        self._loop = loop
        self._helpers = helpers
        self._stages = stages
        self._pump = pump
        self._held = held
        self._left = left
        self.results = Results(
            stages.reporter,
            helpers,
            self.reported,
            # Behind what ``reported`` posts: a job that is still held here is not claimed.
            lambda: loop.post(requeued),
        )

    def finish(self, held: Held, attempt: Attempt) -> None:
        """Have the result written; a helper first stores what is too large to go with it."""
        if attempt.flushing:
            return
        self._pump.close(attempt)
        held.attempt = None
        attempt.output.finish()
        self._left(held)
        if self._stages.left_little(attempt):
            self.results.add(self._stages.result(held, attempt))
            if not self._stages.keeps(attempt):
                self._helpers.submit(self._stages.clear, attempt)
        else:
            self._helpers.submit(self._wind_up, held, attempt)

    def send_back(self, held: Held, reason: str, *, rest: str = "") -> None:
        """Give back a job that was not spawned; it is held until that is written.

        ``rest``, unless empty, is why nothing can be spawned here now.
        """
        if held.abandoned:
            self.discard(held)
            return
        self._drop(held)
        self._left(held)
        self._helpers.submit(self._release, held, reason, rest)

    def miss(self, held: Held, outcome: Outcome) -> None:
        """Have the result written of a job whose input did not come in time."""
        held.drop_input()
        self._left(held)
        self.results.add(Result(held=held, outcome=outcome, at=self._stages.moment()))

    def discard(self, held: Held) -> None:
        """Drop an attempt without writing anything about it."""
        self._drop(held)
        self._forget(held)

    def reported(self, held: Sequence[Held]) -> None:
        """Forget jobs of which nothing more is written; callable from any thread."""

        def forget() -> None:
            for each in held:
                self._forget(each)

        self._loop.post(forget)

    def _drop(self, held: Held) -> None:
        held.drop_input()
        attempt, held.attempt = held.attempt, None
        if attempt is not None:
            self._pump.close(attempt)
            self._helpers.submit(self._stages.clear, attempt)

    def _release(self, held: Held, reason: str, rest: str) -> None:
        """Release the job; runs on a helper."""
        try:
            self._stages.release(held.lease, reason, rest)
        except Exception as error:
            # It was not given back: it is expired when its lease ends.
            events.error("agent.report_failed", error, job=held.job.job_id)
        finally:
            self.reported([held])

    def _wind_up(self, held: Held, attempt: Attempt) -> None:
        """Store the rest of the output and the files, then add the result; runs on a helper."""
        try:
            result = self._stages.wind_up(held, attempt)
        except Exception as error:
            # Not reported and renewed no more: its lease ends, and the job is tried elsewhere.
            events.error("agent.report_failed", error, job=held.job.job_id)
            self.reported([held])
        else:
            self.results.add(result)
        finally:
            self._stages.clear(attempt)

    def _forget(self, held: Held) -> None:
        self._held.pop(held.key, None)
        self._left(held)
