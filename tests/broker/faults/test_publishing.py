"""Kombu's own retries: a publish whose outcome is unknown makes one message in the end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kombu import Connection, Exchange, Producer, Queue
from pymongo import MongoClient

from taskyard.broker import SCHEME
from tests.broker.faults.conftest import APP, Document, Fail
from tests.replica_set import ReplicaSet

DATABASE = "broker_publishing"

LOST_ANSWER = {"writeConcernError": {"code": 64, "errmsg": "", "errInfo": {"wtimeout": True}}}


@pytest.fixture
def connection(replica_set: ReplicaSet, admin: MongoClient[Document]) -> Iterator[Connection]:
    options = {"database": DATABASE, "client_options": {"appname": APP}}
    with Connection(f"{SCHEME}+{replica_set.uri}", transport_options=options) as connection:
        yield connection
    admin.drop_database(DATABASE)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("options", [{}, {"expiration": 600}])
def test_a_publish_that_is_tried_again_is_one_message(
    connection: Connection,
    admin: MongoClient[Document],
    fail: Fail,
    count: int,
    options: Document,
) -> None:
    producer = Producer(connection, routing_key="q")
    producer.publish("warm", routing_key="other")
    fail(["insert", "update"], times=count, **LOST_ANSWER)
    producer.publish("once", retry=True, retry_policy={"max_retries": 5}, **options)
    assert admin[DATABASE]["broker.messages"].count_documents({"queue": "q"}) == 1


def test_what_a_publish_looks_up_has_its_time(
    replica_set: ReplicaSet, admin: MongoClient[Document], fail: Fail
) -> None:
    """The time of a publish, not only that of one call: an election takes longer than that."""
    options = {"database": DATABASE, "client_options": {"appname": APP, "timeoutMS": 1000}}
    with Connection(f"{SCHEME}+{replica_set.uri}", transport_options=options) as connection:
        producer = Producer(connection, routing_key="q")
        producer.publish("warm", routing_key="other")
        fail(["find"], blockConnection=True, blockTimeMS=2000)
        producer.publish("once")
    assert admin[DATABASE]["broker.messages"].count_documents({"queue": "q"}) == 1
    admin.drop_database(DATABASE)


def test_each_bound_queue_has_one_copy(
    connection: Connection, admin: MongoClient[Document], fail: Fail
) -> None:
    exchange = Exchange("all", type="fanout")
    names = ["copy1", "copy2", "copy3"]
    for name in names:
        Queue(name, exchange)(connection.default_channel).declare()
    producer = Producer(connection, exchange=exchange)
    fail(["insert"], times=2, **LOST_ANSWER)
    producer.publish("once", retry=True, retry_policy={"max_retries": 5})
    found = admin[DATABASE]["broker.messages"].find({"queue": {"$in": names}})
    assert sorted(document["queue"] for document in found) == names


def test_two_publishes_are_two_messages(
    connection: Connection, admin: MongoClient[Document]
) -> None:
    """Even if the second sends on the message that a consumer received, as a shovel does."""
    producer = Producer(connection, routing_key="q")
    producer.publish("twice", correlation_id="same")
    message = connection.default_channel.basic_get("q")
    producer.publish(message.payload, **message.properties)
    assert admin[DATABASE]["broker.messages"].count_documents({"queue": "q"}) == 2


def test_messages_keep_the_order_of_their_publishes(connection: Connection) -> None:
    with connection.SimpleQueue("order") as queue:
        for number in range(20):
            queue.put(number)
        assert [queue.get(timeout=30).payload for _ in range(20)] == list(range(20))
