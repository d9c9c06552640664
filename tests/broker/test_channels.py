"""Kombu's own interface without Celery: several channels, queues, fan-out."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from kombu import Connection, Consumer, Exchange, Queue, binding
from kombu.common import Broadcast
from kombu.exceptions import ChannelError
from pymongo.errors import AutoReconnect

from taskyard.broker import declaring
from taskyard.broker.messages import Messages
from tests.broker.celery_process import wait
from tests.broker.site import Site, drain

Body = Any


@pytest.fixture
def connection(site: Site) -> Iterator[Connection]:
    with connect(site) as opened:
        yield opened


def connect(site: Site) -> Connection:
    return site.app.connection_for_write()


@pytest.fixture
def queue(request: pytest.FixtureRequest) -> Queue:
    name = request.node.name
    return Queue(name, Exchange(name), routing_key=name)


def publish(connection: Connection, queue: Queue, *bodies: Body, **options: Any) -> None:
    with connection.Producer(auto_declare=False) as producer:
        for body in bodies:
            producer.publish(
                body,
                exchange=queue.exchange,
                routing_key=queue.routing_key,
                declare=[queue],
                **options,
            )


def test_two_channels_share_a_queue_and_the_other_goes_on_when_one_stops(
    connection: Connection, site: Site, queue: Queue
) -> None:
    got: dict[str, list[Body]] = {"first": [], "second": []}

    def consumer(name: str) -> Consumer:
        def take(body: Body, message: Any) -> None:
            got[name].append(body)
            message.ack()

        return Consumer(connection.channel(), [queue], callbacks=[take], prefetch_count=1)

    first, second = consumer("first"), consumer("second")
    first.consume()
    second.consume()
    publish(connection, queue, *range(10))
    drain(connection)
    assert sorted(got["first"] + got["second"]) == list(range(10))
    second.cancel()
    publish(connection, queue, "more")
    drain(connection)
    assert "more" in got["first"]
    wait(lambda: not messages(site, queue), site.messages)


def test_a_channel_gets_no_more_than_its_own_prefetch(connection: Connection, queue: Queue) -> None:
    """Even if another channel with a higher limit consumes the same queue."""
    got: dict[int, list[Any]] = {1: [], 2: []}
    consumers = []
    for limit in got:
        channel = connection.channel()
        one = Consumer(channel, [queue], on_message=got[limit].append, prefetch_count=limit)
        one.consume()
        consumers.append(one)
    publish(connection, queue, *range(10))
    drain(connection)
    assert {limit: len(messages) for limit, messages in got.items()} == {1: 1, 2: 2}


def messages(site: Site, queue: Queue) -> list[Any]:
    return list(site.database["broker.messages"].find({"queue": queue.name}))


def test_two_consumers_on_one_channel_take_turns(connection: Connection, queue: Queue) -> None:
    got: dict[str, list[Body]] = {"a": [], "b": []}
    channel = connection.channel()
    a = Consumer(channel, [queue], on_message=got["a"].append, no_ack=True, tag_prefix="a")
    b = Consumer(channel, [queue], on_message=got["b"].append, no_ack=True, tag_prefix="b")
    a.consume()
    b.consume()
    publish(connection, queue, *range(10))
    drain(connection)
    assert len(got["a"]) == len(got["b"]) == 5
    a.cancel()
    publish(connection, queue, "more")
    drain(connection)
    assert got["b"][-1].payload == "more"


def test_an_acknowledgement_after_its_channel_was_closed_counts(
    connection: Connection, site: Site, queue: Queue
) -> None:
    channel = connection.channel()
    got: list[Any] = []
    with Consumer(channel, [queue], on_message=got.append):
        publish(connection, queue, "one", "two")
        drain(connection)
    channel.close()
    got[0].ack()
    wait(lambda: len(messages(site, queue)) == 1, lambda: messages(site, queue))
    del got[:]
    wait(lambda: queue_length(connection, queue) == 1, lambda: messages(site, queue))
    (returned,) = messages(site, queue)
    assert returned["deliveries"] == 0


def queue_length(connection: Connection, queue: Queue) -> int:
    declared = connection.default_channel.queue_declare(queue.name, passive=True)
    return int(declared.message_count)


def test_a_backlog_does_not_hold_up_who_declares_its_queue(
    connection: Connection, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(declaring, "COUNTED", 3)
    publish(connection, queue, *range(5))
    declared = connection.default_channel.queue_declare(queue.name)
    assert (declared.queue, declared.message_count) == (queue.name, 3)
    assert queue_length(connection, queue) == 5


def test_a_queue_that_is_declared_without_a_name_gets_one(connection: Connection) -> None:
    first, second = (connection.default_channel.queue_declare().queue for _ in range(2))
    assert first != second
    assert {first[:8], second[:8]} == {"amq.gen-"}


def test_a_simple_queue_puts_gets_counts_and_clears(connection: Connection, queue: Queue) -> None:
    with connection.SimpleQueue(queue.name) as simple:
        for number in range(5):
            simple.put({"number": number})
        assert len(simple) == 5
        first = simple.get(timeout=5)
        assert first.payload == {"number": 0}
        first.ack()
        simple.get(timeout=5).requeue()
        wait(lambda: len(simple) == 4, lambda: len(simple))
        assert simple.get_nowait().payload == {"number": 1}
        assert simple.clear() == 3
        with pytest.raises(simple.Empty):
            simple.get(block=False)


@pytest.mark.parametrize("requeue", ["requeue", "reject"])
def test_what_was_put_back_is_there_at_the_next_look(
    connection: Connection, queue: Queue, requeue: str
) -> None:
    """At once and each time, although answers that follow each other closely are gathered."""
    with connection.SimpleQueue(queue.name) as simple:
        for number in range(5):
            simple.put(number)
            first = simple.get_nowait()
            first.requeue() if requeue == "requeue" else first.reject(requeue=True)
            assert len(simple) == 1
            again = simple.get_nowait()
            assert (again.payload, again.delivery_info["redelivered"]) == (number, True)
            again.ack()


def test_a_consumer_finds_what_its_channel_put_back(connection: Connection, queue: Queue) -> None:
    """In its old place: before the messages that were behind it."""
    publish(connection, queue, 0, 1, 2)
    channel = connection.channel()
    bound = queue(channel)
    for message in [bound.get() for _ in range(2)]:
        message.requeue()
    got: list[Body] = []
    consumer = Consumer(channel, [bound], on_message=lambda message: got.append(message.payload))
    with consumer:
        connection.drain_events(timeout=10)
    assert got == [0]


def test_a_reader_that_leaves_loses_nothing_it_has_not_seen(
    connection: Connection, queue: Queue
) -> None:
    """Even with ``no_ack``: other readers get the messages that it had claimed ahead."""
    publish(connection, queue, *range(5))
    with connection.clone() as other, other.SimpleQueue(queue, no_ack=True) as simple:
        assert simple.get(timeout=5).payload == 0
    wait(lambda: queue_length(connection, queue) == 4, lambda: queue_length(connection, queue))


def test_a_deleted_queue_is_gone_with_its_messages(
    connection: Connection, site: Site, queue: Queue
) -> None:
    publish(connection, queue, "one")
    assert queue_length(connection, queue) == 1
    connection.default_channel.queue_delete(queue.name)
    assert not messages(site, queue)
    with pytest.raises(ChannelError):
        queue_length(connection, queue)
    with connection.Producer(auto_declare=False) as producer:
        producer.publish("two", exchange=queue.exchange, routing_key=queue.routing_key)
    assert not messages(site, queue)


def test_what_another_bound_or_unbound_a_moment_ago_counts(
    connection: Connection, site: Site, queue: Queue
) -> None:
    exchange = Exchange(queue.name, type="topic")
    first, second = (Queue(f"{queue.name}.{n}", exchange, routing_key="news.#") for n in (1, 2))

    def news(body: Body) -> None:
        with connection.Producer(auto_declare=False) as producer:
            producer.publish(body, exchange=exchange, routing_key="news.today")

    first(connection.default_channel).declare()
    news("one")
    with connect(site) as other:
        bound = second(other.default_channel)
        bound.declare()
        news("two")
        bound.unbind_from(exchange, routing_key="news.#")
        news("three")
    assert (queue_length(connection, first), queue_length(connection, second)) == (3, 1)


def test_an_exchange_that_is_deleted_leaves_the_queues_of_others(
    connection: Connection, site: Site, queue: Queue
) -> None:
    exchanges = [Exchange(f"{queue.name}.{n}") for n in (1, 2)]
    both = Queue(queue.name, [binding(exchange, "key") for exchange in exchanges])
    both(connection.default_channel).declare()
    with connect(site) as other, other.Producer() as producer:
        exchanges[0](producer.channel).delete()
        for exchange in exchanges:
            producer.publish(exchange.name, exchange=exchange, routing_key="key")
    (left,) = messages(site, queue)
    assert exchanges[1].name in left["payload"]


@pytest.mark.parametrize("body", ["", b""])
def test_an_empty_body_arrives_as_from_other_transports(
    connection: Connection, queue: Queue, body: Body
) -> None:
    arrived = []
    with Connection("memory://") as other:
        for each in (connection, other):
            publish(each, queue, body, content_type="text/plain", content_encoding="utf-8")
            message = queue(each.default_channel).get(accept=["text/plain"])
            arrived.append((message.body, message.payload))
    assert arrived[0] == arrived[1]


def test_a_get_gives_back_what_else_a_claim_took_without_being_told(
    connection: Connection, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(*_: object) -> None:
        raise AutoReconnect

    publish(connection, queue, 0, 1, 2)
    broker = connection.transport.broker
    with monkeypatch.context() as patch:
        patch.setattr(Messages, "_taken", lose)
        with pytest.raises(AutoReconnect):
            broker.messages.claim(queue.name, 3, broker.lease_ms)
    bound = queue(connection.default_channel)
    assert [bound.get().payload for _ in range(3)] == [0, 1, 2]


def test_only_a_task_is_held_or_dropped_by_its_headers(
    connection: Connection, site: Site, queue: Queue
) -> None:
    """In other messages these headers may mean anything, such as HTTP's ``Expires``."""
    past, future = "2001-01-01T00:00:00+00:00", "2999-01-01T00:00:00+00:00"
    publish(connection, queue, "any", headers={"expires": past, "eta": future})
    assert queue(connection.default_channel).get(no_ack=True).payload == "any"
    site.send("note", "expired", queue=queue.name, expires=datetime.fromisoformat(past))
    site.send("note", "later", queue=queue.name, eta=datetime.fromisoformat(future))
    assert queue(connection.default_channel).get() is None


