"""What a connection takes from its queues: whose turn it is, how much at once, how far ahead."""

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

#: Messages claimed at once from one queue: beyond it a message costs hardly less.
BATCH = 64

#: A consumer that answers n messages in this time may hold n more than it asked for. Claims of
#: single messages cost ten times as much each, and nobody waits longer than this for them.
AHEAD_SECONDS = 0.1

#: A pace is measured over a few milliseconds at first, so it is believed step by step.
_GROWTH = 4

#: Looks that follow each other no closer, however many messages become due.
_SOONEST_SECONDS = 0.01

#: Held so long and not delivered, since something slow came in between: others may have it.
KEPT_SECONDS = 1.0


@dataclass
class _Source:
    """A queue that a channel consumes: its last batch, and what of that was not delivered yet."""

    channel: Channel
    queue: str
    #: When it had its last turn, as a count of turns: the one that waits longest is next.
    served: int = 0
    claimed_at: float = 0.0
    #: Answers that the channel had given until then.
    answers: int = 0
    left: deque[Raw] = field(default_factory=deque)

    @property
    def room(self) -> int:
        """How many the channel may be given now."""
        room: int | None = self.channel.qos.can_consume_max_estimate()
        return BATCH if room is None else room

    def limit(self, now: float) -> int:
        """How many to claim: what there is room for, and more at the pace since the last batch."""
        given: int = self.channel.qos.answers - self.answers
        seconds = now - self.claimed_at
        ahead = min(_GROWTH * given, int(given * AHEAD_SECONDS / max(seconds, 0.001)))
        return min(BATCH, self.room + ahead)


class Intake:
    """Claims for the channels of one connection. Only the thread that consumes calls it."""

    def __init__(self, broker: Broker, inbox: Inbox) -> None:
        self._broker = broker
        self.inbox = inbox
        self._sources: dict[tuple[int, str], _Source] = {}
        self._turn = 0
        self._down = False
        #: The last look or claim could not be made.
        self._missed = False

    def consume(self, channels: Collection[Channel]) -> None:
        """Claim for these channels from now on; what was taken for others goes back."""
        known, self._sources = self._sources, {}
        for channel in channels:
            for queue in channel.consumed:
                key = id(channel), queue
                self._sources[key] = known.pop(key) if key in known else _Source(channel, queue)
        self._return(known.values())

    def batch(self) -> Iterator[tuple[Channel, str, Raw]]:
        """What may be delivered now: what was taken ahead, and what one claim brings."""
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
        """Whether something was taken and not delivered yet."""
        return any(source.left for source in self._sources.values())

    @property
    def is_unsettled(self) -> bool:
        """Whether to look again soon: something may have to go back, or was not seen or claimed."""
        return self.is_ahead or self._missed

    def give_back(
        self, queues: Collection[str] | None = None, *, older_than_seconds: float = 0.0
    ) -> bool:
        """Release what was taken and not delivered, of some queues or of all; was there any?"""
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
        """Mark all queues when there is something to claim in one. Returns in how many seconds
        the next message becomes due, of which the stream says nothing; or the limit.
        """
        queues = self.inbox.consumed
        self._missed = bool(queues)
        if not queues or not self._broker.may_write():
            return within_seconds
        try:
            # In this order: what becomes due in between is seen twice, and not missed.
            due = self._broker.messages.next_due_ms(queues, within_ms=round(within_seconds * 1000))
            ready = self._broker.messages.has_unknown or self._broker.messages.has_ready(queues)
        except PyMongoError as error:
            self._tell(error)
            return within_seconds
        self._missed = False
        if ready:
            self.inbox.wake(None)
        return within_seconds if due is None else max(due / 1000, _SOONEST_SECONDS)

    def _return(self, sources: Iterable[_Source]) -> None:
        for source in sources:
            while source.left:
                self._broker.leases.give_back(delivery_of(source.left.popleft()))

    def _next(self) -> _Source | None:
        """Whose turn it is. Looks in vain do not count: they would favour some queue for ever."""
        dirty = self.inbox.dirty
        sources = (s for s in self._sources.values() if (s.left or s.queue in dirty) and s.room)
        return min(sources, key=lambda source: source.served, default=None)

    def _claim(self, source: _Source) -> None:
        # The mark goes first: what comes meanwhile sets it again.
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
        """One, in one round trip: nothing else is new."""
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
