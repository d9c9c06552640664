"""Workers, locks, tokens, idempotency, wake-ups and the database's clock."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from typing import Any

import pytest
from pymongo.errors import DuplicateKeyError, PyMongoError

from taskyard.errors import (
    Gone,
    InvalidRequest,
    NotFound,
    StaleAttempt,
)
from taskyard.jobs import lifecycle
from taskyard.jobs.model import Job
from taskyard.jobs.transition import Moment
from taskyard.settings import Settings
from taskyard.store import client as store_client
from taskyard.store import feed as feed_module
from taskyard.store.client import Store
from taskyard.store.connection import open_watching_client, server_time
from taskyard.store.feed import ANY_JOB, Feed
from tests import factories
from tests.conftest import Racing, TestClock
from tests.factories import NOW
from tests.helpers import before_each_write, eventually

FACTS = {"hostname": "h", "cpuCount": 4, "ramTotalMb": 8192, "kind": "celery", "bootId": "b1"}
HOLD = timedelta(seconds=10)


def test_a_registration_is_a_new_life(any_store: Store) -> None:
    workers = any_store.workers
    workers.register("w1", FACTS, now=NOW)
    workers.record_failure("w1", reason="disk", now=NOW, cooldown=HOLD)
    workers.drain("w1", draining=True, now=NOW)
    workers.soft_delete("w1", now=NOW)
    with pytest.raises(Gone):
        workers.get("w1")
    fresh = workers.register("w1", {**FACTS, "bootId": "b2"}, now=NOW)
    assert (fresh.boot_id, fresh.draining, fresh.soft_deleted) == ("b2", False, False)
    assert fresh.trouble(NOW) is None


def test_a_deleted_worker_is_not_brought_back_by_a_heartbeat(any_store: Store) -> None:
    any_store.workers.register("w1", FACTS, now=NOW)
    assert any_store.workers.soft_delete("w1", now=NOW)
    assert not any_store.workers.soft_delete("gone", now=NOW)
    with pytest.raises(Gone):
        any_store.workers.heartbeat("w1", {}, now=NOW)
    assert any_store.workers.listed() == []


def test_a_deleted_worker_that_goes_on_heartbeating_is_not_forgotten(any_store: Store) -> None:
    workers = any_store.workers
    later = NOW + timedelta(days=8)
    for name in ("w1", "w2"):
        workers.register(name, FACTS, now=NOW)
        workers.soft_delete(name, now=NOW)
    with pytest.raises(Gone):
        workers.heartbeat("w1", {}, now=later)
    assert workers.forget(silent_since=later - timedelta(days=7)) == 1
    with pytest.raises(Gone):
        workers.heartbeat("w1", {}, now=later)


@pytest.mark.parametrize("unwell", ["silent", "complains"])
def test_a_worker_that_is_well_again_no_longer_says_why_it_was_not(
    any_store: Store, unwell: str
) -> None:
    workers = any_store.workers
    workers.register("w1", FACTS, now=NOW)
    if unwell == "silent":
        assert workers.mark_offline(silent_since=NOW + HOLD, now=NOW + HOLD) == ["w1"]
    else:
        workers.heartbeat("w1", {"health": "UNHEALTHY", "healthReason": "disk"}, now=NOW)
    assert workers.get("w1").health_reason
    answered = workers.heartbeat("w1", {}, now=NOW + HOLD)
    assert (answered.health, answered.health_reason) == ("OK", None)
    assert workers.get("w1").health_reason is None


def test_a_heartbeat_in_a_cooldown_leaves_its_reason(any_store: Store) -> None:
    any_store.workers.register("w1", FACTS, now=NOW)
    any_store.workers.record_failure("w1", reason="disk", now=NOW, cooldown=HOLD)
    any_store.workers.heartbeat("w1", {}, now=NOW)
    assert any_store.workers.get("w1").health_reason == "disk"


def test_a_word_of_another_boot_changes_nothing(any_store: Store) -> None:
    workers = any_store.workers
    known = workers.register("w1", FACTS, now=NOW)
    with pytest.raises(StaleAttempt):
        workers.heartbeat("w1", {}, now=NOW, boot_id="b0")
    with pytest.raises(StaleAttempt):
        workers.drain("w1", draining=True, now=NOW, boot_id="b0")
    workers.leave("w1", "b0", now=NOW)
    assert workers.get("w1") == known
    with pytest.raises(NotFound):
        workers.heartbeat("gone", {}, now=NOW)
    with pytest.raises(NotFound):
        workers.drain("gone", draining=True, now=NOW)


def test_a_suspended_worker_is_given_work_again_after_its_heartbeat(any_store: Store) -> None:
    any_store.workers.register("w1", FACTS, now=NOW)
    later = NOW + timedelta(seconds=5)
    any_store.workers.suspend([factories.running_job("w1", now=NOW)], now=later)
    assert any_store.workers.get("w1").trouble(later)
    any_store.workers.heartbeat("w1", {}, now=later, boot_id="b1")
    assert any_store.workers.get("w1").trouble(later) is None


def test_silence_and_cooldowns_are_noticed_once(any_store: Store) -> None:
    any_store.workers.register("w1", FACTS, now=NOW)
    any_store.workers.record_failure("w1", reason="disk", now=NOW, cooldown=HOLD)
    later = NOW + timedelta(seconds=60)
    assert any_store.workers.end_cooldowns(now=later) == 1
    assert any_store.workers.mark_offline(silent_since=NOW + HOLD, now=later) == ["w1"]
    assert any_store.workers.mark_offline(silent_since=NOW + HOLD, now=later) == []


def test_many_that_fall_silent_are_marked_in_one_write(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an outage these may be all workers, and the sweep waits until they are marked."""
    for number in range(5):
        at = NOW + timedelta(seconds=number)
        store.workers.register(f"w{number}", FACTS, now=at)
    writes: list[str] = []
    before_each_write(monkeypatch, writes.append)
    gone = store.workers.mark_offline(silent_since=NOW + timedelta(seconds=3), now=NOW + HOLD)
    assert gone == ["w0", "w1", "w2"]
    assert writes == ["workers"]
    reasons = [store.workers.get(worker_id).health_reason for worker_id in ("w1", "w3")]
    assert reasons == ["no heartbeat since 2026-11-23 12:00:01 UTC", None]


