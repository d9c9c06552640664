"""Which agent a new job is offered to, so that only that agent is woken."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from taskyard.context import Platform
from taskyard.scheduler.offers import FRESH_SECONDS, Offers
from taskyard.workers import placement
from tests import factories
from tests.conftest import Racing


@pytest.fixture
def offers(platform: Platform) -> Offers:
    register(platform, "w1")
    return Offers()


def register(platform: Platform, worker_id: str, **facts: Any) -> None:
    known = {"kind": "celery", "bootId": "b", "cpuCount": 2, "ramTotalMb": 4096, **facts}
    platform.store.workers.register(worker_id, known, now=platform.store.clock.now())


def made(offers: Offers, count: int, **fields: Any) -> list[str | None]:
    jobs = [factories.queued_job(**fields) for _ in range(count)]
    return [job.offered_to for job in offers.made(jobs)]


def look(offers: Offers, platform: Platform) -> None:
    offers.look(platform.store, platform.settings)


def test_who_has_not_looked_offers_nothing(offers: Offers) -> None:
    assert made(offers, 1) == [None]


def test_as_many_are_offered_as_have_a_place(offers: Offers, platform: Platform) -> None:
    look(offers, platform)
    assert made(offers, 3) == ["w1", "w1", None]
    assert made(offers, 1) == [None], "those before it count"


def test_what_was_seen_long_ago_is_taken_to_be_free(
    offers: Offers, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    look(offers, platform)
    assert made(offers, 2) == ["w1", "w1"]
    later = time.monotonic() + 2 * FRESH_SECONDS
    monkeypatch.setattr("taskyard.scheduler.offers.time.monotonic", lambda: later)
    assert made(offers, 1) == ["w1"]
    assert made(offers, 2) == ["w1", None], "free again, but only once"


def test_nothing_is_offered_where_it_could_not_run(offers: Offers, platform: Platform) -> None:
    register(platform, "w2", kind="http", labels=["gpu"])
    look(offers, platform)
    assert made(offers, 1, labels=["gpu"]) == [None], "HTTP agents hear of no offers"
    platform.store.workers.drain("w1", draining=True, now=platform.store.clock.now())
    look(offers, platform)
    assert made(offers, 1) == [None]


def test_requests_that_come_at_once_do_not_fill_the_places_together(
    offers: Offers, platform: Platform, racing: Racing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests share the places, and taking a place is not atomic."""
    look(offers, platform)
    place, inside = placement.place, threading.Semaphore(1)

    def alone(*arguments: Any, **named: Any) -> Any:
        assert inside.acquire(blocking=False)
        time.sleep(0.001)
        try:
            return place(*arguments, **named)
        finally:
            inside.release()

    monkeypatch.setattr(placement, "place", alone)
    assert len(racing(lambda: made(offers, 1), 8)) == 8
