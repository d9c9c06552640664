"""A transport whose claims fail half-way delivers what it has claimed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from kombu import Connection
from pymongo import MongoClient

from taskyard.broker import SCHEME
from tests.broker.faults.conftest import APP, Document, Fail
from tests.helpers import eventually
from tests.replica_set import ReplicaSet, heal_commands

DATABASE = "broker_claiming"


@pytest.mark.parametrize(("command", "errors"), [("find", 1), ("update", 1), ("findAndModify", 2)])
def test_all_that_was_claimed_is_delivered(
    replica_set: ReplicaSet, admin: MongoClient[Document], fail: Fail, command: str, errors: int
) -> None:
    """A message that is held but was delivered to nobody would be renewed for ever."""
    options = {
        "database": DATABASE,
        "lease_seconds": 600,
        "client_options": {"appname": APP},
    }
    bodies: list[int] = []
    with Connection(f"{SCHEME}+{replica_set.uri}", transport_options=options) as connection:
        queue = connection.SimpleQueue(f"q-{command}")
        for number in range(10):
            queue.put(number)
        fail([command], times=errors, errorCode=50)
        queue.consumer.qos(prefetch_count=20)
        while len(bodies) < 10:
            message = queue.get(timeout=30)
            bodies.append(message.payload)
            message.ack()
        queue.close()
    admin.drop_database(DATABASE)
    assert sorted(bodies) == list(range(10))


def test_a_uri_that_reads_from_secondaries_loses_no_claim(
    replica_set: ReplicaSet, admin: MongoClient[Document]
) -> None:
    """A claim reads back which messages it has won: a secondary may not know that yet."""
    uri = f"{SCHEME}+{replica_set.uri}&readPreference=secondary"
    options = {"database": DATABASE, "lease_seconds": 600}
    with Connection(uri, transport_options=options) as connection:
        queue = connection.SimpleQueue("read-back")
        for number in range(100):
            queue.put(number)
        queue.consumer.qos(prefetch_count=5)
        bodies = []
        for _ in range(100):
            message = queue.get(timeout=30)
            bodies.append(message.payload)
            message.ack()
        queue.close()
    admin.drop_database(DATABASE)
    assert bodies == list(range(100))


def test_nothing_is_claimed_while_what_is_held_cannot_be_renewed(
    replica_set: ReplicaSet, admin: MongoClient[Document], fail: Fail
) -> None:
    """When its lease is over, a held message is free for all, and first for its own consumer."""
    options = {
        "database": DATABASE,
        "lease_seconds": 3,
        "client_options": {"appname": APP},
    }
    messages = admin[DATABASE]["broker.messages"]
    with Connection(f"{SCHEME}+{replica_set.uri}", transport_options=options) as connection:
        queue = connection.SimpleQueue("held")
        queue.consumer.qos(prefetch_count=2)
        queue.put("held")
        held = queue.get(timeout=30)
        fail(["update"], times=10**6, errorCode=50)
        lease = messages.find_one({"queue": "held"})
        assert lease
        eventually(lambda: datetime.now(UTC) > lease["visibleAt"] + timedelta(seconds=1), 30)
        with pytest.raises(queue.Empty):
            queue.get(timeout=1.5)
        heal_commands(admin)
        queue.put("next")
        assert queue.get(timeout=30).payload == "next"
        held.ack()
        eventually(lambda: messages.count_documents({"queue": "held"}) == 1, 30)
        queue.clear()
    admin.drop_database(DATABASE)
