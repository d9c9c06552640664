"""Lines that the keeper starts as soon as another line is over; standard library alone.

A line may follow one that itself still waits: the agent hears that a short line has begun only
when that is nearly over, and a follower that it sent then would come too late.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

#: The agent's message that asks for a line; ``after`` is the key of the line that it follows.
Spawn = dict[str, Any]


class Followers:
    """The lines that wait, by the key of the line that each follows: at most one for each."""

    def __init__(self) -> None:
        self._after: dict[str, Spawn] = {}

    def add(self, follower: Spawn) -> None:
        """Have a line begin when the line of its ``after`` is over."""
        self._after[follower["after"]] = follower

    def has(self, key: str) -> bool:
        """Whether the line of this key waits here."""
        return any(follower["key"] == key for follower in self._after.values())

    def next(self, lead: str) -> Spawn | None:
        """Remove and return the follower of a line that is over."""
        return self._after.pop(lead, None)

    def take(self, key: str) -> Spawn | None:
        """Remove and return the waiting line of this key; its own follower stays."""
        lead = next((lead for lead, f in self._after.items() if f["key"] == key), None)
        return None if lead is None else self._after.pop(lead)

    def withdraw(self, key: str) -> bool:
        """Remove the line of this key, if it still waits, and return whether it did.

        Its own follower takes its place.
        """
        withdrawn = self.take(key)
        if withdrawn is None:
            return False
        if behind := self._after.pop(key, None):
            self.add({**behind, "after": withdrawn["after"]})
        return True

    def extend(self, keys: Collection[str], until: float) -> None:
        """Move the deadlines of these waiting lines; they are never moved back."""
        for follower in self._after.values():
            if follower["key"] in keys:
                follower["until"] = max(follower["until"], until)
