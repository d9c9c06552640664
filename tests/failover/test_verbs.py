"""Each verb while one of its commands fails once: nothing lost, nothing doubled, never a 500."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient

from taskyard import ids
from taskyard.agent.reporting import Reporter
from taskyard.api.app import create_app
from taskyard.context import Platform
from taskyard.jobs import lifecycle
from taskyard.jobs.model import Job, Lease, lease_of
from taskyard.jobs.retry import Cause
from taskyard.jobs.states import JobStatus
from taskyard.jobs.transition import Moment, Outcome
from taskyard.store.chunks import Chunk
from taskyard.store.failures import is_unavailable
from tests import factories
from tests.api.agents import HttpAgent
from tests.failover.conftest import Fail
from tests.helpers import eventually

LEASE = timedelta(seconds=15)

FAULTS: dict[str, dict[str, Any]] = {
    "closed": {"closeConnection": True},
    "not primary": {"errorCode": 10107},
    "conflict": {"errorCode": 112},
    "no majority": {"writeConcernError": {"code": 64, "errmsg": "", "errInfo": {"wtimeout": True}}},
}

#: After these the driver selects a primary anew, which takes a second, so few verbs are tried.
SLOW_FAULTS: dict[str, dict[str, Any]] = {
    "shutting down": {"errorCode": 91},
    "stepped down, written": {"writeConcernError": {"code": 189, "errmsg": "stepped down"}},
}


@dataclass
class World:
    """The platform, an app's client, an agent that uses MongoDB and one that uses HTTP."""

    platform: Platform
    web: FlaskClient
    reporter: Reporter
    #: The refusals on the way, all 503; any other failure fails the test.
    refused: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.http = HttpAgent(self.web, "h1", fenced=True)
        self.platform.store.workers.register(
            "w1",
            {"kind": "celery", "bootId": "b", "hostname": "h", "cpuCount": 8, "ramTotalMb": 8192},
            now=self.platform.store.clock.now(),
        )

    def ask(self, request: Callable[[], Any]) -> dict[str, Any]:
        """Return what a caller gets who retries after each 503."""

        def answered() -> Any:
            answer = request()
            if answer.status_code == 503:
                assert answer.headers["Retry-After"]
                self.refused.append(503)
                return None
            assert answer.status_code < 300, answer.text
            return [answer.get_json()]

        (answer,) = eventually(answered, 30)
        return dict(answer)

    def again(self, act: Callable[[], Any]) -> Any:
        """Return what an agent or a tick gets that retries while MongoDB is away."""

        def done() -> Any:
            try:
                return [act()]
            except Exception as error:
                if not is_unavailable(error):
                    raise
                return None

        (answer,) = eventually(done, 30)
        return answer

    def queued(self) -> Job:
        job = factories.queued_job(now=self.platform.store.clock.now())
        self.platform.store.jobs.submit([job])
        return job

    def assigned(self) -> Lease:
        at = self.platform.moment()
        job = self.platform.store.jobs.apply(
            lifecycle.assign(
                self.queued(),
                worker_id="w1",
                lease_id=ids.lease(),
                at=at,
                start_by=at.now + LEASE,
            )
        )
        assert job
        return lease_of(job)

    def running(self) -> Lease:
        lease = self.assigned()
        assert self.reporter.start(lease)
        return lease

    def polled(self) -> str:
        self.ask(self.http.register)
        job = self.queued()
        assert self.ask(self.http.poll)["job"]["jobId"] == job.job_id
        return job.job_id

    def job(self, named: Lease | str) -> Job:
        return self.platform.store.jobs.get(named if isinstance(named, str) else named.job_id)

    def verbs(self, job: Job) -> list[str]:
        return [entry["verb"] for entry in job.history]


@pytest.fixture
def world(platform: Platform) -> Iterator[World]:
    app = create_app(platform)
    token = platform.store.tokens.create(role="operator", name="test")
    web = app.test_client()
    web.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {token}"
    reporter = Reporter(platform)
    yield World(platform, web, reporter)
    reporter.close()


#: Makes the verb's next command fail.
Break = Callable[[], None]


def submit(world: World, fault: Break) -> None:
    fault()
    body = {"json": {"command": "true"}, "headers": {"Idempotency-Key": "k"}}
    job_id = world.ask(lambda: world.web.post("/api/jobs/create", **body))["jobId"]
    assert world.job(job_id)
    assert world.platform.store.database["jobs"].count_documents({}) == 1


def assign(world: World, fault: Break) -> None:
    job = world.queued()
    fault()
    world.again(lambda: world.platform.run_pass("test"))
    # The failed pass may have left its lock behind.
    world.platform.store.database["locks"].delete_many({})
    world.platform.run_pass("test")
    found = world.job(job.job_id)
    assert (found.status, found.attempts) == (JobStatus.ASSIGNED, 1)
    assert world.verbs(found) == ["assign"]


def start(world: World, fault: Break) -> None:
    lease = world.assigned()
    fault()
    started = world.reporter.start(lease)
    assert started is not None
    assert (started.status, started.attempts) == (JobStatus.RUNNING, 1)
    assert world.verbs(world.job(lease)) == ["assign", "start"]


def renew(world: World, fault: Break) -> None:
    lease = world.running()
    store = world.platform.store
    fault()
    now = store.clock.now() + LEASE
    held = world.again(lambda: store.leases.renew("w1", [lease], now=now, lease=LEASE, grace=LEASE))
    assert [renewed.lease for renewed in held] == [lease]
    assert world.job(lease).lease_until == now + LEASE


