"""Jobs whose input is being fetched: each waits for its own without delaying the others."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial

from taskyard.agent.attempt import Attempt
from taskyard.agent.fetch import Fetch
from taskyard.agent.held import Held
from taskyard.agent.loop import Loop
from taskyard.agent.preparation import Preparation
from taskyard.agent.stages import Stages

Begin = Callable[[Held, Attempt], None]


class Arrivals:
    """Has inputs fetched by threads that do nothing else; called by the loop's thread alone.

    The loop's thread alone decides whether an input is still wanted: whatever ends a job drops its
    fetch (``Held.drop_input``), and an input that arrives by a dropped fetch is thrown away.
    """

    def __init__(
        self,
        loop: Loop,
        fetchers: Executor,
        helpers: Executor,
        stages: Stages,
        preparation: Preparation,
    ) -> None:
        self._loop = loop
        self._fetchers = fetchers
        self._helpers = helpers
        self._stages = stages
        self._preparation = preparation

    def expect(self, held: Held, begin: Begin) -> None:
        """Have the job's input fetched, and ``begin`` called once the input is there."""
        held.fetch = Fetch(held.job.timeout_ms / 1000)
        try:
            self._fetchers.submit(self._bring, held, held.fetch, begin)
        except RuntimeError as error:
            # The host has no thread left. The fetch is queued all the same: it must not run later.
            held.drop_input()
            self._preparation.report(held, error)

    def _bring(self, held: Held, fetch: Fetch, begin: Begin) -> None:
        """Fetch the input into a laid-out attempt; runs on a fetcher thread."""
        try:
            fetch.begin()
            attempt = self._stages.lay_out(held.job, fetch)
        except Exception as error:
            self._loop.post(partial(self._failed, held, fetch, error))
        else:
            self._loop.post(partial(self._arrived, held, fetch, attempt, begin))

    def _arrived(self, held: Held, fetch: Fetch, attempt: Attempt, begin: Begin) -> None:
        if held.fetch is not fetch:
            self._helpers.submit(self._stages.clear, attempt)
            return
        held.fetch = None
        held.attempt = attempt
        begin(held, attempt)

    def _failed(self, held: Held, fetch: Fetch, error: Exception) -> None:
        if held.fetch is fetch:
            held.fetch = None
            self._preparation.report(held, error)
