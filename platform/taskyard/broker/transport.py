"""Kombu's MongoDB transport, with what it gets wrong put right."""

from __future__ import annotations

from typing import Any

from kombu.transport import mongodb


class Channel(mongodb.Channel):
    """A channel whose broadcasts arrive from the first one on."""

    def _create_broadcast(self, database: Any) -> None:
        """Create the capped collection of broadcasts, never empty.

        A tailable cursor that finds nothing is dead from the start: workers of a fresh database
        would hear no `celery inspect` until they are restarted. Kombu skips as many messages
        as there are, so the first one is for the exchange that Celery broadcasts on.
        """
        super()._create_broadcast(database)  # type: ignore[no-untyped-call] # kombu leaves it open
        broadcasts = database[self.broadcast_collection]
        if broadcasts.find_one({}, {"_id": 1}) is None:
            broadcasts.insert_one({"queue": "celery.pidbox", "payload": "{}"})


class Transport(mongodb.Transport):
    """The transport that ``celery_settings`` names."""

    Channel = Channel
