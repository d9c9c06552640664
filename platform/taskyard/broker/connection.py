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

#: One call's search for a primary. It may be made on Celery's event loop, so it is short.
SERVER_SELECTION_MS = 3000

#: One call with everything; a connection whose other end is gone must not stop the loop.
OPERATION_TIMEOUT_MS = 5000

#: How often the driver looks at each member, and how long it waits for it. Members tell of an
#: election at once (a consumer that knows of no primary asks nothing, so nothing else would tell
#: it of one); this bounds when silence is noticed, and is paid by every idle process.
MONITOR_MS = 5000
WATCH_MONITOR_MS = 10_000
CONNECT_TIMEOUT_MS = 3000


def may_pass(error: BaseException) -> bool:
    """Whether the same may succeed later: the server was away, slow or about to change."""
    if isinstance(error, PyMongoError):
        retryable = error.timeout or error.has_error_label("RetryableWriteError")
        return retryable or isinstance(error, UNAVAILABLE)
    return False


def authoritative(database: Database[Document]) -> Database[Document]:
    """The database as what is promised needs it, whatever the URI says: reads see what was
    written, and what was written stays.
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
        """The database over this process's client for the purpose."""
        key = (os.getpid(), purpose, address)
        with self._lock:
            client = self._clients.get(key)
            if client is None:
                client = self._clients[key] = _open(address, purpose)
        return authoritative(client[address.database])

    def forget_parent(self) -> None:
        """In a child: leave the parent's clients alone, and its lock, which may be held."""
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
        # The server may take its time for an answer; a timeout of the whole call would replace it.
        options["timeoutms"] = None
        options |= {"maxpoolsize": 2, "sockettimeoutms": OPERATION_TIMEOUT_MS}
        # Its one call notices by itself what becomes of its member, so it is looked at rarely.
        options |= {"servermonitoringmode": "poll", "heartbeatfrequencyms": WATCH_MONITOR_MS}
    return MongoClient(address.uri, **options)


def _said(uri: str) -> set[str]:
    """The options that a URI gives itself. The driver would have ours win."""
    pairs = re.split("[&;]", uri.partition("?")[2])
    return {pair.partition("=")[0].lower() for pair in pairs}


clients = Clients()
os.register_at_fork(after_in_child=clients.forget_parent)
