"""Which queued jobs an agent claims by itself, and which it leaves."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any
from unittest.mock import Mock

import pytest

from taskyard.agent import lookout
from taskyard.agent.admission import Admission, Capacity
from taskyard.agent.choice import choose, spread
from taskyard.agent.claims import Claims
from taskyard.agent.held import Held
from taskyard.agent.lookout import HEAD
from taskyard.agent.reporting import Reporter
from taskyard.agent.turns import TURN_SECONDS, Turns
from taskyard.context import Platform
from taskyard.jobs import lifecycle
from taskyard.jobs.model import POISON_LOSSES, Job
from taskyard.jobs.states import JobStatus
from taskyard.jobs.transition import Moment
from taskyard.workers.places import Place
from tests import factories

SECOND = timedelta(seconds=1)


class Agent:
    """The claims of one agent; a job that it takes keeps its place until the test ends it."""

    def __init__(self, platform: Platform, **facts: Any) -> None:
        self.store = platform.store
        self.taken: list[Job] = []
        self.known: set[str] = set()
        known = {"kind": "celery", "bootId": "b1", "cpuCount": 2, "ramTotalMb": 4096, **facts}
        self.store.workers.register("w1", known, now=self.store.clock.now())
        self.admission = Admission(Capacity(cpu_count=2, ram_total_mb=4096, max_jobs=0))
        self.turns = Turns()
        self.claims = Claims(
            platform, "w1/b1", self.admission, self.turns, self, Reporter(platform)
        )

    def take(self, jobs: Sequence[Job]) -> None:
        self.taken.extend(jobs)
        for job in jobs:
            self.known.add(job.job_id)
            self.admission.admit(job.job_id, job)

    def job_ids(self) -> set[str]:
        return self.known

    def claim(self) -> list[str]:
        """Claim once; return the ids of the jobs that were taken."""
        self.taken.clear()
        self.claims.claim()
        return [job.job_id for job in self.taken]

    def queue(self, **fields: Any) -> str:
        job = factories.queued_job(now=self.store.clock.now(), **fields)
        self.store.jobs.submit([job])
        return job.job_id


@pytest.fixture
def agent(platform: Platform) -> Agent:
    return Agent(platform, labels=["gpu"])


def test_what_is_claimed_runs_under_a_lease_and_brings_all_that_its_agent_needs(
    agent: Agent,
) -> None:
    job_id = agent.queue(env={"A": "b"})
    assert agent.claim() == [job_id]
    stored = agent.store.jobs.get(job_id)
    (taken,) = agent.taken
    assert (stored.status, stored.attempts, stored.assigned_agent_id) == ("RUNNING", 1, "w1")
    assert (taken.lease_id, taken.lease_until) == (stored.lease_id, stored.lease_until)
    assert taken.env == {"A": "b"}


@pytest.mark.parametrize("draining", [True, False])
def test_an_offer_is_judged_by_what_was_told_of_the_agent(agent: Agent, draining: bool) -> None:
    offered = agent.store.jobs.get(agent.queue())
    agent.store.workers.drain("w1", draining=draining, now=agent.store.clock.now())
    agent.claims.know(agent.store.workers.find("w1"))
    agent.store.workers.drain("w1", draining=not draining, now=agent.store.clock.now())
    agent.claims.offer(offered)
    assert agent.claim() == ([] if draining else [offered.job_id])


def test_claims_go_by_priority_and_then_by_age(agent: Agent) -> None:
    ordinary, old, urgent = agent.queue(), agent.queue(), agent.queue(priority=9)
    assert agent.claim() == [urgent, ordinary]
    assert agent.store.jobs.get(old).status is JobStatus.QUEUED


def test_what_does_not_fit_holds_back_nothing_and_is_not_taken(agent: Agent) -> None:
    other, large = agent.queue(labels=["tpu"]), agent.queue(required_cpu=3)
    fits = agent.queue(labels=["gpu"])
    assert agent.claim() == [fits]
    assert {agent.store.jobs.get(job).status for job in (other, large)} == {JobStatus.QUEUED}


def test_what_does_not_fit_holds_back_nothing_however_much_there_is_of_it(agent: Agent) -> None:
    running = agent.queue()
    assert agent.claim() == [running]
    now = agent.store.clock.now()
    large = [factories.queued_job(now=now, required_cpu=2) for _ in range(HEAD)]
    agent.store.jobs.submit(large)
    fits = agent.queue(required_ram_mb=17)
    assert agent.claim() == [fits]


def test_what_a_pass_has_assigned_has_its_place(agent: Agent) -> None:
    assigned = factories.assigned_job("w1", now=agent.store.clock.now())
    agent.store.jobs.submit([assigned])
    first = agent.queue()
    agent.queue()
    assert agent.claim() == [first]


@pytest.mark.parametrize("why", ["drained", "deleted", "another boot", "cooling down"])
def test_an_agent_that_may_take_nothing_takes_nothing(agent: Agent, why: str) -> None:
    workers, now = agent.store.workers, agent.store.clock.now()
    match why:
        case "drained":
            workers.drain("w1", draining=True, now=now)
        case "deleted":
            workers.soft_delete("w1", now=now)
        case "another boot":
            workers.register("w1", {"kind": "celery", "bootId": "b2"}, now=now)
        case _:
            workers.record_failure("w1", reason="x", now=now, cooldown=SECOND * 60)
    agent.queue()
    agent.claims.offer(factories.queued_job())
    assert agent.claim() == []


def test_a_place_that_is_kept_for_a_job_is_that_jobs_and_then_free(agent: Agent) -> None:
    small, large = agent.queue(), agent.queue(required_cpu=2)
    agent.store.workers.reserve({"w1": large}, {"w1": None})
    assert agent.claim() == [large]
    assert agent.store.workers.get("w1").reserved_for is None
    agent.admission.leave(large)
    assert agent.claim() == [small]


def test_a_job_that_was_offered_and_is_another_agents_by_now_is_not_taken(agent: Agent) -> None:
    job = factories.running_job("w2", now=agent.store.clock.now())
    agent.store.jobs.submit([job])
    agent.claims.offer(factories.queued_job(job_id=job.job_id))
    assert agent.claim() == []


def test_a_queue_that_holds_nothing_for_an_agent_is_looked_at_once(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent.queue(labels=["elsewhere"])
    offered = agent.store.jobs.get(agent.queue())
    agent.claims.offer(offered)
    assert agent.claim() == [offered.job_id]
    live = agent.store.live
    reads = {name: Mock(wraps=getattr(live, name)) for name in ("waiting_shapes", "first", "usage")}
    for name, read in reads.items():
        monkeypatch.setattr(live, name, read)
    assert agent.claim() == []
    counts = {name: read.call_count for name, read in reads.items()}
    assert counts == {"waiting_shapes": 1, "first": 0, "usage": 0}


def test_a_full_agent_relies_on_what_it_saw(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """It read the queue after the end of each short job although none might wait for a place."""
    monkeypatch.setattr(lookout, "SEEN_SECONDS", 60.0)
    jobs = [agent.queue(file_id="f") for _ in range(4)]
    assert agent.claim() == jobs[:2]
    look = Mock(wraps=agent.store.live.waiting_shapes)
    monkeypatch.setattr(agent.store.live, "waiting_shapes", look)
    first = factories.queued_job(job_id=jobs[0])
    for _ in range(3):
        agent.claims.freed(first, 0.001)
        assert agent.claim() == []
    agent.admission.leave(jobs[0])
    assert agent.claim() == jobs[2:3]
    assert look.call_count == 0
    urgent = agent.queue(file_id="f", required_cpu=0.5, priority=9)
    agent.admission.leave(jobs[1])
    assert agent.claim() == jobs[3:]
    agent.admission.leave(jobs[3])
    assert agent.claim() == [urgent]
    assert look.call_count == 1


def test_what_is_left_of_an_offer_goes_before_nothing_of_the_queue(agent: Agent) -> None:
    offered = [agent.store.jobs.get(agent.queue()) for _ in range(3)]
    for job in offered:
        agent.claims.offer(job)
    assert agent.claim() == [job.job_id for job in offered[:2]]
    urgent = agent.queue(priority=9)
    agent.admission.leave(offered[0].job_id)
    assert agent.claim() == [urgent]


def test_an_agent_that_loses_a_claim_goes_on_with_the_rest_of_what_it_saw(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where several agents drain one queue, each read it anew after each claim that it lost."""
    monkeypatch.setattr(lookout, "SEEN_SECONDS", 60.0)
    jobs = [agent.queue() for _ in range(12)]
    assert agent.claim() == jobs[:2]
    look = Mock(wraps=agent.store.live.waiting_shapes)
    monkeypatch.setattr(agent.store.live, "waiting_shapes", look)
    rival = factories.worker("w2")
    at = Moment(now=agent.store.clock.now())
    until = at.now + SECOND * 15
    for job_id in jobs[2:4]:
        job = agent.store.jobs.get(job_id)
        taken = lifecycle.claim(job, worker=rival, lease_id="other", at=at, lease_until=until)
        assert agent.store.jobs.apply(taken)
    agent.admission.leave(jobs[0])
    agent.admission.leave(jobs[1])
    assert agent.claim() == []
    won = agent.claim()
    assert len(won) == 2
    assert set(won) <= set(jobs[4:])
    assert look.call_count == 0


