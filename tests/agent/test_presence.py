"""An agent and its leases while it renews them, and when it is cut off, deleted or replaced."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from taskyard import operations
from taskyard.agent.agent import Agent
from taskyard.agent.presence import Presence
from taskyard.context import Platform
from taskyard.jobs.model import Job, Lease, lease_of
from taskyard.jobs.refusal import Write
from taskyard.jobs.states import JobStatus
from taskyard.nudges import Act, at_once
from taskyard.scheduler import ticks
from taskyard.store import client as store_client
from taskyard.store.client import Store
from tests import factories
from tests.chaos.proxy import Mode, Proxy
from tests.helpers import eventually

LEASE_SECONDS = 3.0


class Host:
    """An agent in this process that reaches the database through a proxy of its own."""

    def __init__(self, agent: Agent, store: Store, platform: Platform, network: Proxy) -> None:
        self.agent = agent
        self.store = store
        self.network = network
        #: The platform as everybody else sees it, whatever the agent's network does.
        self.platform = platform

    def run(self, command: str) -> Job:
        """Submit a job; wait until this agent runs it and its shell has printed its process id."""
        wanted = {"command": f"echo $$; {command}"}
        (job_id,) = operations.submit(self.platform, [wanted], by="app")
        job = self.get(job_id)
        self.agent.run_assigned(lease_of(job))
        eventually(lambda: self.printed(job_id))
        return self.get(job_id)

    def get(self, job_id: str) -> Job:
        return self.platform.store.jobs.get(job_id)

    def ended(self, job_id: str) -> Job | None:
        job = self.get(job_id)
        return job if job.is_terminal else None

    def printed(self, job_id: str, attempt: int | None = None) -> str:
        read = self.platform.store.output.read(self.get(job_id), attempt=attempt)
        return "".join(chunk.data for chunk in read)

    def runs(self, job: Job) -> bool:
        """Whether the shell of the job's latest attempt is alive."""
        try:
            found = psutil.Process(int(self.printed(job.job_id, job.attempts).split()[0]))
            return found.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


@pytest.fixture
def start(platform: Platform, tmp_path: Path) -> Iterator[Callable[..., Host]]:
    """Return a function that starts an agent with a short lease.

    Two agents with the same id are two boots of one worker.
    """
    hosts: list[Host] = []

    def make(
        worker_id: str = "w1",
        cancel_poll_seconds: float = 0.1,
        soon: Callable[[Act], None] = at_once,
    ) -> Host:
        found = re.search(r":(\d+)/", platform.settings.mongodb_uri)
        assert found
        network = Proxy(int(found[1])).__enter__()
        uri = platform.settings.mongodb_uri.replace(f":{found[1]}/", f":{network.port}/")
        settings = dataclasses.replace(
            platform.settings,
            mongodb_uri=uri,
            lease_seconds=LEASE_SECONDS,
            renewal_seconds=LEASE_SECONDS / 3,
            cancel_poll_seconds=cancel_poll_seconds,
            kill_grace_seconds=0.2,
            cpu_count=8,
            workspace_dir=tmp_path / f"agent{len(hosts)}",
        )
        store = store_client.connect(settings)
        own = dataclasses.replace(platform, settings=settings, store=store, soon=soon)
        agent = Agent(own, worker_id)
        agent.start()
        seen = dataclasses.replace(platform, settings=settings)
        hosts.append(Host(agent, store, seen, network))
        return hosts[-1]

    yield make
    for host in hosts:
        host.network.set(Mode.PASS)
        host.agent.drain(0)
        host.store.close()
        host.network.__exit__(None, None, None)


@pytest.mark.parametrize("cut", [Mode.DROP, Mode.REFUSE])
def test_an_agent_that_is_cut_off_ends_its_jobs_before_their_leases(
    start: Callable[..., Host], cut: Mode, tmp_path: Path
) -> None:
    host, alive = start(), tmp_path / "alive"
    job = host.run(f"while touch {alive}; do sleep 0.02; done")
    host.network.set(cut)
    eventually(lambda: not host.runs(job))
    found = host.get(job.job_id)
    assert found.status is JobStatus.RUNNING
    assert found.lease_until is not None
    # The times can be compared: the server runs on this host.
    assert alive.stat().st_mtime < found.lease_until.timestamp()


def test_a_job_lives_as_long_as_its_agent_renews_it(start: Callable[..., Host]) -> None:
    host = start()
    job = host.run(f"sleep {2 * LEASE_SECONDS}; echo done")
    eventually(lambda: host.get(job.job_id).is_terminal, 5 * LEASE_SECONDS)
    ended = host.get(job.job_id)
    assert (ended.status, ended.attempts) == (JobStatus.COMPLETED, 1)