def output(world: World, fault: Break) -> None:
    lease = world.running()
    fault()
    chunks = [Chunk(seq=n, stream="stdout", data=str(n)) for n in range(3)]
    assert world.reporter.output(world.job(lease), chunks, total_bytes=3, truncated=False)
    job = world.job(lease)
    assert "".join(chunk.data for chunk in world.platform.store.output.read(job)) == "012"
    assert job.output_bytes == 3


def finish(world: World, fault: Break) -> None:
    lease = world.running()
    fault()
    ended = world.reporter.finish(lease, Outcome(), at=world.platform.moment())
    assert ended is not None
    assert ended.status is JobStatus.COMPLETED
    assert world.verbs(world.job(lease)) == ["assign", "start", "complete"]


def fail_with_retries_left(world: World, fault: Break) -> None:
    lease = world.running()
    fault()
    failed = Outcome(cause=Cause.AGENT, detail="disk")
    assert world.reporter.finish(lease, failed, at=world.platform.moment()) is not None
    job = world.job(lease)
    assert job.status is JobStatus.QUEUED
    assert world.verbs(job) == ["assign", "start", "fail"]


def release(world: World, fault: Break) -> None:
    lease = world.assigned()
    fault()
    assert world.reporter.release(lease, "a misfit") is not None
    job = world.job(lease)
    assert (job.status, job.attempts) == (JobStatus.QUEUED, 0)
    assert world.verbs(job) == ["assign", "release"]


def cancel(world: World, fault: Break) -> None:
    lease = world.running()
    fault()
    body = {"jobId": lease.job_id}
    world.ask(lambda: world.web.post("/api/jobs/cancel", json=body))
    assert world.job(lease).cancel_requested


def register(world: World, fault: Break) -> None:
    fault()
    world.ask(world.http.register)
    assert world.platform.store.workers.get("h1").kind == "http"


def heartbeat(world: World, fault: Break) -> None:
    job_id = world.polled()
    fault()
    assert world.ask(lambda: world.http.heartbeat(jobs=[job_id]))["lost"] == []


def poll(world: World, fault: Break) -> None:
    world.ask(world.http.register)
    job = world.queued()
    fault()
    assert world.ask(world.http.poll)["job"]["jobId"] == job.job_id
    assert world.job(job.job_id).attempts == 1


def stream(world: World, fault: Break) -> None:
    job_id = world.polled()
    fault()
    world.ask(lambda: world.http.stream("a", seq=0))
    printed = [chunk.data for chunk in world.platform.store.output.read(world.job(job_id))]
    assert printed == ["a"]


def result(world: World, fault: Break) -> None:
    job_id = world.polled()
    fault()
    world.ask(lambda: world.http.submit(0, stdout="all of it"))
    job = world.job(job_id)
    assert (job.status, job.attempts) == (JobStatus.COMPLETED, 1)
    assert world.verbs(job) == ["claim", "complete"]
    printed = [chunk.data for chunk in world.platform.store.output.read(job)]
    assert printed == ["all of it"]


def expire(world: World, fault: Break) -> None:
    lease = world.running()
    late = Moment(now=world.platform.store.clock.now() + 2 * LEASE)
    gone = lifecycle.expire(world.job(lease), at=late)
    assert gone
    fault()
    world.again(lambda: world.platform.store.jobs.apply_all([gone]))
    assert world.verbs(world.job(lease)) == ["assign", "start", "expire"]


Act = Callable[[World, Break], None]

#: Each verb with a command that it needs, and the command's collection.
TABLE: list[tuple[Act, str, str]] = [
    (submit, "insert", "idempotency"),
    (submit, "insert", "jobs"),
    (assign, "update", "jobs"),
    (start, "findAndModify", "jobs"),
    (renew, "update", "jobs"),
    (output, "update", "jobs"),
    (output, "insert", "output"),
    (finish, "findAndModify", "jobs"),
    (fail_with_retries_left, "findAndModify", "jobs"),
    (release, "findAndModify", "jobs"),
    (cancel, "findAndModify", "jobs"),
    (register, "findAndModify", "workers"),
    (heartbeat, "findAndModify", "workers"),
    (heartbeat, "update", "jobs"),
    (poll, "findAndModify", "jobs"),
    (stream, "findAndModify", "jobs"),
    (stream, "insert", "output"),
    (result, "insert", "output"),
    (result, "findAndModify", "jobs"),
    (expire, "update", "jobs"),
]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(
    ("act", "command", "collection"), TABLE, ids=lambda part: getattr(part, "__name__", part)
)
def test_a_command_that_fails_once_costs_nothing(
    world: World, fail: Fail, act: Act, command: str, collection: str, fault: str
) -> None:
    act(world, lambda: fail([command], collection=collection, **FAULTS[fault]))


@pytest.mark.parametrize("fault", SLOW_FAULTS)
@pytest.mark.parametrize(
    ("act", "command", "collection"),
    [row for row in TABLE if row[0] in (submit, assign, renew, finish, poll)],
    ids=lambda part: getattr(part, "__name__", part),
)
def test_a_primary_that_steps_down_costs_nothing(
    world: World, fail: Fail, act: Act, command: str, collection: str, fault: str
) -> None:
    act(world, lambda: fail([command], collection=collection, **SLOW_FAULTS[fault]))


@pytest.mark.parametrize("fault", [{"errorCode": 91}, {"errorCode": 112}, FAULTS["no majority"]])
def test_a_command_that_goes_on_failing_is_a_503_and_no_500(
    world: World, fail: Fail, fault: dict[str, Any]
) -> None:
    fail(["insert", "find", "update", "findAndModify"], times=10**6, **fault)
    answer = world.web.post("/api/jobs/create", json={"command": "true"})
    assert (answer.status_code, answer.headers.get("Retry-After")) == (503, "2")
    assert answer.get_json()["status"] == 503
