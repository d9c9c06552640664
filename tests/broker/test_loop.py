"""The transport on kombu's event loop, without a worker around it."""

from __future__ import annotations

from kombu import Connection
from kombu.asynchronous import Hub

from tests.broker.site import Site


def test_a_message_is_delivered_when_the_bell_is_heard_and_not_on_a_tick(
    connection: Connection, site: Site
) -> None:
    """On a tick it might come after the prefork pool's turn, and wait for a whole poll."""
    got: list[object] = []
    site.send("note", "one")
    hub = Hub()
    consumer = connection.Consumer([site.app.amqp.queues["celery"]], accept=["json"])
    consumer.on_message = got.append
    consumer.qos(prefetch_count=4)
    consumer.consume()
    transport = connection.transport
    transport.register_with_event_loop(connection.connection, hub)
    for tick in hub.on_tick:
        tick()
    assert not got
    heard, arguments = hub.readers[transport.inbox.fileno()]
    heard(*arguments)
    assert len(got) == 1
    transport.unregister_from_event_loop(connection.connection, hub)
    hub.close()


def test_the_next_look_is_when_the_next_message_becomes_due(
    connection: Connection, site: Site
) -> None:
    """That a message becomes due is no change that the stream could report."""
    consumer = connection.Consumer([site.app.amqp.queues["celery"]], accept=["json"])
    consumer.on_message = lambda message: message.ack()
    site.app.control.purge()
    consumer.consume()
    intake = connection.transport.intake
    assert intake.look(100.0) == 100.0
    site.send("note", "later", countdown=6000)
    assert intake.look(100.0) == 100.0
    site.send("note", "soon", countdown=70)
    assert intake.look(100.0) < 70
    site.send("note", "sooner", countdown=30, priority=0)
    assert 0 < intake.look(100.0) < 30
    consumer.cancel()
    site.app.control.purge()