def test_a_connection_that_is_closed_is_told_nothing_more(site: Site, queue: Queue) -> None:
    with connect(site) as connection:
        for _ in range(2):
            Consumer(connection.channel(), [queue], on_message=lambda _: None).consume()
        transport = connection.transport
        wakes = transport.broker.watcher._wakes
        assert id(transport) in wakes
    assert id(transport) not in wakes


def test_what_is_known_of_a_queue_goes_with_it(connection: Connection, queue: Queue) -> None:
    """A remote control client has a queue for each answer, and may live for months."""
    channel = connection.channel()
    with Consumer(channel, [queue], on_message=lambda _: None):
        publish(connection, queue, "one")
    channel.queue_delete(queue.name)
    known = [channel._options, channel._bindings, channel._ttls, channel._callbacks]
    assert not any(queue.name in names for names in known)


def test_of_what_nobody_answers_nothing_is_kept(connection: Connection, queue: Queue) -> None:
    """Workers read remote control and monitors read events with ``no_ack``, for months."""
    failed: list[Any] = []
    consumer = Consumer(connection.channel(), [queue], no_ack=True, callbacks=[failed.append])
    consumer.on_decode_error = lambda message, error: failed.append(error)
    consumer.consume()
    publish(
        connection, queue, b"{no json", content_type="application/json", content_encoding="utf-8"
    )
    drain(connection)
    assert len(failed) == 1
    assert consumer.channel.qos.undecodable == {}


