"""The deliveries that a process holds, and the one thread that writes its answers."""

from __future__ import annotations

from typing import Any

import pytest
from pymongo.errors import DocumentTooLarge

from taskyard.broker.deliveries import Delivery
from taskyard.broker.leases import Leases
from taskyard.broker.messages import Messages
from taskyard.store.client import Store
from tests.helpers import eventually

LEASE_SECONDS = 30.0


def test_a_flush_ends_when_what_was_posted_is_written(store: Store) -> None:
    messages = Messages(store.database, "broker")
    leases = Leases(messages, LEASE_SECONDS)
    messages.publish("q", "hello")
    for _ in range(3):
        (claimed,) = messages.claim("q", 1, round(LEASE_SECONDS * 1000))
        leases.release(claimed.delivery)
        leases.flush()
        assert messages.count("q") == 1


def test_a_burial_that_cannot_be_made_holds_up_no_other(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    messages = Messages(store.database, "broker")
    leases = Leases(messages, LEASE_SECONDS)
    for number in range(2):
        messages.publish("q", f"{number}")
    stuck, other = messages.claim("q", 2, round(LEASE_SECONDS * 1000))
    bury = messages.bury

    def refuse(delivery: Delivery, reason: str) -> None:
        if delivery == stuck.delivery:
            raise DocumentTooLarge("for good")
        bury(delivery, reason)

    monkeypatch.setattr(messages, "bury", refuse)
    leases.bury(stuck.delivery, "rejected")
    leases.bury(other.delivery, "rejected")
    leases.flush(60)
    assert "cannot be buried: for good" in caplog.text
    (dead,) = store.database["broker.dead_letters"].find()
    (left,) = store.database["broker.messages"].find()
    assert (dead["_id"], left["_id"], left["lease"]) == (other.delivery.id, stuck.delivery.id, None)


class StoppedColdError(NotImplementedError):
    """Raised by Celery's handler of a cold stop for a pool of threads, wherever it interrupts."""


@pytest.mark.parametrize("limit", [1, 4])
def test_a_claim_that_a_signal_interrupts_is_given_back_at_the_end(
    store: Store, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """Seen once in a full run: a message waited until the lease of a gone process ended."""
    messages = Messages(store.database, "broker")
    leases = Leases(messages, LEASE_SECONDS)
    for number in range(4):
        messages.publish("q", f"{number}")
    stamped = messages._stamped

    def interrupted(*claim: Any) -> None:
        stamped(*claim)
        raise StoppedColdError

    with monkeypatch.context() as patch:
        patch.setattr(messages, "_stamped", interrupted)
        with pytest.raises(StoppedColdError):
            messages.claim("q", limit, round(LEASE_SECONDS * 1000))
    assert messages.count("q") == 4 - limit
    leases.leave()
    assert messages.count("q") == 4
    assert {d["deliveries"] for d in store.database["broker.messages"].find()} == {0}
    # A process may leave twice; the second time it has no client to release anything with.
    assert not messages.unknown


def test_a_queue_is_kept_as_often_as_its_expiry_asks_for(store: Store) -> None:
    """For a queue that expires in five minutes, an idle worker writes once a minute."""
    leases = Leases(Messages(store.database, "broker"), LEASE_SECONDS)
    kept: list[str] = []
    leases.keep("soon", lambda: kept.append("soon"), expires_seconds=0.05)
    leases.keep("late", lambda: kept.append("late"), expires_seconds=300)
    eventually(lambda: kept.count("soon") >= 10)
    assert kept.count("late") == 0
    leases.keep("soon", None)
    leases.keep("late", None)
