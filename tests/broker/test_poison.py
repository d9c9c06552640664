"""Messages that nobody can handle become dead letters with the reason; none vanishes silently."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from kombu import Connection

from tests.broker.celery_process import wait
from tests.broker.site import Site, Worker


@pytest.fixture(scope="module")
def worker(site: Site) -> Worker:
    return site.start(concurrency=1, worker_prefetch_multiplier=4).await_ready()


@pytest.fixture
def buried(site: Site, worker: Worker) -> Callable[[], str]:
    """Return a function that waits for the next dead letter and returns its reason.

    It also checks that the worker still runs tasks.
    """
    site.database["broker.dead_letters"].delete_many({})

    def find() -> str:
        wait(site.dead_letters, lambda: (worker.log, site.messages()))
        (dead,) = site.dead_letters()
        site.send("note", f"after {dead['reason']}")
        wait(lambda: f"after {dead['reason']}" in site.told(), lambda: worker.log)
        site.await_empty()
        assert worker.process.poll() is None
        return str(dead["reason"])

    return find


def tamper(site: Site, change: Callable[[str], str]) -> None:
    """Publish a task whose stored payload is changed before the worker sees it."""
    messages = site.database["broker.messages"]
    site.send("note", "tampered", queue="elsewhere")
    (sent,) = messages.find({"queue": "elsewhere"})
    messages.delete_one({"_id": sent["_id"]})
    messages.insert_one({**sent, "queue": "celery", "payload": change(sent["payload"])})


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b"{no json"),
        # An error that quotes this body is too long for a document.
        pytest.param("application/json", b"\xff" * 3_000_000, id="megabytes"),
        ("application/x-python-serialize", b"not accepted"),
        ("application/x-of-nobody", b"unknown"),
    ],
)
def test_a_body_that_cannot_be_decoded(
    site: Site, buried: Callable[[], str], content_type: str, body: bytes
) -> None:
    with site.app.connection_for_write() as connection, connection.SimpleQueue("celery") as queue:
        queue.producer.publish(
            body,
            content_type=content_type,
            content_encoding="utf-8",
            headers={"task": "note", "id": "poison", "lang": "py", "argsrepr": ""},
        )
    assert "cannot be decoded" in buried()


@pytest.mark.parametrize(
    "payload",
    [
        "{no json",
        "[]",
        '"text"',
        "{}",
        '{"properties": null}',
        '{"properties": {}, "headers": "text"}',
    ],
)
def test_an_envelope_that_is_none(site: Site, buried: Callable[[], str], payload: str) -> None:
    tamper(site, lambda _: payload)
    assert "is no message" in buried()


def test_a_body_that_is_no_base64(site: Site, buried: Callable[[], str]) -> None:
    tamper(site, lambda sent: json.dumps({**json.loads(sent), "body": "A"}))
    assert "is no message" in buried()


def test_a_message_that_is_no_task(site: Site, buried: Callable[[], str]) -> None:
    with site.app.connection_for_write() as connection, connection.SimpleQueue("celery") as queue:
        queue.put({"hello": "world"})
    assert buried() == "rejected"


def test_a_task_that_no_worker_knows(site: Site, buried: Callable[[], str]) -> None:
    """Redis and AMQP drop it; here it stays a dead letter, to be sent again when one knows it."""
    site.send("nobody.knows")
    assert buried() == "rejected"


def test_a_task_that_kills_its_process_each_time(site: Site, buried: Callable[[], str]) -> None:
    site.send("die", "deadly")
    assert "delivered 5 times" in buried()
    assert site.runs("deadly") == {"deadly": 5}


def test_a_task_whose_process_is_killed_once_runs_again(site: Site, worker: Worker) -> None:
    site.send("die_once", "hurt")
    wait(lambda: "hurt" in site.told("end"), lambda: worker.log)
    site.await_empty()
    assert site.runs("hurt") == {"hurt": 2}


def test_a_dead_letter_carries_the_message(site: Site, buried: Callable[[], str]) -> None:
    """When the cause is repaired, the message can be sent again."""
    identity = site.send("nobody.knows", "argument")
    buried()
    (dead,) = site.dead_letters()
    assert json.loads(dead["payload"])["headers"]["id"] == identity
    assert dead["queue"] == "celery"
    assert dead["diedAt"]
    assert isinstance(site.app.connection_for_read(), Connection)
