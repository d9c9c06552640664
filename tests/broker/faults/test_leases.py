"""The deliveries that a process holds, while the writes about them fail."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest
from pymongo import MongoClient
from pymongo.database import Database

from taskyard.broker.deliveries import Claimed
from taskyard.broker.leases import Leases
from taskyard.broker.messages import Messages
from tests.broker.faults.conftest import DATABASE, Document, Fail
from tests.helpers import empty, eventually

LEASE_SECONDS = 9

#: An error after which the driver does not try again.
TIME_LIMIT = {"errorCode": 50}


@pytest.fixture
def messages(database: Database[Document], admin: MongoClient[Document]) -> Messages:
    empty(admin[DATABASE])
    return Messages(database, "broker")


@pytest.fixture
def claimed(messages: Messages) -> Claimed:
    messages.publish("q", "hello")
    (one,) = messages.claim("q", 1, LEASE_SECONDS * 1000)
    return one


@pytest.fixture
def leases(messages: Messages, claimed: Claimed) -> Iterator[Leases]:
    started = Leases(messages, LEASE_SECONDS)
    started.hold([claimed.delivery])
    yield started
    started.acknowledge(claimed.delivery)
    # Not until it is no longer held: it may be buried already, and then the thread would try to
    # write this answer through a client that is closed, for the rest of the run.
    started.flush(30)
    assert not started._held


@pytest.fixture
def there(admin: MongoClient[Document]) -> Callable[[], list[Document]]:
    return lambda: list(admin[DATABASE]["broker.messages"].find())


@pytest.mark.parametrize("command", ["find", "update", "delete"])
def test_a_burial_that_fails_is_made_later(
    leases: Leases,
    claimed: Claimed,
    fail: Fail,
    admin: MongoClient[Document],
    there: Callable[[], list[Document]],
    command: str,
) -> None:
    """Such a message used to be held for ever: neither buried nor delivered to anybody else."""
    fail([command], times=2, **TIME_LIMIT)
    leases.bury(claimed.delivery, "rejected")
    eventually(lambda: not there(), 30)
    (dead,) = admin[DATABASE]["broker.dead_letters"].find()
    assert (dead["payload"], dead["reason"]) == ("hello", "rejected")


def test_a_renewal_that_fails_is_made_again_before_the_lease_is_over(
    leases: Leases,
    claimed: Claimed,
    fail: Fail,
    messages: Messages,
    there: Callable[[], list[Document]],
) -> None:
    (before,) = there()
    fail(["update"], times=3, **TIME_LIMIT)

    def renewed() -> bool:
        assert messages.claim("q", 1, 1000) == [], "somebody else has it"
        return bool(there()[0]["visibleAt"] > before["visibleAt"])

    eventually(renewed, 30)
    assert there()[0]["lease"] == claimed.delivery.lease


@pytest.mark.parametrize("answer", ["acknowledge", "release", "give_back", "bury"])
def test_a_lost_delivery_is_forgotten_when_it_is_answered(
    leases: Leases, claimed: Claimed, admin: MongoClient[Document], answer: str
) -> None:
    """A worker that lives for months loses many, and must not remember all of them."""
    admin[DATABASE]["broker.messages"].update_many({}, {"$set": {"lease": "another"}})
    eventually(lambda: leases._lost, 30)
    act = getattr(leases, answer)
    act(claimed.delivery, "rejected") if answer == "bury" else act(claimed.delivery)
    leases.flush(30)
    assert leases._lost == set()


def test_a_flush_waits_until_what_was_posted_is_written(
    leases: Leases, claimed: Claimed, fail: Fail, there: Callable[[], list[Document]]
) -> None:
    fail(["delete"], **TIME_LIMIT)
    leases.acknowledge(claimed.delivery)
    leases.flush(30)
    assert there() == []


def test_an_acknowledgement_whose_answer_is_lost_is_not_called_late(
    leases: Leases,
    claimed: Claimed,
    fail: Fail,
    there: Callable[[], list[Document]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    fail(["delete"], writeConcernError={"code": 64, "errmsg": "", "errInfo": {"wtimeout": True}})
    leases.acknowledge(claimed.delivery)
    eventually(lambda: "trying again" in caplog.text, 30)
    leases.flush()
    assert there() == []
    assert "after its lease" not in caplog.text
