"""Kombu's transport: leased messages, claimed at once when a change stream says so."""

from __future__ import annotations

import logging
import re
import time
from collections import deque
from typing import Any

import pymongo
from kombu.transport import virtual
from pymongo.errors import PyMongoError

from taskyard.broker import SCHEME
from taskyard.broker.broker import Broker, Options, broker_of
from taskyard.broker.channel import Channel as _Channel
from taskyard.broker.channel import Raw, delivery_of
from taskyard.broker.connection import UNAVAILABLE
from taskyard.broker.inbox import Inbox

logger = logging.getLogger(__name__)

#: How often a consumer looks by itself: for what becomes due, for leases that ended, and for
#: what the change stream missed.
LOOK_SECONDS = 1.0

#: Messages claimed at once from one queue.
BATCH = 64

_PASSWORD = re.compile(r"(?<=://)(?P<user>[^:@/]*):[^@/]*@")

_OPTIONS = ("lease_seconds", "database", "prefix")


class Transport(virtual.Transport):
    """``taskyard+mongodb://``: MongoDB as a broker that loses nothing."""

    Channel = _Channel
    can_parse_url = True
    driver_type = "mongodb"
    driver_name = "pymongo"
    default_port = 27017
    implements = virtual.Transport.implements.extend(
        asynchronous=True, exchange_type=frozenset(["direct", "topic", "fanout"])
    )
    connection_errors = (*virtual.Transport.connection_errors, *UNAVAILABLE)
    channel_errors = (*virtual.Transport.channel_errors, PyMongoError)
    # Unless it is told kombu gives up on a publish's second error, whatever its policy says.
    recoverable_connection_errors = (*connection_errors, *channel_errors)

    def __init__(self, client: Any, **options: Any) -> None:
        super().__init__(client, **options)
        self.broker: Broker = broker_of(_uri(client), _options(client.transport_options))
        self.inbox: Inbox
        self._first = 0
        #: Claimed and not delivered yet: one call of drain_events delivers one message.
        self._buffer: deque[tuple[Raw, str]] = deque()
        self._timer: Any = None
        self._down = False

    @classmethod
    def as_uri(cls, uri: str, include_password: bool = False, mask: str = "**") -> str:
        """The URI for people. Kombu's own reads no URI that names several hosts with ports."""
        shown = uri if include_password else _PASSWORD.sub(rf"\g<user>:{mask}@", uri or "")
        return f"{SCHEME}+{shown}"

    def driver_version(self) -> str:
        """PyMongo's version."""
        return pymongo.version

    def establish_connection(self) -> Any:
        """See that MongoDB answers. Raises one of ``connection_errors``."""
        self.broker.check()
        self.inbox = Inbox()
        return super().establish_connection()

    def close_connection(self, connection: Any) -> None:
        """Close the channels; leases of what still runs go on."""
        self.broker.watcher.unsubscribe(id(self))
        while self._buffer:
            raw, _ = self._buffer.popleft()
            self.broker.leases.release(delivery_of(raw["properties"]["delivery_tag"]))
        super().close_connection(connection)
        self.inbox.close()

    def consumers_changed(self) -> None:
        """Some channel consumes other queues than before."""
        queues = {queue for channel in self.channels for queue in channel._active_queues}
        self.inbox.consume(queues)
        if queues:
            self.broker.watcher.subscribe(id(self), self.inbox.wake)

    # --- without an event loop

    def drain_events(
        self,
        connection: Any,  # noqa: ARG002 - kombu's signature
        timeout: float | None = None,
    ) -> None:
        """Deliver one message. Raises TimeoutError when none comes in time."""
        ends = None if timeout is None else time.monotonic() + timeout
        looked = time.monotonic()
        while not self._deliver_one():
            left = LOOK_SECONDS if ends is None else min(LOOK_SECONDS, ends - time.monotonic())
            if left <= 0:
                raise TimeoutError("timed out")
            self.inbox.wait(left)
            if time.monotonic() - looked >= LOOK_SECONDS:
                looked = time.monotonic()
                self.inbox.wake(None)

    def _deliver_one(self) -> bool:
        if not self._buffer:
            self._buffer.extend(self._claimed())
        if not self._buffer:
            return False
        raw, queue = self._buffer.popleft()
        self._deliver(raw, queue)
        return True

    # --- on Celery's event loop

    def register_with_event_loop(self, _connection: Any, loop: Any) -> None:
        """Be woken by the bell, and look by ourselves now and then."""
        self.unregister_from_event_loop(_connection, loop)
        loop.add_reader(self.inbox.fileno(), self.inbox.hear)
        loop.on_tick.add(self._on_tick)
        self._timer = loop.call_repeatedly(LOOK_SECONDS, self.inbox.wake, None)
        self.inbox.wake(None)

    def unregister_from_event_loop(self, _connection: Any, loop: Any) -> None:
        """Leave the loop."""
        loop.remove_reader(self.inbox.fileno())
        loop.on_tick.discard(self._on_tick)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_tick(self) -> None:
        if not self.inbox.dirty:
            return
        batch = self._claimed()
        for raw, queue in batch:
            self._deliver(raw, queue)
        if batch and self.inbox.dirty:
            # There may be more, and nothing else would wake the loop.
            self.inbox.ring()

    # --- claiming

    def _claimed(self) -> list[tuple[Raw, str]]:
        """A batch of one queue, or nothing: there is none, no room for it, or no primary."""
        for channel in list(self.channels):
            queues = [q for q in self._rotated(channel._active_queues) if q in self.inbox.dirty]
            for queue in queues:
                room = channel.qos.can_consume_max_estimate()
                limit = BATCH if room is None else min(BATCH, room)
                raws = self._claim(channel, queue, limit) if limit else []
                if raws:
                    return [(raw, queue) for raw in raws]
        return []

    def _claim(self, channel: _Channel, queue: str, limit: int) -> list[Raw]:
        """Up to ``limit`` messages. The mark goes first: what comes meanwhile sets it again."""
        self.inbox.seen(queue)
        if not self.broker.may_write():
            return []
        raws: list[Raw] = []
        try:
            # Mostly there is one, and one is claimed in a single round trip.
            raws += channel.claim(queue, 1)
            if raws and limit > 1:
                raws += channel.claim(queue, limit - 1)
        except PyMongoError as error:
            self._tell(error)
            return raws
        self._down = False
        if len(raws) == limit:
            self.inbox.mark(queue)
        return raws

    def _rotated(self, queues: list[str]) -> list[str]:
        """Another queue is the first each time, so that none starves."""
        self._first += 1
        turn = self._first % len(queues) if queues else 0
        return [*queues[turn:], *queues[:turn]]

    def _tell(self, error: PyMongoError) -> None:
        if not self._down:
            self._down = True
            logger.warning("broker: MongoDB is away: %s", error)


def _uri(client: Any) -> str:
    """The URI for the driver, as it was written after our scheme."""
    address = client.hostname or "localhost"
    if "://" in address:
        # A bare ``mongodb+srv://`` arrives without its first half.
        return f"mongodb+{address}" if address.startswith("srv://") else str(address)
    login = f"{client.userid}:{client.password}@" if client.userid else ""
    return f"mongodb://{login}{address}:{client.port or Transport.default_port}"


def _options(given: Any) -> Options:
    known = {name: given[name] for name in _OPTIONS if name in given}
    driver = tuple(sorted((given.get("client_options") or {}).items()))
    return Options(**known, client_options=driver)
