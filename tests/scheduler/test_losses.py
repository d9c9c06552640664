"""Workers that die, and what becomes of their jobs; on the real store, with a test clock."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import pytest

from taskyard import operations
from taskyard.agent.reporting import Reporter
from taskyard.context import Platform
from taskyard.jobs.model import Job, lease_of
from taskyard.jobs.states import JobStatus, Verb
from taskyard.jobs.transition import Outcome, Transition
from taskyard.scheduler import ticks
from tests.conftest import TestClock

WORKERS = ("w1", "w2", "w3")


class Fleet:
    """Celery agents that start the jobs assigned to them; those in ``dead`` show no life."""

    def __init__(self, platform: Platform, clock: TestClock) -> None:
        self.platform = platform
        self.clock = clock
        self.store = platform.store
        self.reporter = Reporter(platform)
        self.dead: set[str] = set()
        for worker_id in WORKERS:
            self.register(worker_id)

    def register(self, worker_id: str) -> None:
        facts = {"hostname": "h", "kind": "celery", "bootId": worker_id, "cpuCount": 4}
        facts |= {"ramTotalMb": 8192}
        self.store.workers.register(worker_id, facts, now=self.clock.now())
        self.dead.discard(worker_id)
        self.platform.nudge("register")

    def delete(self, worker_id: str) -> None:
        self.store.workers.soft_delete(worker_id, now=self.clock.now())
        self.dead.add(worker_id)

    def submit(self, count: int, **wanted: object) -> list[str]:
        request = {"command": "true", **wanted}
        return list(operations.submit(self.platform, [request] * count, by="app"))

    def start_assigned(self) -> None:
        for worker_id in set(WORKERS) - self.dead:
            for job in self.store.live.held_by(worker_id, JobStatus.ASSIGNED):
                self.reporter.start(lease_of(job))

    def beat(self) -> None:
        """Let two seconds pass: heartbeats, renewals, the sweep, a pass, and starts of jobs."""
        self.clock.advance(2)
        for worker_id in set(WORKERS) - self.dead:
            self.store.workers.heartbeat(worker_id, {}, now=self.clock.now())
            running = self.store.live.held_by(worker_id, JobStatus.RUNNING)
            self.store.leases.renew(
                worker_id,
                [lease_of(job) for job in running],
                now=self.clock.now(),
                lease=timedelta(seconds=15),
                grace=timedelta(seconds=60),
            )
        ticks.run(self.platform, "timeouts")
        ticks.run(self.platform, "assignment")
        self.start_assigned()

    def finish(self, job: Job) -> None:
        self.reporter.finish(lease_of(job), Outcome(), at=self.platform.moment())

    def get(self, job_id: str) -> Job:
        return self.store.jobs.get(job_id)


@pytest.fixture
def fleet(platform: Platform, clock: TestClock) -> Fleet:
    return Fleet(platform, clock)


def await_expiry(fleet: Fleet, job_id: str) -> Job:
    """Call ``beat`` until the sweep has taken the job from its dead worker."""
    held = fleet.get(job_id)
    for _ in range(12):
        fleet.beat()
        job = fleet.get(job_id)
        if job.is_terminal or job.lease_id != held.lease_id:
            return job
    raise AssertionError(f"{job_id} is still held by {held.assigned_agent_id}")


def test_the_jobs_of_a_dead_worker_run_elsewhere_and_the_lost_attempt_is_in_the_history(
    fleet: Fleet,
) -> None:
    (job_id,) = fleet.submit(1)
    fleet.start_assigned()
    died = fleet.get(job_id).assigned_agent_id or ""
    fleet.dead.add(died)
    job = await_expiry(fleet, job_id)
    fleet.start_assigned()
    job = fleet.get(job_id)
    assert (job.status, job.attempts) == (JobStatus.RUNNING, 2)
    assert job.assigned_agent_id != died
    (lost,) = [entry for entry in job.history if entry["verb"] == "expire"]
    assert (lost["attempt"], lost["worker"]) == (1, died)
    assert f"worker {died} was lost" in lost["reason"]


@pytest.mark.parametrize("workers", [1, 3])
def test_three_losses_in_a_row_make_a_poison_job_and_its_neighbours_do_not_suffer(
    fleet: Fleet, workers: int
) -> None:
    for worker_id in WORKERS[workers:]:
        fleet.delete(worker_id)
    poison, *neighbours = fleet.submit(3 * workers, max_retries=10)
    for _ in range(60):
        fleet.beat()
        if fleet.get(poison).status is JobStatus.RUNNING:
            killed = fleet.get(poison).assigned_agent_id or ""
            fleet.dead.add(killed)
            await_expiry(fleet, poison)
            fleet.register(killed)
            continue
        for job in map(fleet.get, neighbours):
            # A worker that also runs the poison job dies before it reports a result.
            if job.status is JobStatus.RUNNING:
                fleet.finish(job)
    ended = fleet.get(poison)
    assert ended.status is JobStatus.FAILED
    assert "poison job" in (ended.error_message or "")
    assert {fleet.get(job_id).status for job_id in neighbours} == {JobStatus.COMPLETED}
    lost = [sum(e["verb"] == "expire" for e in fleet.get(j).history) for j in neighbours]
    assert max(lost) <= 2, "an innocent job is never lost with a poison job for the third time"


def test_a_job_cancelled_while_its_worker_was_away_is_never_started(fleet: Fleet) -> None:
    (running,) = fleet.submit(1)
    fleet.start_assigned()
    away = fleet.get(running).assigned_agent_id or ""
    fleet.dead.add(away)
    operations.cancel(fleet.platform, running, by="op", reason=None)
    assert await_expiry(fleet, running).status is JobStatus.CANCELLED
    (assigned,) = fleet.submit(1)
    hint = lease_of(fleet.get(assigned))
    operations.cancel(fleet.platform, assigned, by="op", reason=None)
    fleet.register(away)
    assert fleet.reporter.start(hint) is None
    for _ in range(10):
        fleet.beat()
    for job_id in (running, assigned):
        job = fleet.get(job_id)
        assert job.status is JobStatus.CANCELLED
        assert job.history[-1]["to"] == "CANCELLED"


def test_a_worker_that_lost_a_job_gets_nothing_before_its_next_heartbeat(fleet: Fleet) -> None:
    (job_id,) = fleet.submit(1)
    fleet.start_assigned()
    lost = fleet.get(job_id).assigned_agent_id or ""
    fleet.dead.add(lost)
    await_expiry(fleet, job_id)
    later = [fleet.get(job_id).assigned_agent_id for job_id in fleet.submit(20, required_cpu=0.1)]
    assert lost not in later
    fleet.dead.discard(lost)
    fleet.beat()
    later = [fleet.get(job_id).assigned_agent_id for job_id in fleet.submit(20, required_cpu=0.1)]
    assert lost in later


def test_a_pass_in_the_middle_of_a_sweep_gives_nothing_back_to_the_worker_that_was_lost(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lost worker looks free by then; a job assigned to it waited for its start deadline."""
    for worker_id in WORKERS[1:]:
        fleet.delete(worker_id)
    (job_id,) = fleet.submit(1)
    fleet.start_assigned()
    fleet.dead.add("w1")
    apply_all = fleet.store.jobs.apply_all

    def then_another_pass(transitions: Sequence[Transition]) -> list[Transition]:
        won = apply_all(transitions)
        if any(transition.verb is Verb.EXPIRE for transition in won):
            fleet.platform.run_pass("create")
        return won

    monkeypatch.setattr(fleet.store.jobs, "apply_all", then_another_pass)
    job = await_expiry(fleet, job_id)
    assert (job.status, job.assigned_agent_id) == (JobStatus.QUEUED, None)


def test_a_worker_that_was_started_anew_gets_the_job_that_its_earlier_life_lost_at_once(
    fleet: Fleet,
) -> None:
    """Otherwise a platform with one worker was idle for up to ten seconds more."""
    for worker_id in WORKERS[1:]:
        fleet.delete(worker_id)
    (job_id,) = fleet.submit(1)
    fleet.start_assigned()
    fleet.clock.advance(1)
    fleet.register("w1")
    fleet.dead.add("w1")  # no heartbeat yet
    job = await_expiry(fleet, job_id)
    assert (job.status, job.assigned_agent_id, job.attempts) == (JobStatus.ASSIGNED, "w1", 2)
