"""The parts of the broker that all connections of one process share."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field

from pymongo import uri_parser

from taskyard.broker.connection import Address, clients
from taskyard.broker.leases import Leases
from taskyard.broker.messages import MAX_DELIVERIES, PUBLISH_SECONDS, Messages
from taskyard.broker.topology import Topology
from taskyard.broker.watcher import Watcher

#: How long a claim holds a message: short enough that a dead worker is noticed soon, long enough
#: for three renewals.
LEASE_SECONDS = 30.0

DATABASE = "celery"
PREFIX = "broker"

#: Least values of the numbers in ``Options``: a lease must leave time for three renewals.
_LEAST = {"lease_seconds": 0.1, "max_deliveries": 1, "publish_seconds": 0.1}

#: The greatest value: neither a wait of Python nor a time limit of the server may be much longer.
_MOST = 1_000_000


@dataclass(frozen=True)
class Options:
    """Settings of the broker, named as in ``broker_transport_options``."""

    lease_seconds: float = LEASE_SECONDS
    #: Deliveries without an acknowledgement after which a message becomes a dead letter.
    max_deliveries: int = MAX_DELIVERIES
    #: How long the publish of a durable message is retried before its publisher gets the error.
    publish_seconds: float = PUBLISH_SECONDS
    database: str = ""
    prefix: str = PREFIX
    #: Further options of ``MongoClient``, as pairs.
    client_options: tuple[tuple[str, object], ...] = field(default=(), hash=False)

    def __post_init__(self) -> None:
        """Raises ValueError for a number that would lose every lease or bury every message, and
        for a name that is no text.
        """
        for name, least in _LEAST.items():
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not least <= value <= _MOST:
                raise wrong(name, f"a number from {least} to {_MOST}", value)
        for name, value in (("database", self.database or ""), ("prefix", self.prefix)):
            if not isinstance(value, str):
                raise wrong(name, "a text", value)


def wrong(name: str, wanted: str, value: object) -> ValueError:
    """Return the error for an option that is not what it must be."""
    return ValueError(f"broker_transport_options: {name} must be {wanted}, not {value!r}")


class Broker:
    """The collections, the leases and the change stream of one broker, in this process."""

    def __init__(self, uri: str, options: Options) -> None:
        database = options.database or uri_parser.parse_uri(uri)["database"] or DATABASE
        self._address = Address(uri, database, options.prefix, options.client_options)
        work = clients.database(self._address)
        self.messages = Messages(
            work,
            options.prefix,
            options.max_deliveries,
            publish_seconds=options.publish_seconds,
        )
        self.topology = Topology(work, options.prefix)
        self.lease_ms = round(options.lease_seconds * 1000)
        self.leases = Leases(self.messages, options.lease_seconds)
        self.watcher = Watcher(
            lambda: clients.database(self._address, purpose="watch"), self.messages.name
        )
        self._client = work.client
        self._indexed = False
        self._lock = threading.Lock()

    def check(self) -> None:
        """Check that a primary answers, and make the indexes once. Raises the driver's errors."""
        self._client.admin.command("ping")
        with self._lock:
            if not self._indexed:
                self.messages.ensure_indexes()
                self.topology.ensure_indexes()
                self._indexed = True

    def may_write(self) -> bool:
        """Return whether to claim now: a primary is known, and the leases held here are not about
        to end, so that this process does not claim its own messages again.
        """
        known = self._client.topology_description.has_writable_server()
        return bool(known and self.leases.sound())


class Brokers:
    """The brokers of this process, one per URI and options; a forked child has its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._brokers: dict[tuple[int, str, Options], Broker] = {}

    def of(self, uri: str, options: Options) -> Broker:
        """Return the broker for the URI and the options; all threads share it."""
        key = os.getpid(), uri, options
        with self._lock:
            if key not in self._brokers:
                self._brokers[key] = Broker(uri, options)
            return self._brokers[key]

    def forget_parent(self) -> None:
        """Replace the lock in a forked child: it may be held. The parent's brokers stay as is."""
        self._lock = threading.Lock()


brokers = Brokers()
os.register_at_fork(after_in_child=brokers.forget_parent)
