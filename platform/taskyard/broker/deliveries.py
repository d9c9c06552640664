"""A message's deliveries: what an acknowledgement names, and what a claim brings."""

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
        """The delivery tag: another delivery of the same message has another."""
        return f"{self.id}.{self.lease}"

    @classmethod
    def of(cls, tag: str) -> Delivery:
        """The delivery that a tag stands for."""
        identity, _, lease = tag.partition(".")
        return cls(ObjectId(identity), lease)


@dataclass(frozen=True)
class Claimed:
    """A message that is ours until its lease ends."""

    delivery: Delivery
    queue: str
    payload: str
    deliveries: int


class Batch(list[T]):
    """What one claim brought. There may be ``more`` when its look found all that it asked for,
    also where others were faster to claim it.
    """

    def __init__(self, brought: Iterable[T] = (), *, more: bool) -> None:
        super().__init__(brought)
        self.more = more
