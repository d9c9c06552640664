"""Stored messages: their expiry, bounded claims and writes, burial after too many deliveries."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.errors import DocumentTooLarge
from pymongo.monitoring import CommandListener, CommandStartedEvent

from taskyard.broker import writes
from taskyard.broker.messages import MAX_DELIVERIES, Messages
from taskyard.embedded import EmbeddedServer
from taskyard.store.client import Store
from taskyard.store.connection import server_time
from tests.helpers import eventually

LEASE_MS = 10_000


@pytest.fixture
def messages(store: Store) -> Messages:
    return Messages(store.database, "broker")


@pytest.fixture
def only(store: Store) -> Callable[[], dict[str, Any]]:
    """Return a function that finds the only message."""

    def find() -> dict[str, Any]:
        (found,) = store.database["broker.messages"].find()
        return found

    return find


def test_a_held_message_is_collected_after_its_lease_and_its_time(
    store: Store, messages: Messages, only: Callable[[], dict[str, Any]]
) -> None:
    """Its consumer was killed: nobody acknowledges the message, or may claim it again."""
    messages.publish("q", "hello", ttl_ms=1000)
    messages.claim("q", 1, LEASE_MS)
    held = only()
    assert held["expireAt"] == held["visibleAt"] > held["notAfter"]
    soon = server_time(store.client) + timedelta(milliseconds=LEASE_MS)
    assert held["expireAt"] <= soon


def test_one_claim_takes_no_more_than_can_be_read_in_time(
    messages: Messages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large messages that were claimed together used to be lost: reading them always timed out."""
    monkeypatch.setattr("taskyard.broker.messages.CLAIMED_BYTES", 2500)
    for payload in ("x" * 1000, "y" * 1000, "z" * 1000, "w" * 5000, "v"):
        messages.publish("q", payload)
    claims = [messages.claim("q", 64, LEASE_MS) for _ in range(5)]
    assert [[one.payload[0] for one in claim] for claim in claims] == [
        ["x", "y"],
        ["z"],
        ["w"],
        ["v"],
        [],
    ]
    assert [claim.more for claim in claims] == [True, True, True, False, False]


def test_a_message_that_is_still_held_is_not_collected(
    messages: Messages, only: Callable[[], dict[str, Any]]
) -> None:
    messages.publish("q", "hello", ttl_ms=1000)
    (claimed,) = messages.claim("q", 1, 1000)
    messages.renew([claimed.delivery], LEASE_MS)
    held = only()
    assert held["expireAt"] == held["visibleAt"] > held["notAfter"]


def test_a_message_without_an_end_is_never_collected(
    messages: Messages, only: Callable[[], dict[str, Any]]
) -> None:
    messages.publish("q", "hello")
    (claimed,) = messages.claim("q", 1, LEASE_MS)
    messages.renew([claimed.delivery], LEASE_MS)
    assert "expireAt" not in only()


def test_what_five_consumers_died_of_is_buried(store: Store, messages: Messages) -> None:
    """Killed consumers answer nothing: their leases end."""
    messages.publish("q", "deadly")
    for _ in range(MAX_DELIVERIES):
        (claimed,) = eventually(lambda: messages.claim("q", 1, 1))
        assert claimed.payload == "deadly"
    dead_letters = store.database["broker.dead_letters"]
    eventually(lambda: not messages.claim("q", 1, 1) and dead_letters.count_documents({}))
    (dead,) = dead_letters.find()
    assert dead["reason"] == "delivered 5 times without an answer"
    assert not store.database["broker.messages"].count_documents({})


def test_a_message_that_is_put_back_each_time_is_buried_for_that(
    store: Store, messages: Messages
) -> None:
    messages.publish("q", "nobody wants it")
    (claimed,) = messages.claim("q", 1, LEASE_MS)
    messages.release([claimed.delivery], undo_count=True)
    messages.claim("q", 1, 1)
    for _ in range(MAX_DELIVERIES - 1):
        (claimed,) = eventually(lambda: messages.claim("q", 1, LEASE_MS))
        messages.release([claimed.delivery])
    assert not messages.claim("q", 1, LEASE_MS)
    (dead,) = store.database["broker.dead_letters"].find()
    assert dead["reason"] == "delivered 5 times: put back 4 times, without an answer 1 times"


def test_what_cannot_be_buried_is_delivered_no_more_and_keeps_no_other_from_it(
    store: Store, messages: Messages, monkeypatch: pytest.MonkeyPatch
) -> None:
    for payload in ("deadly", "well"):
        messages.publish("q", payload)
    worn = {"$set": {"deliveries": MAX_DELIVERIES}}
    store.database["broker.messages"].update_one({"payload": "deadly"}, worn)

    def refuse(*_: object) -> None:
        raise DocumentTooLarge("for good")

    monkeypatch.setattr(messages, "bury", refuse)
    (claimed,) = messages.claim("q", 2, LEASE_MS)
    assert claimed.payload == "well"
    assert not messages.claim("q", 2, LEASE_MS)


class Named(CommandListener):
    """Counts how many messages each command names."""

    def __init__(self) -> None:
        self.counts: list[int] = []

    def started(self, event: CommandStartedEvent) -> None:
        for part in [*event.command.get("updates", ()), *event.command.get("deletes", ())]:
            self.counts.append(len(part["q"]["_id"]["$in"]))

    def succeeded(self, _: object) -> None:
        """Nothing to count."""

    def failed(self, _: object) -> None:
        """Nothing to count either."""


def renew_all(messages: Messages) -> int:
    held = [claimed.delivery for claimed in messages.claim("q", 25, LEASE_MS)]
    return len(messages.renew(held, LEASE_MS))


def drop_all(messages: Messages) -> int:
    messages.drop("q")
    return 25 - messages.count("q")


@pytest.mark.parametrize("act", [renew_all, drop_all, lambda messages: messages.purge("q")])
def test_however_many_there_are_a_command_handles_a_bounded_number(
    store: Store,
    mongod: EmbeddedServer,
    monkeypatch: pytest.MonkeyPatch,
    act: Callable[[Messages], int],
) -> None:
    """Over a hundred thousand at once used to take longer than a command may, at each try."""
    monkeypatch.setattr(writes, "RENEWED_AT_ONCE", 10)
    monkeypatch.setattr(writes, "DELETED_AT_ONCE", 10)
    named = Named()
    with MongoClient[dict[str, Any]](mongod.uri, event_listeners=[named]) as client:
        messages = Messages(client[store.database.name], "broker")
        for number in range(25):
            messages.publish("q", f"{number}")
        assert act(messages) == 25
    assert named.counts[-3:] == [10, 10, 5]