def test_who_goes_offline_in_a_cooldown_is_offline_for_that_reason(any_store: Store) -> None:
    any_store.workers.register("w1", FACTS, now=NOW)
    any_store.workers.record_failure("w1", reason="disk", now=NOW, cooldown=HOLD)
    later = NOW + timedelta(seconds=60)
    any_store.workers.mark_offline(silent_since=NOW + HOLD, now=later)
    assert any_store.workers.end_cooldowns(now=later) == 1
    worker = any_store.workers.get("w1")
    assert worker.cooldown_until is None
    assert (worker.health_reason or "").startswith("no heartbeat since")


def test_one_of_many_takes_the_lock_and_the_others_raise_its_flag(
    store: Store, racing: Racing
) -> None:
    took = racing(lambda: store.locks.acquire(secrets.token_hex(4), now=NOW, hold=HOLD), 10)
    assert took.count(True) == 1


def test_a_holder_whose_flag_was_raised_goes_once_more(any_store: Store) -> None:
    locks = any_store.locks
    assert locks.acquire("a", now=NOW, hold=HOLD)
    assert not locks.acquire("b", now=NOW, hold=HOLD)
    assert not locks.release("a")
    locks.clear_flag("a")
    assert locks.release("a")
    assert locks.acquire("b", now=NOW, hold=HOLD)


