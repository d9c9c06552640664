"""Deliveries of messages: what an acknowledgement names, and what a claim returns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from bson import ObjectId

T = TypeVar("T")


@dataclass(frozen=True)
class Delivery:
    """One delivery of one message: what its acknowledgement names."""

    id: ObjectId
    lease: str

    @property
    def tag(self) -> str:
        """The delivery tag; each delivery of a message has a different one."""
        return f"{self.id}.{self.lease}"

    @classmethod
    def of(cls, tag: str) -> Delivery:
        """The delivery that a tag stands for."""
        identity, _, lease = tag.partition(".")
        return cls(ObjectId(identity), lease)


@dataclass(frozen=True)
class Claimed:
    """A message that this process holds until its lease ends."""

    delivery: Delivery
    queue: str
    payload: str
    deliveries: int


class Batch(list[T]):
    """The result of one claim. ``more`` says that the queue may have more messages ready: the
    claim found as many as it asked for (even if others took some first), or did not look.
    """

    def __init__(self, brought: Iterable[T] = (), *, more: bool) -> None:
        super().__init__(brought)
        self.more = more