def test_an_agent_that_looks_for_cancels_rarely_renews_its_leases_all_the_same(
    start: Callable[..., Host],
) -> None:
    host = start(cancel_poll_seconds=3 * LEASE_SECONDS)
    job = host.run(f"sleep {2 * LEASE_SECONDS}; echo done")
    eventually(lambda: host.get(job.job_id).is_terminal, 5 * LEASE_SECONDS)
    ended = host.get(job.job_id)
    assert (ended.status, ended.attempts) == (JobStatus.COMPLETED, 1)


def test_a_deleted_agent_stops_its_jobs_and_gives_them_back_at_once(
    start: Callable[..., Host],
) -> None:
    host = start()
    job = host.run("sleep 100")
    host.platform.store.workers.soft_delete("w1", now=host.platform.store.clock.now())
    back = eventually(lambda: _if_queued(host, job))
    assert "its worker was deleted" in back.history[-1]["reason"]
    assert not host.runs(job)


def test_an_agent_that_was_started_anew_elsewhere_gives_up_what_it_ran(
    start: Callable[..., Host],
) -> None:
    earlier = start()
    job = earlier.run("sleep 100")
    later = start()
    back = eventually(lambda: _if_moved(earlier, job))
    assert not earlier.runs(job)
    (gone,) = [entry for entry in back.history if entry["verb"] == "fail"]
    assert "its worker was started anew" in gone["reason"]
    assert later.agent.worker_id == earlier.agent.worker_id


def test_an_agent_that_was_started_anew_elsewhere_takes_no_hint_of_the_other_ones_jobs(
    start: Callable[..., Host], capsys: pytest.CaptureFixture[str]
) -> None:
    earlier = start()
    later = start()
    eventually(lambda: "agent.gave_up" in capsys.readouterr().err)
    now = later.platform.store.clock.now()
    job = factories.assigned_job("w1", now=now, command=f"sleep {LEASE_SECONDS / 2}")
    later.platform.store.jobs.submit([job])
    # Both boots consume the queue of that id, so the earlier one may get the message.
    earlier.agent.run_assigned(lease_of(job))
    ended = eventually(lambda: later.ended(job.job_id))
    assert [entry["verb"] for entry in ended.history] == ["assign", "start", "complete"]