@pytest.mark.parametrize("late", [timedelta(), timedelta(seconds=5)])
def test_a_lock_that_is_given_back_before_its_flag_is_up_is_taken(
    any_store: Store, monkeypatch: pytest.MonkeyPatch, late: timedelta
) -> None:
    """The taker's instant may be from ``late`` before the lock was first taken."""
    locks = any_store.locks
    real = locks._locks
    assert locks.acquire("a", now=NOW, hold=HOLD)

    class Between:
        """Has the holder release the lock between the two writes of a process that wants it."""

        def update_one(self, *arguments: Any, **named: Any) -> Any:
            try:
                return real.update_one(*arguments, **named)
            except DuplicateKeyError:
                monkeypatch.undo()
                assert locks.release("a")
                raise

    monkeypatch.setattr(locks, "_locks", Between())
    assert locks.acquire("b", now=NOW - late, hold=HOLD)
    assert locks.release("b")


def test_a_lock_of_somebody_who_died_runs_out(any_store: Store) -> None:
    any_store.locks.acquire("a", now=NOW, hold=HOLD)
    later = NOW + HOLD + timedelta(seconds=1)
    assert any_store.locks.acquire("b", now=later, hold=HOLD)
    assert any_store.locks.release("a")
    assert not any_store.locks.acquire("c", now=later, hold=HOLD)


def test_a_lock_of_somebody_who_died_before_the_clock_was_set_back_is_free(
    any_store: Store,
) -> None:
    """Otherwise there was no pass until the clock had caught up."""
    locks = any_store.locks
    assert locks.acquire("a", now=NOW + timedelta(hours=1), hold=HOLD)
    assert locks.acquire("b", now=NOW, hold=HOLD)
    assert not locks.acquire("c", now=NOW - HOLD, hold=HOLD), "clocks of two hosts differ a little"
    assert not locks.release("b"), "its flag is up"


def test_the_same_key_and_body_give_the_same_ids(any_store: Store) -> None:
    give = any_store.idempotency.ids_for
    assert give("app", "k", b"body", ["j1"]) == ["j1"]
    assert give("app", "k", b"body", ["j2"]) == ["j1"]
    assert give("other", "k", b"body", ["j3"]) == ["j3"]
    with pytest.raises(InvalidRequest):
        give("app", "k", b"another", ["j4"])


def test_a_key_used_by_many_at_once_gives_one_set_of_ids(store: Store, racing: Racing) -> None:
    given = racing(
        lambda: store.idempotency.ids_for("app", "k", b"body", [secrets.token_hex(4)]), 20
    )
    assert len({tuple(ids) for ids in given}) == 1


def test_a_token_is_known_by_its_secret_until_it_is_revoked(any_store: Store) -> None:
    token = any_store.tokens.create(role="agent", name="gpu", worker_id="w1")
    known = any_store.tokens.verify(token)
    assert known is not None
    assert (known.role, known.name, known.worker_id) == ("agent", "gpu", "w1")
    assert any_store.tokens.verify(token[:-1] + ("0" if token[-1] != "0" else "1")) is None
    assert any_store.tokens.any()
    assert any_store.tokens.revoke(known.id)
    assert any_store.tokens.verify(token) is None


@pytest.fixture
def feed(store: Store, settings: Settings) -> Iterator[Feed]:
    made = Feed(lambda: open_watching_client(settings.mongodb_uri), store.database)
    with closing(made):
        yield made


def test_who_waits_for_a_job_is_woken_when_it_changes(store: Store, feed: Feed) -> None:
    job = factories.queued_job()
    store.jobs.submit([job])
    with (
        feed.waiting_for(job.job_id) as woken,
        feed.waiting_for("other") as other,
    ):
        assert woken.wait(5), "the opened stream wakes everybody once"
        assert other.wait(5)
        woken.clear()
        other.clear()
        _assign(store, job)
        assert woken.wait(5)
        assert not other.is_set()


