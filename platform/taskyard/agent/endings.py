"""From the end of a job's last line to its last write, or to the word that it did not begin."""

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
    """Ends what is held; called by the loop's thread alone where nothing else is said."""

    def __init__(
        self,
        loop: Loop,
        helpers: Executor,
        stages: Stages,
        pump: Pump,
        held: dict[str, Held],
        left: Callable[[Held], None],
    ) -> None:
        """``held`` is all that the runner holds; ``left`` is told of what runs no more."""
        self._loop = loop
        self._helpers = helpers
        self._stages = stages
        self._pump = pump
        self._held = held
        self._left = left
        self.results = Results(stages.reporter, helpers, self.reported)

    def finish(self, held: Held, attempt: Attempt) -> None:
        """Have the result written; what is large is stored before, by a helper."""
        if attempt.flushing:
            return
        self._pump.close(attempt)
        held.attempt = None
        attempt.output.finish()
        self._left(held)
        if self._stages.is_small(attempt):
            self.results.add(self._stages.small_result(held, attempt))
            if not self._stages.keeps(attempt):
                self._helpers.submit(self._stages.clear, attempt)
        else:
            self._helpers.submit(self._wind_up, held, attempt)

    def send_back(self, held: Held, reason: str, *, rest: str = "") -> None:
        """Give back what was not spawned; it is held until that is written. ``rest`` is why
        nothing can be spawned here now.
        """
        if held.abandoned:
            self.discard(held)
            return
        self._drop(held)
        self._left(held)
        self._helpers.submit(self._release, held, reason, rest)

    def miss(self, held: Held, outcome: Outcome) -> None:
        """Have it reported how a job ended whose input had not come."""
        held.drop_input()
        self._left(held)
        self.results.add(Result(held=held, outcome=outcome, at=self._stages.moment()))

    def discard(self, held: Held) -> None:
        """Drop an attempt of which nothing is written any more."""
        self._drop(held)
        self._forget(held)

    def reported(self, held: Sequence[Held]) -> None:
        """Nothing more is written of these; from any thread."""

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
        """On a helper."""
        try:
            self._stages.release(held.lease, reason, rest)
        except Exception as error:
            # Not given back: its lease ends.
            events.error("agent.report_failed", error, job=held.job.job_id)
        finally:
            self.reported([held])

    def _wind_up(self, held: Held, attempt: Attempt) -> None:
        """On a helper: store the rest of its output and what it left."""
        try:
            result = self._stages.wind_up(held, attempt)
        except Exception as error:
            # Not reported: it is renewed no more, so its lease ends and it is tried elsewhere.
            events.error("agent.report_failed", error, job=held.job.job_id)
            self.reported([held])
        else:
            self.results.add(result)
        finally:
            self._stages.clear(attempt)

    def _forget(self, held: Held) -> None:
        self._held.pop(held.key, None)
        self._left(held)
