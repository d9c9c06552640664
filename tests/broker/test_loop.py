"""The transport on an event loop of kombu's, without a worker around it."""

from __future__ import annotations

import select
from collections.abc import Iterator

import pytest
from kombu import Connection
from kombu.asynchronous import Hub

from tests.broker.site import Site


@pytest.fixture
def connection(site: Site) -> Iterator[Connection]:
    with site.app.connection_for_read() as opened:
        yield opened


def test_a_delivery_wakes_the_loop_once_more(connection: Connection, site: Site) -> None:
    """A prefork pool writes to its processes at the turn after: it must not wait for a poll."""
    got: list[object] = []
    site.send("note", "one")
    hub = Hub()
    consumer = connection.Consumer([site.app.amqp.queues["celery"]], accept=["json"])
    consumer.on_message = got.append
    consumer.qos(prefetch_count=4)
    consumer.consume()
    transport = connection.transport
    transport.register_with_event_loop(connection.connection, hub)
    transport.inbox.hear()
    for tick in hub.on_tick:
        tick()
    assert len(got) == 1
    readable, _, _ = select.select([transport.inbox.fileno()], [], [], 0)
    assert readable
    transport.unregister_from_event_loop(connection.connection, hub)
    hub.close()