def test_the_head_of_the_queue_is_spread_within_its_highest_priority() -> None:
    urgent = [factories.queued_job(priority=9) for _ in range(40)]
    others = [factories.queued_job(priority=5) for _ in range(4)]
    queue = spread([*urgent, *others])
    ids = [job.job_id for job in urgent]
    spread_ids = [job.job_id for job in queue[:40]]
    assert sorted(spread_ids) == sorted(ids)
    assert spread_ids != ids
    assert queue[40:] == others


def test_short_jobs_are_followed_by_as_many_that_wait_for_their_places(agent: Agent) -> None:
    jobs = [agent.queue() for _ in range(8)]
    assert agent.claim() == jobs[:2]
    for job in list(agent.taken)[:1]:
        for _ in range(3):
            agent.claims.freed(job, 0.001)
    assert agent.claim() == jobs[2:5]


@pytest.mark.parametrize(
    ("fields", "may"),
    [
        ({}, True),
        ({"required_cpu": 0.5}, True),
        ({"required_cpu": 1.5}, False),
        ({"required_ram_mb": 512}, False),
        ({"losses": 1}, False),
        ({"file_id": "f"}, False),
        ({"file_url": "http://x/a.zip"}, False),
    ],
)
def test_only_a_plain_job_that_needs_no_more_waits_for_a_place(
    fields: dict[str, Any], may: bool
) -> None:
    full = Place(worker=factories.worker(cpu_count=1))
    short = factories.queued_job()
    full.take(short)
    job = factories.queued_job(**fields)
    assert (choose([job], full, [short], 1) == [job]) is may


