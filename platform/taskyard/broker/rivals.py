"""How often other processes are faster, and how long to leave the next messages to them."""

from __future__ import annotations

import random

#: The longest pause for a process that comes too late for every message. A message that comes when
#: the fastest process has just become busy may wait so long for the others.
LONGEST_SECONDS = 0.05

#: The weight of the latest claim: the last ten or so count.
_WEIGHT = 0.2


class Rivals:
    """Processes that claim from the same queues.

    A message wakes each process that waits for it, and one gets it. The others have cost as much
    and leave MongoDB less time for that one: eight idle workers ran a third of what one did.
    """

    def __init__(self) -> None:
        #: The share of claims that found nothing any more, a moving average from 0 to 1.
        self._late = 0.0

    def note(self, *, won: bool) -> None:
        """Take note of a claim: whether there was anything left for it."""
        self._late += _WEIGHT * ((not won) - self._late)

    def pause_seconds(self) -> float:
        """Return how long to hear nothing: 0 while at least every second claim finds something,
        so for one process and mostly for two.
        """
        share = max(0.0, 2 * self._late - 1)
        # Not the same time in all of them, or they would wake together again.
        return LONGEST_SECONDS * share * random.uniform(0.5, 1)  # noqa: S311 - no secret