def test_who_waits_for_the_end_of_a_job_is_woken_by_that_alone(store: Store, feed: Feed) -> None:
    jobs = [factories.queued_job() for _ in range(2)]
    store.jobs.submit(jobs)
    with (
        feed.waiting_for_end(jobs[0].job_id) as first,
        feed.waiting_for_end(jobs[1].job_id) as second,
    ):
        assert first.wait(5), "the opened stream wakes everybody once"
        assert second.wait(5)
        first.clear()
        second.clear()
        _assign(store, jobs[0])
        cancelled = lifecycle.cancel(jobs[1], by="me", reason=None, at=Moment(now=NOW))
        store.jobs.apply(cancelled)
        assert second.wait(5)
        assert not first.is_set()


def test_who_waits_is_woken_though_what_changed_before_could_not_be_read(
    store: Store, feed: Feed
) -> None:
    job = factories.queued_job()
    with feed.waiting_for(job.job_id) as woken:
        for change in (
            lambda: store.database["output"].insert_one({"_id": {"of": "nobody"}}),
            lambda: store.jobs.submit([job]),
        ):
            assert woken.wait(5), "the opened stream wakes everybody once"
            woken.clear()
            change()
        assert woken.wait(5)


def test_a_renewed_lease_is_no_news(store: Store, feed: Feed) -> None:
    job = factories.queued_job()
    store.jobs.submit([job])
    with feed.waiting_for(job.job_id) as woken, feed.waiting_for(ANY_JOB) as any_job:
        assert woken.wait(5)
        woken.clear()
        store.database["jobs"].update_one({"_id": job.job_id}, {"$set": {"leaseUntil": NOW}})
        store.jobs.submit([factories.queued_job()])
        eventually(any_job.is_set)
        assert not woken.is_set()


def test_a_stream_is_closed_when_nobody_waits_and_opened_for_the_next_who_does(
    store: Store, feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "IDLE_SECONDS", 0.0)
    job = factories.queued_job()
    store.jobs.submit([job])
    for number in range(2):
        with feed.waiting_for(job.job_id) as woken:
            assert woken.wait(5), number
        eventually(lambda: not feed.is_open)


def test_of_many_who_read_the_same_one_reads(store: Store, feed: Feed) -> None:
    reads: list[str] = []

    def read() -> str:
        reads.append("read")
        return "value"

    with feed.waiting_for("job") as one, feed.waiting_for("job") as other:
        assert one.wait(5)
        assert {one.together("here", read), other.together("here", read)} == {"value"}
        assert len(reads) == 1
        other.together("elsewhere", read)
        assert len(reads) == 2


def test_what_was_read_before_a_change_is_read_again(store: Store, feed: Feed) -> None:
    job = factories.queued_job()
    store.jobs.submit([job])
    with feed.waiting_for(job.job_id) as one, feed.waiting_for(job.job_id) as other:
        assert one.wait(5)
        one.clear()
        assert one.together("here", lambda: "old") == "old"
        _assign(store, job)
        assert one.wait(5)
        assert other.together("here", lambda: "new") == "new"


def _assign(store: Store, job: Job) -> None:
    moment = Moment(now=NOW)
    store.jobs.apply(
        lifecycle.assign(job, worker_id="w1", lease_id="l1", at=moment, start_by=NOW + HOLD)
    )


def test_time_is_the_servers_and_survives_its_absence(clock: TestClock, store: Store) -> None:
    drift = abs((server_time(store.client) - clock.now()).total_seconds())
    assert drift < 0.2

    def away() -> None:
        raise PyMongoError("away")

    lonely = dataclasses.replace(store, clock=TestClock(lambda: NOW)).clock
    before = lonely.now()
    lonely._read = away  # type: ignore[assignment] # the server goes away
    lonely.forget()
    assert lonely.now() >= before


def test_what_the_monitors_hear_keeps_the_clock_right(settings: Settings) -> None:
    with closing(store_client.connect(settings)) as connected:
        clock = connected.clock
        clock.now()
        # The server's clock was set, and only a monitor can notice.
        clock._base = clock.now() - timedelta(hours=1), clock._monotonic()
        clock._measure_again_at = clock._monotonic() + 3600
        true = server_time(connected.client)
        eventually(lambda: clock.now() >= true)
