"""One client for work and one for the change stream, per process and URI."""

from __future__ import annotations

import os
import re
import threading
from dataclasses import dataclass, field
from typing import Any

from pymongo import MongoClient, ReadPreference, WriteConcern
from pymongo.database import Database
from pymongo.errors import ConnectionFailure, ExecutionTimeout, PyMongoError, WriteConcernError

Document = dict[str, Any]

#: Raised while there is no primary: consumers look again later, publishers try again.
UNAVAILABLE = (ConnectionFailure, ExecutionTimeout, WriteConcernError)

#: How long one call looks for a primary: short, since the call may block Celery's event loop.
SERVER_SELECTION_MS = 3000

#: How long one call may take in all: a connection whose other end is gone must not block the loop.
OPERATION_TIMEOUT_MS = 5000

#: How often the driver checks each member, and how long it waits for the answer. Members report
#: an election at once (nothing else would: a consumer that knows no primary sends nothing). These
#: times only bound how late a silent member is noticed, and every idle process pays for them.
MONITOR_MS = 5000
WATCH_MONITOR_MS = 10_000
CONNECT_TIMEOUT_MS = 3000


def may_pass(error: BaseException) -> bool:
    """Return whether a retry may succeed later: the server was away, slow or stepping down."""
    if isinstance(error, PyMongoError):
        retryable = error.timeout or error.has_error_label("RetryableWriteError")
        return retryable or isinstance(error, UNAVAILABLE)
    return False


def authoritative(database: Database[Document]) -> Database[Document]:
    """Return the database with reads from the primary and writes to a majority, whatever the URI
    says: the broker promises that reads see what was written, and that what was written stays.
    """
    return database.with_options(
        read_preference=ReadPreference.PRIMARY, write_concern=WriteConcern("majority")
    )


@dataclass(frozen=True)
class Address:
    """Where the broker's collections are, with the driver's own options."""

    uri: str
    database: str
    prefix: str
    options: tuple[tuple[str, Any], ...] = field(default=(), hash=False)


class Clients:
    """The clients of this process. A forked child makes its own: PyMongo's are not fork-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._clients: dict[tuple[int, str, Address], MongoClient[Document]] = {}

    def database(self, address: Address, *, purpose: str = "work") -> Database[Document]:
        """Return the database, over this process's client for the purpose (``work``, ``watch``)."""
        key = (os.getpid(), purpose, address)
        with self._lock:
            client = self._clients.get(key)
            if client is None:
                client = self._clients[key] = _open(address, purpose)
        return authoritative(client[address.database])

    def forget_parent(self) -> None:
        """Forget the parent's clients in a forked child, unclosed, and its lock: it may be held."""
        self._lock = threading.Lock()
        self._clients = {}


def _open(address: Address, purpose: str) -> MongoClient[Document]:
    ours: dict[str, Any] = {
        "appname": f"taskyard-broker-{purpose}",
        "timeoutms": OPERATION_TIMEOUT_MS,
        "serverselectiontimeoutms": SERVER_SELECTION_MS,
        "connecttimeoutms": CONNECT_TIMEOUT_MS,
        "heartbeatfrequencyms": MONITOR_MS,
        "tz_aware": True,
    }
    said = _said(address.uri)
    options = {name: value for name, value in ours.items() if name not in said}
    options |= {name.lower(): value for name, value in address.options}
    if purpose == "watch":
        # A request for changes sets its own ``maxTimeMS``, which a timeout of the whole call
        # would replace.
        options["timeoutms"] = None
        options |= {"maxpoolsize": 2, "sockettimeoutms": OPERATION_TIMEOUT_MS}
        # The stream's own call notices when its member goes, so members are checked rarely.
        options |= {"servermonitoringmode": "poll", "heartbeatfrequencyms": WATCH_MONITOR_MS}
    return MongoClient(address.uri, **options)


def _said(uri: str) -> set[str]:
    """Return the names of the options in the URI. The driver would let ours override them."""
    pairs = re.split("[&;]", uri.partition("?")[2])
    return {pair.partition("=")[0].lower() for pair in pairs}


clients = Clients()
os.register_at_fork(after_in_child=clients.forget_parent)