def test_nothing_waits_for_a_place_that_is_kept_or_beside_a_suspect() -> None:
    kept = Place(worker=factories.worker(cpu_count=1))
    kept.reserved_for = "job-large"
    short = factories.queued_job()
    assert choose([factories.queued_job()], kept, [short], 5) == []
    suspect = factories.queued_job(losses=POISON_LOSSES - 1)
    spot = Place(worker=factories.worker(cpu_count=4))
    spot.take(suspect)
    assert choose([suspect], spot, [short], 5) == []


def test_who_waits_longest_is_first_and_holds_up_nobody_who_fits() -> None:
    admission = Admission(Capacity(cpu_count=2, ram_total_mb=4096, max_jobs=0))
    large, first, second, third = (
        Held(job=factories.running_job(required_cpu=cpu)) for cpu in (3, 1, 1, 1)
    )
    turns = Turns()
    turns.join([large, first, second, third])
    assert turns.admitted(admission) == [first, second]
    assert turns.overdue(third.waits_since) == []
    assert turns.overdue(third.waits_since + 2 * TURN_SECONDS) == [large, third]
    assert turns.count() == 0


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Make Python change between threads as often as it can."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("hasty_threads")
def test_a_claim_bears_that_jobs_end_meanwhile(agent: Agent) -> None:
    """It failed now and then, and what it was offered waited for a pass."""
    job = factories.running_job()

    def end_jobs() -> None:
        for _ in range(100_000):
            agent.claims.freed(job, ran_seconds=0.001)

    runner = threading.Thread(target=end_jobs)
    runner.start()
    while runner.is_alive():
        agent.claims._short()