def test_of_an_answer_that_nobody_waits_for_nothing_is_kept(
    connection: Connection, queue: Queue
) -> None:
    """A worker acknowledges every task, even those of a ``Queue(no_ack=True)``."""
    got: list[Body] = []
    quick = Queue(queue.name, queue.exchange, queue.routing_key, no_ack=True)

    def take(body: Body, message: Any) -> None:
        got.append(body)
        message.ack()

    with Consumer(connection.channel(), [quick], callbacks=[take]) as consumer:
        publish(connection, queue, *range(5))
        drain(connection)
        assert got == [*range(5)]
        assert not consumer.channel.qos._dirty


def test_of_exchanges_a_bounded_number_is_known(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(declaring, "_KNOWN", 3)
    channel = connection.default_channel
    for number in range(10):
        channel.typeof(f"of nobody {number}")
    assert len(channel._kinds) <= 3


def test_a_queue_that_is_unbound_gets_no_more(connection: Connection, queue: Queue) -> None:
    """Even from a publisher that had used the binding, and if another channel removed it."""
    publish(connection, queue, "one")
    exchange, key = queue.exchange.name, queue.routing_key
    connection.channel().queue_unbind(queue.name, exchange, key)
    with connection.Producer(auto_declare=False) as producer:
        producer.publish("two", exchange=exchange, routing_key=key)
    assert queue_length(connection, queue) == 1


def test_who_only_looks_changes_nothing(connection: Connection, site: Site, queue: Queue) -> None:
    queue.message_ttl = 60
    publish(connection, queue, "one")
    assert queue_length(connection, queue) == 1
    declared = site.database["broker.queues"].find_one({"_id": queue.name})
    assert declared == {"_id": queue.name, "messageTtlMs": 60_000}


def test_a_queue_in_use_or_not_empty_is_kept_when_so_asked(
    connection: Connection, queue: Queue
) -> None:
    channel = connection.channel()
    with Consumer(channel, [queue], on_message=lambda _: None):
        connection.default_channel.queue_delete(queue.name, if_unused=True)
        assert queue_length(connection, queue) == 0
    publish(connection, queue, "one")
    connection.default_channel.queue_delete(queue.name, if_empty=True)
    assert queue_length(connection, queue) == 1


def test_length_and_purge_know_what_came_back_and_what_expired(
    connection: Connection, site: Site, queue: Queue
) -> None:
    publish(connection, queue, "of the dead", "of the dead too", "waits")
    publish(connection, queue, "expired", expiration=0.001)
    died = [{"$set": {"lease": "ended", "visibleAt": {"$subtract": ["$$NOW", 1]}}}]
    stored = site.database["broker.messages"]
    for message in messages(site, queue)[:2]:
        stored.update_one({"_id": message["_id"]}, died)
    wait(lambda: queue_length(connection, queue) == 3, lambda: messages(site, queue))
    assert connection.default_channel.queue_purge(queue.name) == 3
    assert queue_length(connection, queue) == 0


def test_broadcast_reaches_each_of_its_queues(site: Site, queue: Queue) -> None:
    got: list[tuple[int, Body]] = []
    with connect(site) as one, connect(site) as two:
        consumers = [
            Consumer(
                connection,
                [Broadcast(queue.name, unique=True)],
                callbacks=[lambda body, _, number=number: got.append((number, body))],
                no_ack=True,
            )
            for number, connection in enumerate((one, two))
        ]
        for consumer in consumers:
            consumer.consume()
        exchange = Exchange(queue.name, type="fanout")
        with one.Producer() as producer:
            producer.publish("hello", exchange=exchange, declare=[exchange])
        drain(one)
        drain(two)
    assert sorted(got) == [(0, "hello"), (1, "hello")]


@pytest.mark.parametrize(
    ("kind", "bound", "key"), [("fanout", "", "any"), ("topic", "news.*", "news.today")]
)
def test_who_publishes_need_not_say_of_what_kind_the_exchange_is(
    site: Site, queue: Queue, kind: str, bound: str, key: str
) -> None:
    """Celery does not for a ``Broadcast`` queue: its tasks used to reach nobody."""
    got: list[Body] = []
    with connect(site) as reader, connect(site) as writer:
        bound_queue = Queue(
            f"{queue.name}.reader",
            Exchange(queue.name, type=kind),
            routing_key=bound,
            auto_delete=True,
        )
        with writer.Producer() as producer:
            producer.publish("nobody reads yet", exchange=queue.name, routing_key=key)
            consumer = Consumer(
                reader,
                [bound_queue],
                callbacks=[lambda body, _: got.append(body)],
                no_ack=True,
            )
            consumer.consume()
            producer.publish("hello", exchange=queue.name, routing_key=key)
        drain(reader)
    assert got == ["hello"]


def test_a_queue_bound_when_the_exchange_was_of_another_kind_gets_what_its_key_says(
    site: Site, queue: Queue
) -> None:
    """A project has made an exchange a topic, and some of its workers still run the old code."""
    before, after = (Exchange(queue.name, type=kind) for kind in ("direct", "topic"))
    bound = Queue(f"{queue.name}.old", before, routing_key="a.*")
    with connect(site) as old, connect(site) as new:
        bound(old.default_channel).declare()
        with new.Producer() as producer:
            for key in ("b.c", "a.b"):
                producer.publish(key, exchange=after, routing_key=key, declare=[after])
        got = [message.payload for message in iter(bound(old.default_channel).get, None)]
    assert got == ["a.b"]


def test_a_paused_reader_of_a_fanout_loses_nothing(site: Site, queue: Queue) -> None:
    exchange = Exchange(queue.name, type="fanout")
    got: list[Body] = []
    with connect(site) as reader, connect(site) as writer:
        bound = Queue(f"{queue.name}.reader", exchange, auto_delete=True)
        consumer = Consumer(
            reader, [bound], callbacks=[lambda body, _: got.append(body)], no_ack=True
        )
        consumer.consume()
        with writer.Producer() as producer:
            for number in range(1000):
                producer.publish(
                    {"number": number, "padding": "x" * 1000},
                    exchange=exchange,
                    declare=[exchange] if not number else [],
                    delivery_mode="transient",
                )
        drain(reader, 1)
    assert [body["number"] for body in got] == list(range(1000))


def test_nothing_to_read_ends_in_time(connection: Connection, queue: Queue) -> None:
    with Consumer(connection, [queue], on_message=lambda _: None), pytest.raises(socket.timeout):
        connection.drain_events(timeout=0.05)
