"""Jobs whose input is on its way: each waits for it without holding up anything else."""

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

    Whether one is still wanted is decided on the loop's thread alone: whatever ends the job takes
    its fetch away from it (``Held.drop_input``), and what comes for another is thrown away.
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
        """Have the job's input fetched, and the job begin with it."""
        held.fetch = Fetch(held.job.timeout_ms / 1000)
        try:
            self._fetchers.submit(self._bring, held, held.fetch, begin)
        except RuntimeError as error:
            # No thread is left on the host; another may come to it later, when it is not wanted.
            held.drop_input()
            self._preparation.report(held, error)

    def _bring(self, held: Held, fetch: Fetch, begin: Begin) -> None:
        """On a fetcher."""
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
