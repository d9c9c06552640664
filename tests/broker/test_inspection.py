"""Queues and dead letters as an operator sees and handles them."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from bson import ObjectId
from bson.codec_options import CodecOptions

from taskyard.broker import inspection
from taskyard.broker.inspection import Inspection
from taskyard.broker.messages import Messages
from taskyard.broker.topology import QueueOptions, Topology
from taskyard.store.client import Store

LEASE_MS = 10_000
PAYLOAD = json.dumps({"body": "W10=", "headers": {"task": "t.add", "id": "i1", "argsrepr": "(1,)"}})


@pytest.fixture
def messages(store: Store) -> Messages:
    made = Messages(store.database, "broker")
    made.ensure_indexes()
    return made


@pytest.fixture
def broker(store: Store) -> Inspection:
    return Inspection(store.database)


def bury(messages: Messages, queue: str = "q", payload: str = PAYLOAD) -> None:
    messages.publish(queue, payload, priority=7)
    (claimed,) = messages.claim(queue, 1, LEASE_MS)
    messages.bury(claimed.delivery, "rejected")


def test_a_queue_says_what_waits_and_what_is_held(
    store: Store, messages: Messages, broker: Inspection
) -> None:
    Topology(store.database, "broker").declare("empty", QueueOptions())
    for _ in range(3):
        messages.publish("q", PAYLOAD)
    messages.publish("q", PAYLOAD, delay_ms=60_000)
    messages.claim("q", 1, LEASE_MS)
    empty, full = broker.queues()
    assert (empty.name, empty.waiting, empty.held, empty.oldest_at) == ("empty", 0, 0, None)
    assert (full.name, full.waiting, full.held, full.more) == ("q", 3, 1, False)
    assert full.oldest_at is not None


def test_what_a_dead_consumer_held_waits_again(messages: Messages, broker: Inspection) -> None:
    messages.publish("q", PAYLOAD)
    messages.claim("q", 1, lease_ms=0)
    (state,) = broker.queues()
    assert (state.waiting, state.held) == (1, 0)


def test_a_long_queue_is_counted_up_to_a_bound(
    messages: Messages, broker: Inspection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection, "COUNTED", 2)
    for _ in range(4):
        messages.publish("q", PAYLOAD)
    (state,) = broker.queues()
    assert (state.waiting, state.more) == (2, True)


def test_dead_letters_are_shown_with_task_and_reason_in_pages(
    messages: Messages, broker: Inspection
) -> None:
    for payload in (PAYLOAD, "no message", '"text"', '{"headers": 1}', "[" * 5000):
        bury(messages, payload=payload)
    bury(messages, "other")
    first = broker.dead_letters(limit=4)
    rest = broker.dead_letters(limit=4, after=first[-1].id)
    assert [letter.queue for letter in first + rest] == ["other", *["q"] * 5]
    letter = rest[-1]
    assert (letter.task, letter.task_id, letter.arguments) == ("t.add", "i1", "(1,)")
    assert (letter.reason, letter.deliveries, letter.payload) == ("rejected", 1, PAYLOAD)
    assert all(other.task is None for other in [*first[1:], *rest[:-1]])
    assert len(broker.dead_letters(queue="other")) == 1
    assert broker.count_dead() == 6
    assert broker.dead_letters(after="no id") == []


def test_a_requeued_message_is_as_new(messages: Messages, broker: Inspection) -> None:
    bury(messages)
    (letter,) = broker.dead_letters()
    assert broker.requeue([letter.id, str(ObjectId()), "no id"]) == 1
    assert broker.dead_letters() == []
    (claimed,) = messages.claim("q", 1, LEASE_MS)
    assert (claimed.payload, claimed.deliveries) == (PAYLOAD, 1)
    assert broker.requeue([letter.id]) == 0


def test_a_requeue_that_was_interrupted_publishes_nothing_twice(
    store: Store, messages: Messages, broker: Inspection
) -> None:
    bury(messages)
    dead = store.database["broker.dead_letters"].find_one()
    assert dead is not None
    broker.requeue([str(dead["_id"])])
    store.database["broker.dead_letters"].insert_one(dead)
    assert broker.requeue([str(dead["_id"])]) == 1
    assert messages.count("q") == 1


def test_of_many_queues_those_with_messages_are_listed(
    store: Store, messages: Messages, broker: Inspection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection, "QUEUES", 2)
    for name in ("answers1", "answers2", "answers3"):
        Topology(store.database, "broker").declare(name, QueueOptions())
    messages.publish("waits", PAYLOAD)
    assert [queue.name for queue in broker.queues()] == ["answers1", "waits"]


def test_times_can_be_compared_whatever_the_client_reads(store: Store, messages: Messages) -> None:
    """A client without options, as in the documentation, reads times without a time zone."""
    bury(messages)
    naive: CodecOptions[dict[str, Any]] = CodecOptions()
    plain = store.database.with_options(codec_options=naive)
    (letter,) = Inspection(plain).dead_letters()
    assert letter.died_at is not None
    assert letter.died_at - letter.published_at < timedelta(days=1)


def test_a_dropped_message_is_gone(messages: Messages, broker: Inspection) -> None:
    bury(messages)
    (letter,) = broker.dead_letters()
    assert broker.drop([letter.id, letter.id, "no id"]) == 1
    assert (broker.count_dead(), messages.count("q")) == (0, 0)
