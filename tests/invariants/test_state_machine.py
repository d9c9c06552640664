"""Everything that can happen to jobs, in any order, on a real store; invariants after each step.

``pytest tests/invariants --hypothesis-profile=long`` runs many more examples.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Any

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from taskyard import operations, worker_half
from taskyard.agent.admission import Admission, Capacity
from taskyard.agent.claims import Claims
from taskyard.agent.reporting import Reporter
from taskyard.agent.turns import Turns
from taskyard.context import Platform
from taskyard.errors import Conflict, Forbidden, Gone, NotFound, StaleAttempt
from taskyard.jobs.model import Job, Lease, lease_of
from taskyard.jobs.retry import Cause
from taskyard.jobs.transition import Outcome, Transition
from taskyard.scheduler import assignment, ticks
from taskyard.scheduler.assignment import Decision
from tests.conftest import TestClock
from tests.helpers import empty
from tests.invariants import rules
from tests.invariants.conftest import Numbers

EXAMPLES = {"default": 250, "long": 20_000}
for name, examples in EXAMPLES.items():
    settings.register_profile(
        name,
        max_examples=examples,
        stateful_step_count=40,
        deadline=None,
        # CI runs the same examples every time; the long run looks for new failures.
        derandomize=name == "default",
        # Shrinking replays hundreds of examples on a database; only the long run has time for it.
        phases=[Phase.generate] if name == "default" else list(Phase),
        suppress_health_check=list(HealthCheck),
    )

CELERY, HTTP = ("c1", "c2"), ("h1", "h2")
WORKERS = st.sampled_from([*CELERY, *HTTP])
CAUSES = st.sampled_from([None, *Cause])

REFUSALS = (Conflict, Forbidden, Gone, NotFound, StaleAttempt)


class _Agent:
    """An agent's side of Claims: admits and runs every job that is claimed."""

    def __init__(self, admission: Admission, held: Sequence[Lease]) -> None:
        self.claimed: list[Lease] = []
        self._admission = admission
        self._known = {lease.job_id for lease in held if admission.has(lease.key)}

    def take(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            lease = lease_of(job)
            assert self._admission.admit(lease.key, job), "claimed without a place"
            self.claimed.append(lease)

    def job_ids(self) -> set[str]:
        return self._known


class Lifecycle(RuleBasedStateMachine):
    """Two agents of each kind, whose own memory of their jobs may be outdated or wrong."""

    platform: Platform
    clock: TestClock
    hints: list[Transition]
    numbers: Numbers

    jobs: Bundle[str] = Bundle("jobs")

    def __init__(self) -> None:
        super().__init__()
        self.store = self.platform.store
        empty(self.store.database)
        self.hints.clear()
        self.clock.ahead *= 0
        self.numbers.reset()
        self.reporter = Reporter(self.platform)
        self.boots: dict[str, str] = {}
        #: The leases of jobs that agents believe they run, live or long over.
        self.believed: list[Lease] = []
        self.started: set[str] = set()
        #: The admissions of each agent's present boot; those of earlier boots (ghosts) are dropped.
        self.admissions: dict[str, Admission] = {}
        #: Decisions of schedulers that are paused before they write them.
        self.decisions: list[Decision] = []
        self.wrote_late = False
        self.ended: dict[str, dict[str, Any]] = {}

    # --- apps and operators

    @rule(
        target=jobs,
        cpu=st.sampled_from([0.5, 1, 2, 64]),
        retries=st.integers(0, 2),
        on_exit=st.booleans(),
        count=st.integers(1, 4),
    )
    def submit(self, cpu: float, retries: int, on_exit: bool, count: int) -> Any:
        wanted = {
            "command": "true",
            "required_cpu": cpu,
            "max_retries": retries,
            "retry_on_exit": on_exit,
        }
        return multiple(*operations.submit(self.platform, [wanted] * count, by="app"))

    @rule(job_id=jobs)
    def cancel(self, job_id: str) -> None:
        self._try(lambda: operations.cancel(self.platform, job_id, by="op", reason=None))

    @rule(target=jobs, job_id=jobs)
    def retry(self, job_id: str) -> Any:
        made = self._try(lambda: operations.retry(self.platform, job_id, by="op"))
        return multiple(made.job_id) if made else multiple()

    @rule(worker_id=WORKERS, draining=st.booleans())
    def drain(self, worker_id: str, draining: bool) -> None:
        now = self.clock.now()
        self._try(lambda: self.store.workers.drain(worker_id, draining=draining, now=now))

    @rule(worker_id=WORKERS)
    def delete_worker(self, worker_id: str) -> None:
        self.store.workers.soft_delete(worker_id, now=self.clock.now())

    # --- the scheduler, at any time and as often as it likes

    @rule(name=st.sampled_from(["timeouts", "assignment", "health", "retention"]))
    def tick(self, name: str) -> None:
        ticks.run(self.platform, name)

    @rule()
    def a_scheduler_decides_and_is_paused(self) -> None:
        self.decisions.append(assignment.decide(self.store, self.platform.settings))

    @rule(data=st.data())
    def a_paused_scheduler_writes(self, data: st.DataObject) -> None:
        """Write any earlier decision: it may be late, or be written twice or by two schedulers."""
        if self.decisions:
            decision = data.draw(st.sampled_from(self.decisions))
            self.hints.extend(assignment.write(self.store, decision))
            self.wrote_late = True

    @rule(seconds=st.sampled_from([1, 2, 5, 14, 16, 31, 65]), swept=st.booleans())
    def time_passes(self, seconds: int, swept: bool) -> None:
        """Let time pass while sweeps run every two seconds, or during an outage of the sweep."""
        for _ in range(seconds // 2 if swept else 0):
            self.clock.advance(2)
            ticks.run(self.platform, "timeouts")
        self.clock.advance(seconds % 2 if swept else seconds)

    # --- Celery agents

    @rule(worker_id=WORKERS)
    def register(self, worker_id: str) -> None:
        """Register a new boot; the earlier boot lives on as a ghost with its own beliefs."""
        facts: dict[str, Any] = {"hostname": worker_id, "cpuCount": 2, "ramTotalMb": 2048}
        if worker_id in HTTP:
            worker_half.register(self.platform, worker_id, facts)
            return
        self.boots[worker_id] = secrets.token_hex(4)
        capacity = Capacity(cpu_count=2, ram_total_mb=2048, max_jobs=0)
        self.admissions[worker_id] = Admission(capacity)
        facts |= {"kind": "celery", "bootId": self.boots[worker_id]}
        self.store.workers.register(worker_id, facts, now=self.clock.now())
        self.platform.nudge("register")

    @rule(worker_id=st.sampled_from(CELERY), data=st.data())
    def beat(self, worker_id: str, data: st.DataObject) -> None:
        """Send a heartbeat, and renew some of the leases that the worker believes to hold."""
        mine = [lease for lease in self.believed if lease.worker_id == worker_id]
        named = data.draw(st.lists(st.sampled_from(mine), unique=True)) if mine else []
        self._try(
            lambda: self.store.workers.heartbeat(
                worker_id, {}, now=self.clock.now(), boot_id=self.boots.get(worker_id)
            )
        )
        settings_ = self.platform.settings
        self.store.leases.renew(
            worker_id,
            named,
            now=self.clock.now(),
            lease=_seconds(settings_.lease_seconds),
            grace=_seconds(settings_.finish_grace_seconds),
        )

    @rule(data=st.data())
    def a_hint_arrives(self, data: st.DataObject) -> None:
        """Deliver any hint that was ever sent: in time, late or twice."""
        if not self.hints:
            return
        hint = data.draw(st.sampled_from(self.hints))
        changes = hint.changes
        lease = Lease(
            job_id=hint.job_id,
            worker_id=changes["assignedAgentId"],
            attempt=changes["attempts"],
            lease_id=changes["leaseId"],
        )
        before = self.store.jobs.find(hint.job_id)
        admission = self.admissions.get(lease.worker_id)
        if admission is None or before is None or admission.has(lease.key):
            return
        if not admission.admit(lease.key, before):
            self.reporter.release(lease, "does not fit beside what runs on the agent")
            return
        if self.reporter.start(lease) is None:
            admission.leave(lease.key)
        else:
            assert lease.key not in self.started, "one lease started twice"
            self.started.add(lease.key)
            self.believed.append(lease)

    @rule(worker_id=st.sampled_from(CELERY))
    def an_agent_claims(self, worker_id: str) -> None:
        """Have an agent claim the jobs that fit on it, without a scheduler's pass."""
        if (admission := self.admissions.get(worker_id)) is None:
            return

        boot = f"{worker_id}/{self.boots[worker_id]}"
        agent = _Agent(admission, self.believed)
        Claims(self.platform, boot, admission, Turns(), agent, self.reporter).claim()
        self.started.update(lease.key for lease in agent.claimed)
        self.believed.extend(agent.claimed)

    @rule(data=st.data(), cause=CAUSES)
    def an_agent_reports(self, data: st.DataObject, cause: Cause | None) -> None:
        """Report the end of any attempt that was ever started, whoever holds the job by now."""
        if not self.believed:
            return
        lease = data.draw(st.sampled_from(self.believed))
        before = self.store.jobs.find(lease.job_id)
        code = 0 if cause is None else 1
        outcome = Outcome(cause=cause, detail="ended", exit_code=code)
        accepted = self.reporter.finish(lease, outcome, at=self.platform.moment())
        self._leave(lease)
        self._check_fenced(before, lease, accepted)

    @rule(data=st.data())
    def an_agent_gives_back(self, data: st.DataObject) -> None:
        if not self.believed:
            return
        lease = data.draw(st.sampled_from(self.believed))
        before = self.store.jobs.find(lease.job_id)
        released = self.reporter.release(lease, "drained")
        self._leave(lease)
        self._check_fenced(before, lease, released)

    # --- HTTP agents

    @rule(worker_id=st.sampled_from(HTTP))
    def poll(self, worker_id: str) -> None:
        job = self._try(lambda: worker_half.poll(self.platform, worker_id))
        if job is not None:
            lease = Lease(
                job_id=job.job_id,
                worker_id=worker_id,
                attempt=job.attempts,
                lease_id=job.lease_id,
            )
            if lease not in self.believed:
                self.believed.append(lease)

    @rule(worker_id=st.sampled_from(HTTP), data=st.data())
    def http_heartbeat(self, worker_id: str, data: st.DataObject) -> None:
        mine = sorted({le.job_id for le in self.believed if le.worker_id == worker_id})
        named = data.draw(st.lists(st.sampled_from(mine), unique=True)) if mine else []
        self._try(lambda: worker_half.heartbeat(self.platform, worker_id, {}, named))

    @rule(data=st.data(), fenced=st.booleans(), cause=st.sampled_from(["ok", "exit", "agent"]))
    def an_http_agent_reports(self, data: st.DataObject, fenced: bool, cause: str) -> None:
        mine = [lease for lease in self.believed if lease.worker_id in HTTP]
        if not mine:
            return
        held = data.draw(st.sampled_from(mine))
        lease = held if fenced else Lease(job_id=held.job_id, worker_id=held.worker_id)
        before = self.store.jobs.find(held.job_id)
        if cause == "agent":
            done = self._try(lambda: worker_half.report_failure(self.platform, lease, "broke"))
        else:
            result = worker_half.Result(exit_code=int(cause == "exit"), stdout="x")
            done = self._try(lambda: worker_half.submit_result(self.platform, lease, result))
        if done is not None and before is not None and not before.is_terminal and not fenced:
            # A request without attempt and lease is guarded by the worker and its boot.
            assert before.assigned_agent_id == held.worker_id, (before, held)
            assert before.lease_id == held.lease_id, "an old result passed for a new attempt's"
        elif fenced and before is not None and not before.is_terminal:
            self._check_fenced(before, held, done)

    @rule(data=st.data())
    def an_http_agent_streams(self, data: st.DataObject) -> None:
        mine = [lease for lease in self.believed if lease.worker_id in HTTP]
        if not mine:
            return
        lease = data.draw(st.sampled_from(mine))
        self._try(
            lambda: worker_half.stream(self.platform, lease, stream="stdout", data="x", seq=None)
        )

    # --- what must hold

    @invariant()
    def every_job_makes_sense(self) -> None:
        found = [self.store.jobs.get(d["_id"]) for d in self.store.database["jobs"].find({}, {})]
        rules.check_jobs(found)
        rules.check_refusals(found, self.store)

    @invariant()
    def no_worker_is_overcommitted(self) -> None:
        """Count assigned jobs too, unless a decision was written late: then only what agents admit
        counts, as they give back jobs that do not fit.
        """
        rules.check_running(self.store, self.admissions)
        if not self.wrote_late:
            rules.check_capacity(self.store)

    @invariant()
    def what_ended_stays_as_it_ended(self) -> None:
        rules.check_ended_stay(self.ended, self.store)

    def teardown(self) -> None:
        """With healthy agents and no faults, every job that can run runs, and no lease is left."""
        ticks.run(self.platform, "retention")

    def _leave(self, lease: Lease) -> None:
        if admission := self.admissions.get(lease.worker_id):
            admission.leave(lease.key)

    def _check_fenced(self, before: Job | None, lease: Lease, accepted: Job | None) -> None:
        """A write is accepted exactly when its attempt is the one that runs."""
        running = before is not None and before.status in ("RUNNING", "ASSIGNED")
        mine = running and before is not None and before.lease_id == lease.lease_id
        assert (accepted is not None) == mine, (before, lease, accepted)

    def _try(self, act: Callable[[], Any]) -> Any:
        try:
            return act()
        except REFUSALS:
            return None


def _seconds(value: float) -> Any:
    from datetime import timedelta

    return timedelta(seconds=value)


@pytest.mark.timeout(1800)
def test_no_order_of_events_breaks_an_invariant(
    platform: Platform, clock: TestClock, announced: list[Transition], numbers: Numbers
) -> None:
    Lifecycle.platform, Lifecycle.clock, Lifecycle.hints = platform, clock, announced
    Lifecycle.numbers = numbers
    profile = hypothesis.settings()
    run_state_machine_as_test(Lifecycle, settings=profile)
