"""Messages that expire are collected in the end, whoever held them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from taskyard.broker.messages import MAX_DELIVERIES, Messages
from taskyard.store import client as store_client
from taskyard.store.client import Store
from tests.helpers import eventually

LEASE_MS = 10_000


@pytest.fixture
def messages(store: Store) -> Messages:
    return Messages(store.database, "broker")


@pytest.fixture
def only(store: Store) -> Callable[[], dict[str, Any]]:
    """The one message that there is."""

    def find() -> dict[str, Any]:
        (found,) = store.database["broker.messages"].find()
        return found

    return find


def test_a_held_message_is_collected_after_its_lease_and_its_time(
    store: Store, messages: Messages, only: Callable[[], dict[str, Any]]
) -> None:
    """Its consumer was killed: nobody acknowledges it, and nobody may claim it again."""
    messages.publish("q", "hello", ttl_ms=1000)
    messages.claim("q", 1, LEASE_MS)
    held = only()
    assert held["expireAt"] == held["visibleAt"] > held["notAfter"]
    soon = store_client.server_time(store.client) + timedelta(milliseconds=LEASE_MS)
    assert held["expireAt"] <= soon


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
    """Killed, they answered nothing: their leases ended."""
    messages.publish("q", "deadly")
    for _ in range(MAX_DELIVERIES):
        (claimed,) = eventually(lambda: messages.claim("q", 1, 1))
        assert claimed.payload == "deadly"
    dead_letters = store.database["broker.dead_letters"]
    eventually(lambda: not messages.claim("q", 1, 1) and dead_letters.count_documents({}))
    (dead,) = dead_letters.find()
    assert dead["reason"] == "delivered 5 times without an answer"
    assert not store.database["broker.messages"].count_documents({})
