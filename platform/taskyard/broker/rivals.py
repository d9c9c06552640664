"""How often other processes are faster, and how long to leave the next messages to them."""

from __future__ import annotations

import random

#: The average pause for each rival after the first. If n processes that found nothing pause n times
#: as long, about one in twice this time hears of messages again, however many there are. So long a
#: message waits if it comes when the fastest process has just become busy.
SECONDS_PER_RIVAL = 0.007

#: The longest pause, for when most of the rivals that a process has met become busy at once.
LONGEST_SECONDS = 0.25

#: The weight of the latest claim: the last twenty or so count.
_WEIGHT = 0.1


class Rivals:
    """Processes that claim from the same queues.

    A message wakes each process that waits for it, and one gets it. The others have cost as much
    and leave MongoDB less time for that one: eight idle workers ran a third of what one did.
    """

    def __init__(self) -> None:
        #: The share of claims that found nothing any more, a moving average from 0 to below 1.
        self._late = 0.0

    def note(self, *, won: bool) -> None:
        """Take note of a claim: whether there was anything left for it."""
        self._late += _WEIGHT * ((not won) - self._late)

    def pause_seconds(self) -> float:
        """Return how long to hear nothing: 0 while at least every second claim finds something,
        so for one process and mostly for two.
        """
        rivals = self._late / max(1 - self._late, 0.01)
        longest = min(2 * SECONDS_PER_RIVAL * max(0.0, rivals - 1), LONGEST_SECONDS)
        # All paused after the same message: they must not wake together again.
        return random.uniform(0, longest)  # noqa: S311 - no secret
