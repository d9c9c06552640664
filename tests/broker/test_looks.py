"""When a consumer looks by itself: the change stream does not report what only becomes due.

The regular looks are put off for ever, so that each test shows what else causes one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kombu import Connection, Consumer, Queue
from kombu.asynchronous import Hub
from pymongo.errors import AutoReconnect

from taskyard.broker import transport
from taskyard.broker.broker import Broker
from taskyard.broker.messages import Messages
from tests.broker.celery_process import PATIENCE_SECONDS, wait
from tests.broker.conftest import OpenSite
from tests.broker.site import Site, drain

#: Serves a connection for a moment: as a blocking worker does, as a client that never waits does,
#: or as a worker with an event loop does.
Turn = Callable[[], None]

LEASE_SECONDS = 1.5
PREFETCH = 4


@pytest.fixture(autouse=True)
def never(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "LOOK_SECONDS", 10 * PATIENCE_SECONDS)


@pytest.fixture
def site(open_site: OpenSite) -> Site:
    return open_site(lease_seconds=10 * PATIENCE_SECONDS)


@pytest.fixture
def got() -> list[Any]:
    return []


@pytest.fixture
def consumer(connection: Connection, site: Site, got: list[Any]) -> Iterator[Consumer]:
    """A consumer that acknowledges what it gets."""
    with connection.Consumer([site.app.amqp.queues["celery"]], accept=["json"]) as made:
        made.on_message = answering(got)
        made.qos(prefetch_count=PREFETCH)
        yield made


@pytest.fixture(params=["blocking", "polling", "loop"])
def turn(
    request: pytest.FixtureRequest,
    connection: Connection,
    consumer: Consumer,
) -> Iterator[Turn]:
    """A way to serve the connection; the consumer has looked already, and found nothing."""
    watcher = connection.transport.broker.watcher
    wait(lambda: watcher.follows, lambda: watcher)
    if request.param != "loop":
        drain(connection)
        seconds = 0.05 if request.param == "blocking" else 0
        yield lambda: drain(connection, seconds)
        return
    hub = Hub()
    connection.transport.register_with_event_loop(connection.connection, hub)
    hub.call_repeatedly(0.05, lambda: None)
    loop = hub.create_loop()
    for _ in range(20):
        next(loop)
    yield lambda: next(loop)
    connection.transport.unregister_from_event_loop(connection.connection, hub)
    hub.close()


def answering(got: list[Any]) -> Callable[[Any], None]:
    def answer(message: Any) -> None:
        got.append(message)
        message.ack()

    return answer


def go_on(turn: Turn, until: Callable[[], bool]) -> None:
    ends = time.monotonic() + PATIENCE_SECONDS
    while not until():
        turn()
        assert time.monotonic() < ends


def test_a_message_for_later_comes_when_it_is_due(site: Site, turn: Turn, got: list[Any]) -> None:
    site.send("note", "later", countdown=0.5)
    go_on(turn, lambda: len(got) == 1)


@pytest.mark.parametrize("way", ["due later", "put back"])
def test_only_the_queue_that_has_something_is_claimed_from(
    connection: Connection,
    site: Site,
    consumer: Consumer,
    turn: Turn,
    got: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    way: str,
) -> None:
    """A worker of many queues would claim from all of them for each retry."""
    inbox = connection.transport.inbox
    for number in range(3):
        consumer.add_queue(Queue(f"other{number}"))
    consumer.consume()
    go_on(turn, lambda: not inbox.dirty)
    queues: set[str] = set()
    claim = Messages.claim

    def note(self: Messages, queue: str, limit: int, lease_ms: int) -> Any:
        queues.add(queue)
        return claim(self, queue, limit, lease_ms)

    monkeypatch.setattr(Messages, "claim", note)
    if way == "put back":

        def put_back(message: Any) -> None:
            consumer.on_message = answering(got)
            message.requeue()

        consumer.on_message = put_back
    site.send("note", "first", countdown=0.5 if way == "due later" else None)
    go_on(turn, lambda: len(got) == 1)
    # The change stream tells of this message after it has told of everything before.
    site.send("note", "last")
    go_on(turn, lambda: len(got) == 2 and not inbox.dirty)
    assert queues == {"celery"}


def test_what_expired_hides_nothing_that_becomes_due(
    site: Site, turn: Turn, got: list[Any]
) -> None:
    """The server deletes expired messages once a minute; until then nobody may claim them."""
    site.send("note", "expired", expiration=0.01)
    site.await_expiry()
    site.send("note", "later", countdown=0.5)
    go_on(turn, lambda: len(got) == 1)


def test_what_waits_for_room_hides_nothing_that_becomes_due(
    connection: Connection, site: Site, consumer: Consumer, turn: Turn, got: list[Any]
) -> None:
    """A consumer without room looks too, and finds what waits for room before what is due later."""
    held: list[Any] = []
    consumer.on_message = held.append
    for number in range(PREFETCH + 1):
        site.send("note", number)
    go_on(turn, lambda: len(held) == PREFETCH)
    transport, looked = connection.transport, connection.transport._look_at
    site.send("note", "later", countdown=0.5)
    go_on(turn, lambda: transport._look_at != looked)
    consumer.on_message = answering(got)
    for message in held:
        message.ack()
    go_on(turn, lambda: len(got) == 2)


def test_what_became_due_is_not_behind_what_is_newer(
    connection: Connection, site: Site, consumer: Consumer, turn: Turn, got: list[Any]
) -> None:
    """Under an endless backlog a retry would never run, nor the task of a killed worker."""
    held: list[Any] = []
    consumer.on_message = held.append
    consumer.qos(prefetch_count=1)
    site.send("note", "runs")
    go_on(turn, lambda: len(held) == 1)
    site.send("note", "later", countdown=0.5)
    for number in range(3):
        site.send("note", number)
    transport = connection.transport
    due_ms = transport.broker.messages.next_due_ms
    go_on(turn, lambda: due_ms(["celery"], within_ms=60_000) is None)
    transport._look()
    consumer.on_message = answering(got)
    held[0].ack()
    go_on(turn, lambda: len(got) == 4)
    assert got[0].payload[0] == ["later"]


def test_a_look_that_is_due_is_made_though_there_is_a_backlog(
    connection: Connection, site: Site, consumer: Consumer, got: list[Any]
) -> None:
    """On the blocking loop; on an event loop a timer has it made."""
    drain(connection)
    for number in range(3):
        site.send("note", number)
    connection.transport._look_at = time.monotonic()
    connection.drain_events(timeout=PATIENCE_SECONDS)
    assert len(got) == 1
    assert connection.transport._look_at > time.monotonic()


def test_who_is_given_more_room_gets_what_waits(
    site: Site, consumer: Consumer, turn: Turn, got: list[Any]
) -> None:
    """Such as a worker whose pool grows."""
    consumer.on_message = got.append
    for number in range(PREFETCH + 1):
        site.send("note", number)
    go_on(turn, lambda: len(got) == PREFETCH)
    turn()
    consumer.qos(prefetch_count=PREFETCH + 1)
    go_on(turn, lambda: len(got) == PREFETCH + 1)


def test_what_another_holds_comes_when_its_lease_ends(open_site: OpenSite, got: list[Any]) -> None:
    site = open_site(lease_seconds=LEASE_SECONDS)
    with (
        site.app.connection_for_read() as connection,
        connection.Consumer([site.app.amqp.queues["celery"]], accept=["json"]) as consumer,
    ):
        consumer.on_message = got.append
        drain(connection)
        broker = connection.transport.broker
        broker.watcher.unsubscribe(id(connection.transport))
        site.send("note", "held")
        # As by a consumer that died: nobody renews this lease.
        assert broker.messages.claim("celery", 1, broker.lease_ms)
        go_on(lambda: drain(connection, 0.05), lambda: len(got) == 1)


def test_without_a_stream_what_is_new_is_looked_for(
    connection: Connection, site: Site, got: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with connection.Consumer([site.app.amqp.queues["celery"]], accept=["json"]) as consumer:
        consumer.on_message = got.append
        watcher = connection.transport.broker.watcher
        wait(lambda: watcher.follows, lambda: watcher)
        watcher.unsubscribe(id(connection.transport))
        monkeypatch.setattr(watcher, "follows", False)
        drain(connection)
        site.send("note", "unseen")
        go_on(lambda: drain(connection, 0.05), lambda: len(got) == 1)


@pytest.mark.parametrize("fault", ["an error", "no primary"])
def test_a_claim_that_could_not_be_made_is_made_soon(
    connection: Connection,
    site: Site,
    turn: Turn,
    got: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
) -> None:
    missed: list[str] = []

    def fail(*_: object) -> bool:
        missed.append(fault)
        if fault == "an error":
            raise AutoReconnect
        return False

    owner, name = (Messages, "claim") if fault == "an error" else (Broker, "may_write")
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fail)
        site.send("note", "missed")
        go_on(turn, lambda: bool(missed))
    go_on(turn, lambda: len(got) == 1)


def test_what_was_claimed_ahead_goes_back_when_something_slow_came_in_between(
    connection: Connection, site: Site, consumer: Consumer, turn: Turn, got: list[Any]
) -> None:
    for number in range(200):
        site.send("note", number)
    intake = connection.transport.intake
    kept: list[Any] = []

    def keep_when_ahead(message: Any) -> None:
        if kept or ahead() > PREFETCH:
            kept.append(message)
        else:
            got.append(message)
            message.ack()

    def ahead() -> int:
        return sum(len(source.left) for source in intake._sources.values())

    consumer.on_message = keep_when_ahead
    go_on(turn, lambda: len(kept) == PREFETCH)
    assert intake.is_ahead
    go_on(turn, lambda: not intake.is_ahead)
    assert len(kept) == PREFETCH
    wait(lambda: sum(1 for m in site.messages() if m["lease"]) == PREFETCH, site.messages)
