"""The kombu transport: messages are leased, and claimed once a change stream tells of them."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import pymongo
from kombu.transport import virtual
from pymongo.errors import PyMongoError

from taskyard.broker import SCHEME
from taskyard.broker.broker import Broker, Options, brokers, wrong
from taskyard.broker.channel import Channel as _Channel
from taskyard.broker.connection import UNAVAILABLE
from taskyard.broker.inbox import Inbox
from taskyard.broker.intake import KEPT_SECONDS, Intake

#: How often a consumer looks by itself for messages that become due or whose lease ends, since the
#: change stream reports neither. A look also asks which is due first within this time, and the next
#: look is made then.
LOOK_SECONDS = 5.0

#: How often it looks while no change stream tells of new messages, after a claim that failed, and
#: while it may have to give messages back.
SOON_SECONDS = 1.0

#: How long closing a connection waits until its answers are written.
CLOSE_SECONDS = 1.0

_PASSWORD = re.compile(r"(?<=://)(?P<user>[^:@/]*):[^@/]*@")
_SECRETS = re.compile(
    r"(?<=[?&;])(?P<name>tlsCertificateKeyFilePassword|authMechanismProperties)=[^&;]*",
    re.IGNORECASE,
)

#: The options that are passed on as they are; those of the driver are a mapping.
_OPTIONS = {option.name for option in fields(Options)} - {"client_options"}


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
    # Without this kombu gives up on a publish's second error, whatever its retry policy says.
    recoverable_connection_errors = (*connection_errors, *channel_errors)

    def __init__(self, client: Any, **options: Any) -> None:
        super().__init__(client, **options)
        self._address = _uri(client), _options(client.transport_options)
        self._intake: Intake
        #: The process to which the intake belongs.
        self._pid = 0
        self._loop: Any = None
        self._timer: Any = None
        self._look_at = 0.0

    @property
    def broker(self) -> Broker:
        """This process's broker, also in a transport that was inherited through a fork."""
        return brokers.of(*self._address)

    @classmethod
    def as_uri(cls, uri: str, include_password: bool = False, mask: str = "**") -> str:
        """Return the URI for people. Kombu's own function fails on several hosts with ports."""
        shown = uri or ""
        if not include_password:
            shown = _PASSWORD.sub(rf"\g<user>:{mask}@", shown)
            shown = _SECRETS.sub(rf"\g<name>={mask}", shown)
        return f"{SCHEME}+{shown}"

    def driver_version(self) -> str:
        """PyMongo's version."""
        return pymongo.version

    def establish_connection(self) -> Any:
        """Check that MongoDB answers. Raises one of ``connection_errors``."""
        self.broker.check()
        self._begin()
        return super().establish_connection()

    def _begin(self) -> None:
        self._pid, self._look_at = os.getpid(), 0.0
        self._intake = Intake(self.broker, Inbox())
        self.consumers_changed()

    @property
    def intake(self) -> Intake:
        """This process's intake. A transport that was inherited through a fork begins a new one:
        what the parent claimed ahead is the parent's.
        """
        if self._pid != os.getpid():
            self._intake.inbox.close()  # the parent's stays open
            self._begin()
        return self._intake

    @property
    def inbox(self) -> Inbox:
        """This process's inbox: of two processes that share a bell either could silence it."""
        return self.intake.inbox

    def close_connection(self, connection: Any) -> None:
        """Close the channels; the leases of running tasks are still renewed."""
        self.intake.give_back()
        super().close_connection(connection)
        # Each channel that closed has subscribed again for the channels that were left.
        self.broker.watcher.unsubscribe(id(self))
        self.inbox.close()
        if self.broker.may_write():
            # This may be a child process's last act, and its threads end with it.
            self.broker.leases.flush(CLOSE_SECONDS)

    def consumers_changed(self) -> None:
        """Claim from, and be woken for, the queues that the channels consume now."""
        queues = {queue for channel in self.channels for queue in channel.consumed}
        self.intake.consume(self.channels)
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
        ends = math.inf if timeout is None else time.monotonic() + timeout
        looked = False
        # Also under a backlog: by a look what has become due takes its place in the queue.
        self._look_if_due()
        while not self._deliver_one():
            now = time.monotonic()
            if looked and now >= ends:
                raise TimeoutError("timed out")
            # A look that is due is made even for a caller that does not wait.
            looked = True
            if self.inbox.something_later():
                self._look_at = now
            if not self._look_if_due():
                self.inbox.wait(max(0.0, min(self._look_at, ends) - now))

    def _look_if_due(self) -> bool:
        now = time.monotonic()
        if now < self._look_at:
            return False
        self._look_at = now + self._look()
        return True

    def _deliver_one(self) -> bool:
        delivery = next(self.intake.batch(), None)
        if self.intake.is_unsettled:
            self._look_at = min(self._look_at, time.monotonic() + SOON_SECONDS)
        if delivery is None:
            return False
        channel, queue, raw = delivery
        channel.deliver(raw, queue)
        return True

    # --- on Celery's event loop

    def register_with_event_loop(self, _connection: Any, loop: Any) -> None:
        """Have the loop deliver when the bell rings, and look when a look is due."""
        self.unregister_from_event_loop(_connection, loop)
        loop.add_reader(self.inbox.fileno(), self._on_bell)
        self._loop = loop
        self._look_on_loop()

    def unregister_from_event_loop(self, _connection: Any, loop: Any) -> None:
        """Leave the loop."""
        loop.remove_reader(self.inbox.fileno())
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_bell(self) -> None:
        """Deliver one batch only: Celery hands tasks to its pool at the next turn of the loop."""
        self.inbox.hear()
        delivered = False
        for channel, queue, raw in self.intake.batch():
            channel.deliver(raw, queue)
            delivered = True
        if delivered and self.intake.pending:
            # There may be more, and nothing else would wake the loop.
            self.inbox.ring()
        if self.inbox.something_later():
            self._look_on_loop()
        elif self.intake.is_unsettled and self._look_at > time.monotonic() + SOON_SECONDS:
            self._look_in(SOON_SECONDS)

    def _look_on_loop(self) -> None:
        self._look_in(self._look())

    def _look_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._look_at = time.monotonic() + seconds
        self._timer = self._loop.call_later(seconds, self._look_on_loop)

    def _look(self) -> float:
        """Look whether anything can be claimed; returns in how many seconds to do so again.

        The same queries serve all queues, so that an idle worker sends few.
        """
        self.intake.give_back(older_than_seconds=KEPT_SECONDS)
        due_seconds = self.intake.look(self._most_seconds())
        return min(due_seconds, self._most_seconds())

    def _most_seconds(self) -> float:
        if self.intake.is_unsettled or not self.broker.watcher.follows:
            return SOON_SECONDS
        # Not so far apart that a lease begins and ends between two looks.
        return min(LOOK_SECONDS, self.broker.lease_ms / 1000)


def _uri(client: Any) -> str:
    """Return the URI for the driver, as it was written after our scheme."""
    address = client.hostname or "localhost"
    if "://" in address:
        # A bare ``mongodb+srv://`` arrives without its first half.
        return f"mongodb+{address}" if address.startswith("srv://") else str(address)
    login = f"{client.userid}:{client.password}@" if client.userid else ""
    return f"mongodb://{login}{address}:{client.port or Transport.default_port}"


def _options(given: Any) -> Options:
    known = {name: given[name] for name in _OPTIONS if name in given}
    driver = given.get("client_options") or {}
    if not isinstance(driver, Mapping):
        raise wrong("client_options", "a mapping", type(driver))  # a text may hold a password
    return Options(**known, client_options=tuple(sorted(driver.items())))
