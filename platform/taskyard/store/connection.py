"""Open the platform's MongoDB clients, and read the server's clock through them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pymongo
from pymongo import MongoClient, monitoring
from pymongo.errors import PyMongoError

from taskyard.clock import Clock
from taskyard.errors import ConfigurationError
from taskyard.store.failures import first_sentence

Document = dict[str, Any]

#: How long one operation may take, including the search for a primary, the wait for a majority
#: and the driver's retries. Longer than a planned step-down (1 to 3 s), short enough that a
#: request is answered and that an agent learns in time that it must renew elsewhere. Without it
#: a half-open connection or a lost majority would block its thread for ever.
OPERATION_TIMEOUT_MS = 5000

#: How often the driver's monitors check each member, and how long they wait for its answer. A
#: silent member is noticed after the sum of the two, well before an agent's lease of 15 s ends.
#: An operation that waits for a new primary checks twice a second, so members need not announce
#: one (by streaming), which would cost an idle platform one more command in each interval.
MONITOR_MS = 2000
WATCH_MONITOR_MS = 10_000
CONNECT_TIMEOUT_MS = 3000

#: How long to wait for the server's clock: an older measurement is better than a late one.
CLOCK_TIMEOUT_SECONDS = 1.0


def open_client(uri: str, *, app_name: str, **options: Any) -> MongoClient[Document]:
    """A client whose writes return only when they are durable on a majority, and whose operations
    all have a timeout. Raises ConfigurationError for a URI that cannot be used.
    """
    try:
        return MongoClient(
            uri,
            appname=app_name,
            w="majority",
            # A read must see what was just written, whatever the URI says.
            readPreference="primary",
            serverSelectionTimeoutMS=OPERATION_TIMEOUT_MS,
            connectTimeoutMS=CONNECT_TIMEOUT_MS,
            tz_aware=True,
            **{
                "timeoutMS": OPERATION_TIMEOUT_MS,
                "heartbeatFrequencyMS": MONITOR_MS,
                "serverMonitoringMode": "poll",
                **options,
            },
        )
    except (PyMongoError, ValueError) as error:
        raise ConfigurationError(f"MONGODB_URI cannot be used: {first_sentence(error)}") from None


def open_watching_client(uri: str) -> MongoClient[Document]:
    """A client for change streams. It has no timeout for a whole call, which would replace the
    time that a call lets the server wait for changes.
    """
    return open_client(
        uri,
        app_name="taskyard-feed",
        timeoutMS=None,
        socketTimeoutMS=OPERATION_TIMEOUT_MS,
        maxPoolSize=4,
        # Its calls notice themselves when their member fails, so monitors may check rarely.
        heartbeatFrequencyMS=WATCH_MONITOR_MS,
    )


def server_time(client: MongoClient[Document]) -> datetime:
    """The server's clock."""
    with pymongo.timeout(CLOCK_TIMEOUT_SECONDS):
        return _aware(client.admin.command("hello")["localTime"])


def _aware(instant: datetime) -> datetime:
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


class ClockListener(monitoring.TopologyListener, monitoring.ServerHeartbeatListener):
    """Passes the primary's time from the driver's monitors to the clock, and resets the clock when
    the primary may have changed.
    """

    clock: Clock | None = None

    def __init__(self) -> None:
        self._writable: frozenset[tuple[str, int | None]] = frozenset()

    def opened(self, _event: monitoring.TopologyOpenedEvent) -> None:
        """Nothing to do."""

    def closed(self, _event: monitoring.TopologyClosedEvent) -> None:
        """Nothing to do."""

    def description_changed(self, event: monitoring.TopologyDescriptionChangedEvent) -> None:
        """Make the clock forget its measurement: another host may be the primary now."""
        members = event.new_description.server_descriptions()
        self._writable = frozenset(at for at, member in members.items() if member.is_writable)
        if self.clock is not None:
            self.clock.forget()

    def started(self, _event: monitoring.ServerHeartbeatStartedEvent) -> None:
        """Nothing to do."""

    def failed(self, _event: monitoring.ServerHeartbeatFailedEvent) -> None:
        """Nothing to do."""

    def succeeded(self, event: monitoring.ServerHeartbeatSucceededEvent) -> None:
        """Pass on the time of the member that takes writes; only its clock counts."""
        local = event.reply.document.get("localTime")
        if self.clock is None or local is None or event.connection_id not in self._writable:
            return
        self.clock.heard(_aware(local), event.duration)