def test_an_agent_knows_at_once_that_another_took_its_place(
    start: Callable[..., Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until its next heartbeat it used to run the later boot's jobs, and then had to stop them."""
    monkeypatch.setattr(Presence, "_give_up", lambda *_: None)
    earlier = start()
    later = start()
    eventually(lambda: earlier.agent._claims.is_replaced)
    job = factories.assigned_job("w1", now=later.platform.store.clock.now(), command="pwd")
    later.platform.store.jobs.submit([job])
    earlier.agent.run_assigned(lease_of(job))
    eventually(lambda: later.ended(job.job_id))
    assert "/agent1/" in later.printed(job.job_id)


def test_an_agent_whose_life_is_over_says_so_once(
    start: Callable[..., Host],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    give_up, times = Presence._give_up, list[str]()

    def counted(presence: Presence, reason: str) -> None:
        give_up(presence, reason)
        times.append(reason)

    monkeypatch.setattr(Presence, "_give_up", counted)
    start()
    start()
    eventually(lambda: len(times) > 1)
    assert capsys.readouterr().err.count("agent.gave_up") == 1


def test_an_agent_that_is_stopped_leaves_the_one_that_took_its_place_as_it_is(
    start: Callable[..., Host],
) -> None:
    earlier = start()
    later = start()
    earlier.agent.drain(0)
    found = later.platform.store.workers.get("w1")
    assert (found.draining, found.health) == (False, "OK")


def test_an_agent_runs_what_it_was_assigned_although_the_message_was_lost(
    start: Callable[..., Host],
) -> None:
    host = start()
    job = factories.assigned_job("w1", now=host.platform.store.clock.now())
    host.platform.store.jobs.submit([job])
    ended = eventually(lambda: host.ended(job.job_id))
    assert [entry["verb"] for entry in ended.history] == ["assign", "start", "complete"]


def test_an_agent_claims_what_is_queued_without_a_pass(start: Callable[..., Host]) -> None:
    host = start()
    now = host.platform.store.clock.now()
    jobs = [factories.queued_job(command="true", now=now, required_cpu=8) for _ in range(5)]
    # There is room for one at a time: the first is offered, and each end leads to the next claim.
    offered = dataclasses.replace(jobs[0], offered_to="w1")
    host.platform.store.jobs.submit([offered, *jobs[1:]])
    for job in jobs:
        ended = eventually(partial(host.ended, job.job_id))
        assert [entry["verb"] for entry in ended.history] == ["claim", "complete"]


@pytest.mark.parametrize("line", ["exit 1", "echo left > file; exit 1"])
def test_an_idle_agent_runs_again_at_once_what_failed_there(
    start: Callable[..., Host], line: str
) -> None:
    """It waited for the next tick, up to five seconds, with every place free."""
    host = start()
    job = factories.queued_job(
        command=line,
        now=host.platform.store.clock.now(),
        offered_to="w1",
        retry_on_exit=True,
        max_retries=2,
    )
    host.platform.store.jobs.submit([job])
    ended = eventually(lambda: host.ended(job.job_id))
    assert [entry["verb"] for entry in ended.history] == ["claim", "fail"] * 3


def test_a_job_that_was_expired_meanwhile_is_killed_and_its_result_refused(
    start: Callable[..., Host],
) -> None:
    host = start()
    job = host.run("trap '' TERM; sleep 100")
    eventually(lambda: _expired(host, job))
    eventually(lambda: not host.runs(job))
    refused = [e for e in host.get(job.job_id).history if e["verb"] == "refuse"]
    assert {(entry["attempt"], entry["worker"]) for entry in refused} <= {(1, "w1")}


def test_all_that_was_lost_is_stopped_before_any_of_it_is_noted(
    start: Callable[..., Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each note may take seconds while MongoDB is slow, and by then other agents run the jobs."""
    host = start()
    jobs = [host.run("sleep 100") for _ in range(2)]
    did: list[str] = []
    abandon, runner = host.agent.runner.abandon, host.agent.runner

    def abandoned(lease: Lease) -> None:
        did.append(f"stopped {lease.job_id}")
        abandon(lease)

    def noted(_: Lease, write: Write, **__: Any) -> None:
        # Output that was still on its way may be refused too: that note does not count.
        if write is Write.HEARTBEAT:
            did.append("noted")

    monkeypatch.setattr(runner, "abandon", abandoned)
    monkeypatch.setattr(host.store.refusals, "note", noted)
    store = host.platform.store
    requeued = {"$set": {"status": "QUEUED", "leaseId": None}, "$unset": {"leaseUntil": ""}}
    mine = {"_id": {"$in": [job.job_id for job in jobs]}}
    with store.client.start_session() as session:
        # In one transaction, so that one renewal finds both jobs lost.
        session.with_transaction(
            lambda own: store.database["jobs"].update_many(mine, requeued, session=own)
        )
    eventually(lambda: did.count("noted") >= 2)
    assert set(did[:2]) == {f"stopped {job.job_id}" for job in jobs}


def test_what_a_stopping_agent_gives_back_does_not_wait_for_a_tick(
    start: Callable[..., Host],
) -> None:
    # What it leaves for soon it never does: the process ends.
    host = start(soon=lambda _: None)
    job = host.run("sleep 60")
    store = host.platform.store
    other = {"kind": "celery", "bootId": "b2", "cpuCount": 8, "ramTotalMb": 8192}
    store.workers.register("w2", other, now=store.clock.now())
    host.agent.drain(0)
    given = host.get(job.job_id)
    assert (given.status, given.assigned_agent_id) == (JobStatus.ASSIGNED, "w2")


def test_a_stopping_agent_is_offline_at_once(start: Callable[..., Host]) -> None:
    host = start()
    began = time.monotonic()
    host.agent.drain(0)
    assert host.platform.store.workers.get("w1").health == "OFFLINE"
    assert time.monotonic() - began < 10


def test_an_agent_on_a_busy_host_gets_jobs_when_there_is_no_other(
    start: Callable[..., Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskyard.agent.host.Host.cpu_usage_percent", lambda _: 100.0)
    host = start()
    (job_id,) = operations.submit(host.platform, [{"command": "true"}], by="app")
    assert host.get(job_id).status is not JobStatus.QUEUED


def _if_queued(host: Host, job: Job) -> Job | None:
    found = host.get(job.job_id)
    return found if found.status is JobStatus.QUEUED else None


def _expired(host: Host, job: Job) -> bool:
    """Let the job's lease end and sweep; return whether it lost its lease.

    The agent may renew the lease before the sweep.
    """
    store = host.platform.store
    past = store.clock.now().replace(year=2020)
    store.database["jobs"].update_one({"_id": job.job_id}, {"$set": {"leaseUntil": past}})
    ticks.run(host.platform, "timeouts")
    return host.get(job.job_id).lease_id != job.lease_id


def _if_moved(host: Host, job: Job) -> Job | None:
    found = host.get(job.job_id)
    return found if found.lease_id != job.lease_id else None
