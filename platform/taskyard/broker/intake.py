"""Claims of a connection: which queue is next, how much at once, how far ahead of the consumers."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bson import ObjectId
from pymongo.errors import PyMongoError

from taskyard.broker.qos import Raw, delivery_of

if TYPE_CHECKING:
    from taskyard.broker.broker import Broker
    from taskyard.broker.channel import Channel
    from taskyard.broker.inbox import Inbox

logger = logging.getLogger(__name__)

#: Most messages of one claim: in a larger one a message costs hardly less.
BATCH = 64

#: A channel that answers n messages in this time may hold n more than it asked for. Claiming one by
#: one costs ten times as much per message, and a message claimed ahead waits only about this long.
AHEAD_SECONDS = 0.1

#: Most messages claimed ahead for each one answered since the last claim: at first the pace is
#: measured over a few milliseconds, so it is trusted step by step.
_GROWTH = 4

#: Least time between two looks, however many messages become due.
_SOONEST_SECONDS = 0.01

#: How long a claimed message may wait for its delivery. Then something slow has come in between,
#: and the message is given back for others to claim.
KEPT_SECONDS = 1.0


@dataclass
class _Source:
    """A queue that a channel consumes, and the undelivered rest of its last batch."""

    channel: Channel
    queue: str
    #: The number of its last turn; the source with the lowest is next.
    served: int = 0
    claimed_at: float = 0.0
    #: How many messages the channel had answered at ``claimed_at``.
    answers: int = 0
    left: deque[Raw] = field(default_factory=deque)

    @property
    def room(self) -> int:
        """How many messages the channel may be given now."""
        room: int | None = self.channel.qos.can_consume_max_estimate()
        return BATCH if room is None else room

    def limit(self, now: float) -> int:
        """Return how many to claim: the room, and more by the pace of the latest answers."""
        given: int = self.channel.qos.answers - self.answers
        seconds = now - self.claimed_at
        ahead = min(_GROWTH * given, int(given * AHEAD_SECONDS / max(seconds, 0.001)))
        return min(BATCH, self.room + ahead)


class Intake:
    """Claims messages for the channels of one connection. Only the consuming thread calls it."""

    def __init__(self, broker: Broker, inbox: Inbox) -> None:
        self._broker = broker
        self.inbox = inbox
        self._sources: dict[tuple[int, str], _Source] = {}
        self._turn = 0
        self._down = False
        #: Whether the last look or claim could not be made.
        self._missed = False

    def consume(self, channels: Collection[Channel]) -> None:
        """Claim for these channels from now on; what was claimed for others goes back."""
        known, self._sources = self._sources, {}
        for channel in channels:
            for queue in channel.consumed:
                key = id(channel), queue
                self._sources[key] = known.pop(key) if key in known else _Source(channel, queue)
        self._return(known.values())

    def batch(self) -> Iterator[tuple[Channel, str, Raw]]:
        """Yield what may be delivered now: messages claimed ahead, and those of one new claim."""
        claimed = False
        while source := self._next():
            if not source.left:
                if claimed:
                    return
                self._claim(source)
                claimed = bool(source.left)
            if source.left:
                self._turn += 1
                source.served = self._turn
                yield source.channel, source.queue, source.left.popleft()

    @property
    def pending(self) -> bool:
        """Whether there is something to deliver or to look at as soon as there is room."""
        return bool(self.inbox.dirty) or self.is_ahead

    @property
    def is_ahead(self) -> bool:
        """Whether something was claimed and not delivered yet."""
        return any(source.left for source in self._sources.values())

    @property
    def is_unsettled(self) -> bool:
        """Whether to look again soon: messages may have to go back, or a look or claim failed."""
        return self.is_ahead or self._missed

    def give_back(
        self, queues: Collection[str] | None = None, *, older_than_seconds: float = 0.0
    ) -> bool:
        """Give back what was claimed and not delivered, of some queues or of all; returns whether
        there was any.
        """
        until = time.monotonic() - older_than_seconds
        back = [
            source
            for source in self._sources.values()
            if source.left
            and source.claimed_at <= until
            and (queues is None or source.queue in queues)
        ]
        self._return(back)
        return bool(back)

    def look(self, within_seconds: float) -> float:
        """Mark the queues in which there is something to claim. Returns in how many seconds the
        next message becomes due, which the change stream does not report, or ``within_seconds``.
        """
        queues = self.inbox.consumed
        self._missed = bool(queues)
        if not queues or not self._broker.may_write():
            return within_seconds
        try:
            # In this order a message that becomes due in between is seen twice, and not missed.
            due = self._broker.messages.next_due_ms(queues, within_ms=round(within_seconds * 1000))
            # What is marked already is claimed from anyway, and need not be looked for.
            marked = self.inbox.dirty | self._broker.messages.unknown
            ready = marked | self._broker.messages.ready(queues - marked)
            if ready:
                self._broker.messages.take_place(ready)
        except PyMongoError as error:
            self._tell(error)
            return within_seconds
        self._missed = False
        for queue in ready:
            self.inbox.wake(queue)
        return within_seconds if due is None else max(due / 1000, _SOONEST_SECONDS)

    def _return(self, sources: Iterable[_Source]) -> None:
        for source in sources:
            while source.left:
                self._broker.leases.give_back(delivery_of(source.left.popleft()))

    def _next(self) -> _Source | None:
        """Return the source whose turn it is. A claim that finds nothing is no turn, or some queue
        would be favoured for ever.
        """
        dirty = self.inbox.dirty
        sources = (s for s in self._sources.values() if (s.left or s.queue in dirty) and s.room)
        return min(sources, key=lambda source: source.served, default=None)

    def _claim(self, source: _Source) -> None:
        # The mark is taken off first: a message that comes during the claim sets it again.
        announced = self.inbox.look(source.queue)
        self._missed = True
        if not self._broker.may_write():
            return
        try:
            raws = self._one(source, announced) if announced else self._several(source)
        except PyMongoError as error:
            self._tell(error)
            return
        self._down = self._missed = False
        source.left.extend(raws)
        source.claimed_at, source.answers = time.monotonic(), source.channel.qos.answers
        if source.queue not in self.inbox.dirty:
            self._broker.watcher.resume()

    def _one(self, source: _Source, announced: ObjectId) -> list[Raw]:
        """Claim one message, in one round trip: only the announced one is new."""
        raws = source.channel.claim(source.queue, 1)
        alone = len(raws) == 1 and delivery_of(raws[0]).id == announced
        if raws.more and not alone:
            self.inbox.mark(source.queue)
        return raws

    def _several(self, source: _Source) -> list[Raw]:
        raws = source.channel.claim(source.queue, source.limit(time.monotonic()))
        if raws.more:
            self.inbox.mark(source.queue)
        return raws

    def _tell(self, error: PyMongoError) -> None:
        if not self._down:
            self._down = True
            logger.warning("broker: MongoDB is away: %s", error)
