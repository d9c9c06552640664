"""What a connection takes from its queues: whose turn it is, how much at once, how far ahead."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bson import ObjectId
from pymongo.errors import PyMongoError

from taskyard.broker.messages import Delivery

if TYPE_CHECKING:
    from taskyard.broker.broker import Broker
    from taskyard.broker.channel import Channel
    from taskyard.broker.inbox import Inbox

Raw = dict[str, Any]

logger = logging.getLogger(__name__)

#: Messages claimed at once from one queue: beyond it a message costs hardly less.
BATCH = 64

#: A consumer that answers n messages in this time may hold n more than it asked for. Claims of
#: single messages cost ten times as much each, and nobody waits longer than this for them.
AHEAD_SECONDS = 0.1

#: A pace is measured over a few milliseconds at first, so it is believed step by step.
_GROWTH = 4

#: Held so long and not delivered, since something slow came in between: others may have it.
KEPT_SECONDS = 1.0


@dataclass
class _Taken:
    """The last batch of one queue: what of it was not delivered yet, and since when."""

    at: float
    #: Answers that the channel had given until then.
    answers: int
    left: deque[Raw] = field(default_factory=deque)

    def ahead(self, now: float, answers: int) -> int:
        """How many more than there is room for may be taken, at the pace since this batch."""
        given, seconds = answers - self.answers, now - self.at
        return min(_GROWTH * given, int(given * AHEAD_SECONDS / max(seconds, 0.001)))


class Intake:
    """Claims for the channels of one connection. Only its own thread calls it."""

    def __init__(self, broker: Broker, inbox: Inbox) -> None:
        self._broker = broker
        self._inbox = inbox
        self._taken: dict[str, _Taken] = {}
        self._first = 0
        self._down = False

    def batch(self, channels: list[Channel]) -> Iterator[tuple[Raw, str]]:
        """What may be delivered now with its queue: what was taken ahead, else of one claim."""
        turns = self._turns(channels)
        if not any(self._left(queue) and channel.qos.can_consume() for channel, queue in turns):
            self._claim_first(turns)
        for channel, queue in turns:
            left = self._left(queue)
            while left and channel.qos.can_consume():
                yield left.popleft(), queue

    @property
    def pending(self) -> bool:
        """Whether there is something to deliver or to look at as soon as there is room."""
        return bool(self._inbox.dirty) or any(taken.left for taken in self._taken.values())

    def give_back(self, *, older_than_seconds: float = 0.0, but: Collection[str] = ()) -> None:
        """Release what was taken and not delivered, except of some queues; nobody has seen it."""
        until = time.monotonic() - older_than_seconds
        for queue, taken in self._taken.items():
            if taken.left and taken.at <= until and queue not in but:
                for raw in taken.left:
                    self._broker.leases.release(_delivery(raw), unseen=True)
                taken.left.clear()

    def _left(self, queue: str) -> deque[Raw] | None:
        taken = self._taken.get(queue)
        return taken.left if taken else None

    def _turns(self, channels: list[Channel]) -> list[tuple[Channel, str]]:
        """Another queue is the first each time, so that none starves."""
        pairs = [(channel, queue) for channel in channels for queue in channel.consumed]
        if not pairs:
            return []
        self._first = (self._first + 1) % len(pairs)
        return [*pairs[self._first :], *pairs[: self._first]]

    def _claim_first(self, turns: list[tuple[Channel, str]]) -> None:
        """Claim from the first queue that has something, for which there is room."""
        for channel, queue in turns:
            if queue in self._inbox.dirty and channel.qos.can_consume():
                self._claim(channel, queue)
                if self._left(queue):
                    return

    def _claim(self, channel: Channel, queue: str) -> None:
        # The mark goes first: what comes meanwhile sets it again.
        announced = self._inbox.look(queue)
        if not self._broker.may_write():
            return
        try:
            if announced is not None:
                raws = self._claim_one(channel, queue, announced)
            else:
                raws = self._claim_batch(channel, queue)
        except PyMongoError as error:
            self._tell(error)
            return
        self._down = False
        self._taken[queue] = _Taken(time.monotonic(), channel.qos.answers, deque(raws))
        if queue not in self._inbox.dirty:
            self._broker.watcher.resume()

    def _claim_one(self, channel: Channel, queue: str, announced: ObjectId) -> list[Raw]:
        """One, in one round trip: nothing else is new."""
        raws = channel.claim(queue, 1)
        if raws and _delivery(raws[0]).id != announced:
            self._inbox.mark(queue)
        return raws

    def _claim_batch(self, channel: Channel, queue: str) -> list[Raw]:
        last, room = self._taken.get(queue), channel.qos.can_consume_max_estimate()
        ahead = last.ahead(time.monotonic(), channel.qos.answers) if last else 0
        limit = BATCH if room is None else min(BATCH, room + ahead)
        raws = channel.claim(queue, limit)
        if len(raws) == limit:
            self._inbox.mark(queue)
        return raws

    def _tell(self, error: PyMongoError) -> None:
        if not self._down:
            self._down = True
            logger.warning("broker: MongoDB is away: %s", error)


def _delivery(raw: Raw) -> Delivery:
    return Delivery.of(raw["properties"]["delivery_tag"])
