"""Lines that begin as others are over, as the keeper has them; standard library alone.

One may follow a line that waits itself: with short lines the word of a beginning comes to the
agent when that line is nearly over, and the next one would not be here in time.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

#: What the agent said of a line: what it is, and ``after`` which it comes.
Spawn = dict[str, Any]


class Followers:
    """What waits for which line; one waits for each."""

    def __init__(self) -> None:
        self._after: dict[str, Spawn] = {}

    def add(self, follower: Spawn) -> None:
        """It begins as the line of its ``after`` is over."""
        self._after[follower["after"]] = follower

    def has(self, key: str) -> bool:
        """Whether the line of this key waits here."""
        return any(follower["key"] == key for follower in self._after.values())

    def next(self, lead: str) -> Spawn | None:
        """What begins now, because this line is over."""
        return self._after.pop(lead, None)

    def take(self, key: str) -> Spawn | None:
        """The line of this key, which begins now; what follows it does so still."""
        lead = next((lead for lead, f in self._after.items() if f["key"] == key), None)
        return None if lead is None else self._after.pop(lead)

    def withdraw(self, key: str) -> bool:
        """Let the line of this key not begin; what was to follow it comes in its stead. Whether it
        was still waiting.
        """
        withdrawn = self.take(key)
        if withdrawn is None:
            return False
        if behind := self._after.pop(key, None):
            self.add({**behind, "after": withdrawn["after"]})
        return True

    def extend(self, keys: Collection[str], until: float) -> None:
        """Let these live until then, once they have begun."""
        for follower in self._after.values():
            if follower["key"] in keys:
                follower["until"] = max(follower["until"], until)
