"""How many messages a connection claims, by room and pace; undelivered ones are given back."""

from __future__ import annotations

from typing import Any

import pytest
from bson import ObjectId
from kombu import Connection, Consumer, Queue
from pymongo.collection import Collection

from taskyard.broker import intake
from taskyard.broker.messages import Messages
from tests.broker.celery_process import wait
from tests.broker.site import Site, drain

PREFETCH = 4


@pytest.fixture
def queue(connection: Connection, request: pytest.FixtureRequest) -> Queue:
    """A queue of the test's own."""
    made = Queue(request.node.name)
    made(connection.default_channel).declare()
    return made


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The limit of each claim, in order."""
    asked: list[int] = []
    claim = Messages.claim

    def note(self: Messages, queue: str, limit: int, lease_ms: int) -> Any:
        asked.append(limit)
        return claim(self, queue, limit, lease_ms)

    monkeypatch.setattr(Messages, "claim", note)
    return asked


def publish(connection: Connection, queue: Queue, count: int) -> None:
    with connection.channel() as channel:
        producer = connection.Producer(channel)
        for number in range(count):
            producer.publish(number, routing_key=queue.name)


def held(site: Site, queue: Queue) -> int:
    return sum(1 for m in site.messages() if m["queue"] == queue.name and m["lease"])


def consume(connection: Connection, queue: Queue, answer: bool) -> tuple[Consumer, list[Any]]:
    got: list[Any] = []

    def take(body: Any, message: Any) -> None:
        got.append(body)
        if answer:
            message.ack()

    consumer = Consumer(connection, [queue], callbacks=[take], prefetch_count=PREFETCH)
    consumer.consume()
    return consumer, got


def test_who_answers_fast_claims_many_at_once(
    connection: Connection, queue: Queue, limits: list[int]
) -> None:
    publish(connection, queue, 300)
    _, got = consume(connection, queue, answer=True)
    while len(got) < 300:
        connection.drain_events(timeout=10)
    assert got == list(range(300))
    assert max(limits) <= intake.BATCH
    assert len(limits) < 300 / PREFETCH / 2


def test_who_does_not_answer_holds_no_more_than_it_may(
    connection: Connection, site: Site, queue: Queue
) -> None:
    publish(connection, queue, 20)
    _, got = consume(connection, queue, answer=False)
    drain(connection, 0.3)
    assert len(got) == held(site, queue) == PREFETCH


def test_what_was_claimed_ahead_of_something_slow_goes_back(
    connection: Connection, site: Site, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(connection, queue, 200)
    consumer, got = consume(connection, queue, answer=True)
    while len(got) < 50 or held(site, queue) <= PREFETCH:
        connection.drain_events(timeout=10)
    kept: list[Any] = []
    consumer.callbacks[:] = [lambda body, message: kept.append(message)]
    monkeypatch.setattr("taskyard.broker.transport.KEPT_SECONDS", 0.0)
    drain(connection, 1.5)
    wait(lambda: held(site, queue) == PREFETCH, site.messages)
    assert len(kept) == PREFETCH
    unseen = [m for m in site.messages() if m["queue"] == queue.name and not m["lease"]]
    assert {m["deliveries"] for m in unseen} == {0}


def test_one_new_message_is_claimed_alone_and_the_rest_is_looked_at_when_it_was_another(
    connection: Connection, queue: Queue, limits: list[int]
) -> None:
    """The other one may be older: it may have become due, which the stream does not report."""
    _, got = consume(connection, queue, answer=True)
    with pytest.raises(TimeoutError):
        connection.drain_events(timeout=0.3)
    limits.clear()
    connection.transport.broker.watcher.unsubscribe(id(connection.transport))
    publish(connection, queue, 2)
    connection.transport.inbox.wake(queue.name, ObjectId())
    connection.drain_events(timeout=0.5)
    assert (got, limits) == ([0], [1])
    connection.drain_events(timeout=0.5)
    assert got == [0, 1]


def test_who_loses_a_race_for_the_first_looks_for_the_next_at_once(
    connection: Connection, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream does not report messages that already wait."""
    _, got = consume(connection, queue, answer=True)
    with pytest.raises(TimeoutError):
        connection.drain_events(timeout=0.3)
    broker = connection.transport.broker
    broker.watcher.unsubscribe(id(connection.transport))
    publish(connection, queue, 2 * PREFETCH)
    stamp = Collection.update_many

    def be_late(*arguments: Any, **options: Any) -> Any:
        monkeypatch.undo()
        assert len(broker.messages.claim(queue.name, PREFETCH, 10_000)) == PREFETCH
        return stamp(*arguments, **options)

    monkeypatch.setattr(Collection, "update_many", be_late)
    connection.transport.inbox.wake(queue.name)
    connection.drain_events(timeout=1)
    assert got == [PREFETCH]
