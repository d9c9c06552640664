"""The Store, one value that holds the verbs of every collection, and how to connect it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pymongo
from bson.codec_options import CodecOptions
from pymongo import MongoClient, WriteConcern
from pymongo.database import Database
from pymongo.errors import OperationFailure, PyMongoError
from pymongo.topology_description import TOPOLOGY_TYPE

from taskyard.clock import Clock
from taskyard.errors import ConfigurationError, StoreUnavailable, TaskyardError
from taskyard.settings import Settings
from taskyard.store.connection import (
    OPERATION_TIMEOUT_MS,
    ClockListener,
    open_client,
    open_watching_client,
    server_time,
)
from taskyard.store.counters import CounterStore
from taskyard.store.failures import first_sentence, is_not_allowed, is_unavailable
from taskyard.store.feed import Feed
from taskyard.store.files import FileStore
from taskyard.store.idempotency import IdempotencyStore
from taskyard.store.indexes import ensure_indexes
from taskyard.store.jobs import JobStore
from taskyard.store.leases import LeaseStore
from taskyard.store.live import LiveJobs
from taskyard.store.locks import LockStore
from taskyard.store.mailboxes import Mailboxes
from taskyard.store.offers import OfferStream
from taskyard.store.output import OutputStore
from taskyard.store.passes import PassLog
from taskyard.store.queries import JobQueries
from taskyard.store.reach import Reach, reach_of
from taskyard.store.refusals import RefusalStore
from taskyard.store.sign_in import SignInCodes
from taskyard.store.stats import StatsStore
from taskyard.store.tokens import TokenStore
from taskyard.store.uri import resolve_uri
from taskyard.store.workers import WorkerStore

Document = dict[str, Any]

#: The server's codes for an index that exists under another name or with other options.
_OTHER_INDEX = frozenset({85, 86})

#: How long a health check waits for a primary: its caller has a timeout of its own.
PRIMARY_LOOK_SECONDS = 2.0

#: How far the majority may be behind: a write that waits longer for it fails as unavailable.
_CONFIRMED_WITHIN = timedelta(milliseconds=OPERATION_TIMEOUT_MS)


@dataclass(frozen=True, kw_only=True)
class Store:
    """All collections that Taskyard uses, with the client and the clock behind them."""

    client: MongoClient[Document]
    database: Database[Document]
    clock: Clock
    jobs: JobStore
    leases: LeaseStore
    queries: JobQueries
    live: LiveJobs
    workers: WorkerStore
    output: OutputStore
    files: FileStore
    tokens: TokenStore
    sign_in_codes: SignInCodes
    idempotency: IdempotencyStore
    locks: LockStore
    counters: CounterStore
    refusals: RefusalStore
    stats: StatsStore
    passes: PassLog
    feed: Feed
    offers: OfferStream

    def reach(self, *, silence_seconds: float) -> Reach:
        """How much of the replica set this process can reach now (``store.reach``)."""
        topology = self.client.topology_description
        return reach_of(
            topology.server_descriptions().values(),
            clock_offset=self.clock.now().timestamp() - time.monotonic(),
            silence_seconds=silence_seconds,
            whole_set=topology.topology_type != TOPOLOGY_TYPE.Single,
        )

    @property
    def identity(self) -> str:
        """Identifies this platform: the members of its replica set and the name of its database."""
        seeds = self.client.topology_description.server_descriptions()
        return f"{sorted(seeds)}/{self.database.name}"

    def obstacle(self) -> str:
        """Why the replica set takes no writes, in words; empty while it takes them. A secondary is
        not enough, nor is a primary whose writes no majority confirms.
        """
        try:
            with pymongo.timeout(PRIMARY_LOOK_SECONDS):
                hello = self.client.admin.command("hello")
        except PyMongoError:
            hello = {}
        if not hello.get("isWritablePrimary"):
            return "no primary answers"
        last = hello.get("lastWrite", {})  # absent in a sharded cluster: each shard has its own
        behind = last and last["lastWriteDate"] - last["majorityWriteDate"] > _CONFIRMED_WITHIN
        if behind and not self._is_confirmed():
            return "a majority of the members does not confirm writes"
        return ""

    def _is_confirmed(self) -> bool:
        """Whether a majority confirms all earlier writes in time. The dates of ``hello`` do not
        tell: just after a pause, the first write is ahead by the length of the pause.
        """
        try:
            with pymongo.timeout(PRIMARY_LOOK_SECONDS):
                # Matches no document, and yet waits for the majority as every write does.
                self.database["locks"].update_one({"_id": ""}, {"$set": {"holder": ""}})
        except PyMongoError:
            return False
        return True

    def close(self) -> None:
        """Give back the connections."""
        self.feed.close()
        self.counters.flush()
        self.client.close()


def connect(settings: Settings, *, app_name: str = "taskyard") -> Store:
    """Connect to ``settings.mongodb_uri``, or to the embedded server of a running ``up``.

    Raises ConfigurationError when there is neither or the server cannot be used, by this user or
    at all; StoreUnavailable when it does not answer or its replica set is not initiated.
    """
    uri = resolve_uri(settings)
    listener = ClockListener()
    client = open_client(uri, app_name=app_name, event_listeners=[listener])
    try:
        _require_set(client.admin.command("hello"))
        store = build(client, settings, feed_uri=uri)
        listener.clock = store.clock
        ensure_indexes(store.database)
    except PyMongoError as error:
        client.close()
        raise _refusal(error) from None
    except TaskyardError:
        client.close()
        raise
    return store


def _require_set(hello: Document) -> None:
    """Raises ConfigurationError for a server that is no replica set, StoreUnavailable for one
    whose replica set is not initiated yet.
    """
    if hello.get("isreplicaset"):
        raise StoreUnavailable("MongoDB's replica set is not initiated yet: run rs.initiate().")
    if "setName" not in hello and hello.get("msg") != "isdbgrid":
        raise ConfigurationError(
            "MONGODB_URI names a server that is no replica set, and one is needed, if only of one "
            "member: start mongod with --replSet and run rs.initiate() once."
        )


def _refusal(error: PyMongoError) -> TaskyardError | PyMongoError:
    """The error to raise, in words for a person, when the first commands to MongoDB failed."""
    if is_not_allowed(error):
        return ConfigurationError(
            "MongoDB does not let the user of MONGODB_URI in, or not write to TASKYARD_DATABASE: "
            f"{first_sentence(error)}"
        )
    if isinstance(error, OperationFailure) and error.code in _OTHER_INDEX:
        return ConfigurationError(
            "An index that somebody made in TASKYARD_DATABASE is in the way of one of Taskyard's; "
            f"drop it: {first_sentence(error)}"
        )
    if isinstance(error, OperationFailure) and not is_unavailable(error):
        return error
    return StoreUnavailable(f"MongoDB does not answer: {first_sentence(error)}")


def build(
    client: MongoClient[Document], settings: Settings, *, feed_uri: str, clock: Clock | None = None
) -> Store:
    """The Store over an open client."""
    codec: CodecOptions[Document] = CodecOptions(tz_aware=True)
    # The same write concern as the broker's, whatever the URI says: with `journal=false` each write
    # would wait for the next flush of the journal instead of asking for one.
    database = client.get_database(
        settings.database, codec_options=codec, write_concern=WriteConcern("majority")
    )
    clock = clock or Clock(lambda: server_time(client))
    counters = CounterStore(database)
    mailboxes = Mailboxes(database)
    return Store(
        client=client,
        database=database,
        clock=clock,
        jobs=JobStore(database, counters, mailboxes),
        leases=LeaseStore(database),
        queries=JobQueries(database),
        live=LiveJobs(database),
        workers=WorkerStore(database, mailboxes),
        output=OutputStore(database, settings.output_cap_bytes),
        files=FileStore(database, clock),
        tokens=TokenStore(database, clock),
        sign_in_codes=SignInCodes(database),
        idempotency=IdempotencyStore(database, clock),
        locks=LockStore(database),
        counters=counters,
        refusals=RefusalStore(database, counters),
        stats=StatsStore(database),
        passes=PassLog(database),
        feed=Feed(lambda: open_watching_client(feed_uri), database),
        offers=OfferStream(lambda: open_watching_client(feed_uri), database),
    )
