"""Queues that live as long as somebody reads them: remote control, replies, broadcasts."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from kombu import Connection, Consumer, Exchange, Queue
from kombu.common import Broadcast

from tests.broker.celery_process import wait
from tests.broker.site import Document, Site


@pytest.fixture
def connection(site: Site) -> Iterator[Connection]:
    with site.app.connection_for_write() as opened:
        yield opened


def expiring(name: str) -> Queue:
    """Return a queue like the one that Celery declares for a worker's remote control."""
    return Queue(name, Exchange(name, type="fanout"), expires=10)


def documents(site: Site, queue: str) -> list[Document]:
    """Return what is stored of the queue and its bindings."""
    return [
        *site.database["broker.queues"].find({"_id": queue}),
        *site.database["broker.bindings"].find({"queue": queue}),
    ]


def send(connection: Connection, queue: Queue, body: Any) -> None:
    with connection.Producer() as producer:
        producer.publish(body, exchange=queue.exchange, declare=[queue.exchange])


def test_a_reader_that_was_paused_beyond_the_expiry_hears_again(
    connection: Connection, site: Site
) -> None:
    """A worker must not stay deaf to remote control after a long outage."""
    queue = expiring("paused")
    got: list[Any] = []
    consumer = Consumer(connection, [queue], callbacks=[lambda body, _: got.append(body)])
    consumer.consume()
    # As the server does with expired documents.
    site.database["broker.queues"].delete_one({"_id": queue.name})
    site.database["broker.bindings"].delete_many({"queue": queue.name})
    wait(lambda: len(documents(site, queue.name)) == 2, lambda: documents(site, queue.name))
    with connection.clone() as other:
        send(other, queue, "hello")
    connection.drain_events(timeout=10)
    assert got == ["hello"]


def test_a_deleted_queue_does_not_come_back(connection: Connection, site: Site) -> None:
    queue, other = expiring("deleted"), expiring("kept")
    Consumer(connection, [queue, other], on_message=lambda _: None).consume()
    connection.default_channel.queue_delete(queue.name)
    site.database["broker.queues"].delete_one({"_id": other.name})
    wait(lambda: len(documents(site, other.name)) == 2, lambda: documents(site, other.name))
    assert not documents(site, queue.name)


def test_a_queue_that_goes_with_its_reader_does_so_when_the_reader_is_killed(
    connection: Connection, site: Site
) -> None:
    """Otherwise each broadcast would be copied to it for ever."""
    queue = Broadcast("broadcast", queue="broadcast.of.one")
    bound = queue(connection.default_channel)
    bound.declare()
    assert not any("expireAt" in stored for stored in documents(site, bound.name))
    with Consumer(connection, [queue], on_message=lambda _: None):
        pass  # it is gone again at once
    assert ["expireAt" in stored for stored in documents(site, bound.name)] == [True, True]
    bound.declare()
    assert ["expireAt" in stored for stored in documents(site, bound.name)] == [True, True]


def test_a_queue_that_is_declared_not_to_expire_stays(connection: Connection, site: Site) -> None:
    """Even if it was declared to expire before."""
    queue = expiring("stays")
    queue(connection.default_channel).declare()
    queue.expires = None
    queue(connection.default_channel).declare()
    assert ["expireAt" in stored for stored in documents(site, queue.name)] == [False, False]


def test_a_queue_that_expired_is_bound_again_by_another_channel_of_the_connection(
    connection: Connection, site: Site
) -> None:
    queue = expiring("rebound")
    queue(connection.default_channel).declare()
    site.database["broker.queues"].delete_one({"_id": queue.name})
    site.database["broker.bindings"].delete_many({"queue": queue.name})
    queue(connection.channel()).declare()
    assert len(documents(site, queue.name)) == 2


def test_what_nobody_reads_in_an_expired_queue_is_collected(
    connection: Connection, site: Site
) -> None:
    """Such as an answer that came after the client that asked had left."""
    queue = expiring("late")
    Consumer(connection, [queue], on_message=lambda _: None).consume()
    send(connection, queue, "too late")
    (message,) = site.database["broker.messages"].find({"queue": queue.name})
    assert message["expireAt"] < datetime.now(UTC) + timedelta(days=2)


def test_messages_live_no_longer_than_their_queue_says(connection: Connection, site: Site) -> None:
    """Celery uses this for events and control commands."""
    queue = Queue("short", Exchange("short", type="fanout"), message_ttl=0.001)
    queue(connection.default_channel).declare()
    send(connection, queue, "too old")
    got: list[Any] = []
    with Consumer(connection, [queue], on_message=got.append), pytest.raises(TimeoutError):
        connection.drain_events(timeout=0.2)
    assert not got


@pytest.mark.parametrize("name", ["x-expires", "x-message-ttl"])
@pytest.mark.parametrize("value", ["60000", True])
def test_a_time_that_is_no_number_is_refused_by_its_name(
    site: Site, name: str, value: object
) -> None:
    """It may come from the environment, and other brokers pass over it."""
    queue = Queue("of no number", queue_arguments={name: value})
    with (
        site.app.connection_for_write() as connection,
        pytest.raises(ValueError, match=f"of no number.*{name}"),
    ):
        queue(connection.default_channel).declare()
