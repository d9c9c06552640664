"""Each rule of the checker finds its breach, and passes a run that has none."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from taskyard.documents import to_document
from taskyard.ids import lease as new_lease
from taskyard.jobs import lifecycle
from taskyard.jobs.model import Job, lease_of
from taskyard.jobs.transition import Moment, Outcome
from tests.chaos.checker import AFTERLIFE_SECONDS, MESSAGE_SECONDS, RULES, SKEW_SECONDS, check
from tests.chaos.evidence import Answer, Evidence, Run, Survivor, defects_in, runs_of
from tests.chaos.job import expected
from tests.chaos.load import Accepted
from tests.chaos.plan import JobPlan
from tests.factories import after, queued_job

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
PLAN = JobPlan(stdout_bytes=300, stderr_bytes=20)


def second(number: float) -> float:
    return NOW.timestamp() + number


def at(number: float) -> Moment:
    return Moment(now=NOW + timedelta(seconds=number))


def submitted(job_id: str, name: str) -> Job:
    entry = {"at": NOW, "verb": "submit", "from": None, "to": "QUEUED", "attempt": 0}
    return queued_job(job_id=job_id, env={"CHAOS_JOB": name}, now=NOW, history=(entry,))


def started(job: Job, worker: str, when: float, *, lease: float = 3) -> Job:
    job = after(
        job,
        lifecycle.assign(
            job,
            worker_id=worker,
            lease_id=new_lease(),
            at=at(when),
            start_by=at(when + lease).now,
        ),
    )
    until = at(when + lease).now
    return after(job, lifecycle.start(job, lease_of(job), at=at(when), lease_until=until))


def recovered_job() -> Job:
    """A job whose first worker was lost and whose second attempt completed on another worker."""
    job = started(submitted("job-1", "key-1.0"), "w1", 1)
    lost = lifecycle.expire(job, at=at(5))
    assert lost is not None
    job = started(after(job, lost), "w2", 6)
    return after(job, lifecycle.finish(job, lease_of(job), Outcome(), at=at(8)))


def cancelled_job() -> Job:
    job = submitted("job-2", "key-2.0")
    return after(job, lifecycle.cancel(job, by="op", reason=None, at=at(1)))


def printed(job_id: str, attempt: int) -> dict[str, tuple[int, str]]:
    texts = {
        "stdout": expected(job_id, attempt, "stdout", PLAN.stdout_bytes).encode(),
        "stderr": expected(job_id, attempt, "stderr", PLAN.stderr_bytes).encode(),
    }
    return {name: (len(text), hashlib.sha256(text).hexdigest()) for name, text in texts.items()}


@pytest.fixture
def evidence() -> Evidence:
    """The evidence of a good run: one job recovered, one job cancelled before its start."""
    nothing = hashlib.sha256(b"").hexdigest()
    return Evidence(
        accepted={
            "job-1": Accepted(job_id="job-1", name="key-1.0", plan=PLAN),
            "job-2": Accepted(job_id="job-2", name="key-2.0", plan=PLAN),
        },
        keys={"key-1": [("job-1",), ("job-1",)], "key-2": [("job-2",)]},
        runs=[
            Run(job_id="job-1", attempt=1, pid=11, began=second(1.1), last=second(3.5)),
            Run(job_id="job-1", attempt=2, pid=12, began=second(6.1), last=second(7.9), code=0),
        ],
        documents={job.job_id: to_document(job) for job in (recovered_job(), cancelled_job())},
        answers={
            "job-1": Answer(
                status="COMPLETED",
                attempts=2,
                exit_code=0,
                output_bytes=320,
                printed=printed("job-1", 2),
            ),
            "job-2": Answer(
                status="CANCELLED",
                attempts=0,
                exit_code=None,
                output_bytes=0,
                printed={"stdout": (0, nothing), "stderr": (0, nothing)},
            ),
        },
        chunks={("job-1", 1): [0], ("job-1", 2): [0, 1, 2]},
        workers=[
            {
                "workerId": "w2",
                "cpuCount": 1,
                "reservedCpu": 0,
                "reservedRamMb": 0,
                "currentJobIds": [],
            }
        ],
        messages=[("scheduler", 1.0)],
    )


def test_a_run_that_went_well_passes(evidence: Evidence) -> None:
    assert check(evidence) == []


def test_a_job_that_was_over_before_its_cancel_holds_nothing_any_more(evidence: Evidence) -> None:
    """Its end is reported late, after the cancel; another job has its CPU by then."""
    job = started(submitted("job-2", "key-2.0"), "w2", 3)
    job = after(job, lifecycle.cancel(job, by="op", reason=None, at=at(7)))
    job = after(job, lifecycle.finish(job, lease_of(job), Outcome(), at=at(5.5)))
    _store(evidence, job)
    over = Run(job_id="job-2", attempt=1, pid=13, began=second(3.1), last=second(5.4), code=0)
    evidence.runs = [*evidence.runs, over]
    assert list(RULES["capacity"](evidence)) == []
    evidence.runs = [*evidence.runs[:-1], replace(over, last=second(6.5))]
    assert [job_id for job_id, _ in RULES["capacity"](evidence)] == ["job-1"]


# Each breach is one change to the good run's evidence. The table below says which rule must find
# it, and which job the rule must name.


def is_lost(evidence: Evidence) -> None:
    evidence.documents = {"job-1": evidence.documents["job-1"]}
    evidence.answers = {"job-1": evidence.answers["job-1"]}


def never_ends(evidence: Evidence) -> None:
    job = started(submitted("job-2", "key-2.0"), "w1", 1)
    _store(evidence, job)


def ends_twice(evidence: Evidence) -> None:
    history = evidence.documents["job-1"]["history"]
    evidence.documents["job-1"]["history"] = [*history, history[-1]]


def is_given_by_an_old_attempt(evidence: Evidence) -> None:
    """A stale write, which must never be accepted."""
    history = evidence.documents["job-1"]["history"]
    history[-1] = {**history[-1], "attempt": 1, "worker": "w1"}


def is_completed_without_a_run(evidence: Evidence) -> None:
    evidence.runs = evidence.runs[:1]


def ran_beside_its_successor(evidence: Evidence) -> None:
    evidence.runs[0].last = second(6.2)


def was_begun_twice(evidence: Evidence) -> None:
    again = replace(evidence.runs[1], pid=13, began=second(7.95), last=second(7.99))
    evidence.runs = [*evidence.runs, again]


def ran_without_a_lease(evidence: Evidence) -> None:
    evidence.runs = [
        Run(job_id="job-2", attempt=1, pid=14, began=second(0.5), last=second(0.6)),
        *evidence.runs,
    ]


def began_after_its_lease(evidence: Evidence) -> None:
    evidence.runs[0].began = evidence.runs[0].last = second(5 + SKEW_SECONDS + 0.1)


def outlived_its_lease(evidence: Evidence) -> None:
    evidence.runs[1].last = second(8 + AFTERLIFE_SECONDS + 0.1)


def left_a_process(evidence: Evidence) -> None:
    evidence.survivors = [Survivor(pid=99, job_id="job-1", command="sleep 1000")]


def kept_its_lease(evidence: Evidence) -> None:
    evidence.documents["job-1"]["leaseUntil"] = NOW


def is_still_in_use(evidence: Evidence) -> None:
    evidence.workers = [{**evidence.workers[0], "reservedCpu": 1}]


def holds_more_than_it_has(evidence: Evidence) -> None:
    evidence.workers = [{**evidence.workers[0], "cpuCount": 0.5}]


def has_a_gap(evidence: Evidence) -> None:
    evidence.chunks = {("job-1", 2): [0, 2]}


def has_a_double(evidence: Evidence) -> None:
    evidence.chunks = {("job-1", 2): [0, 1, 1]}


def shows_another_attempts_output(evidence: Evidence) -> None:
    _show(evidence, printed=printed("job-1", 1))


def counts_other_bytes(evidence: Evidence) -> None:
    _show(evidence, output_bytes=319)


def went_backwards(evidence: Evidence) -> None:
    history = evidence.documents["job-1"]["history"]
    history[2] = {**history[2], "to": "QUEUED"}


def lost_a_part_of_its_history(evidence: Evidence) -> None:
    del evidence.documents["job-1"]["history"][0]


def was_started_after_its_cancel(evidence: Evidence) -> None:
    document = evidence.documents["job-2"]
    start = evidence.documents["job-1"]["history"][1]
    document["history"] = [*document["history"], start]


def ran_after_its_cancel(evidence: Evidence) -> None:
    late = second(1 + SKEW_SECONDS + 0.1)
    run = Run(job_id="job-2", attempt=1, pid=15, began=late, last=late)
    evidence.runs = [*evidence.runs, run]


def key_gave_two_answers(evidence: Evidence) -> None:
    evidence.keys = {"key-1": [("job-1",), ("job-3",)]}


def key_gave_two_jobs(evidence: Evidence) -> None:
    evidence.documents["job-2"]["env"] = {"CHAOS_JOB": "key-1.0"}


def left_a_message(evidence: Evidence) -> None:
    evidence.messages = [("agent.w1", 1.0)]


def left_an_old_tick(evidence: Evidence) -> None:
    evidence.messages = [("scheduler", MESSAGE_SECONDS + 1)]


def is_shown_otherwise(evidence: Evidence) -> None:
    _show(evidence, status="FAILED")


def got_a_server_error(evidence: Evidence) -> None:
    evidence.wrong = ["POST /api/jobs/create: 500"]


def needed_a_restart(evidence: Evidence) -> None:
    evidence.own_ends = ["agent1 ended with code 1"]


def logged_a_defect(evidence: Evidence) -> None:
    defect = {"event": "agent.failed", "level": "error", "exception": "KeyError: 1"}
    log = ["beat v5.7 is starting.", '{"event": "cut', json.dumps(defect), ""]
    evidence.defects = defects_in("agent1.log", "\n".join(log))


BREACHES: list[tuple[Callable[[Evidence], None], str, str]] = [
    (is_lost, "ended", "job-2"),
    (never_ends, "ended", "job-2"),
    (ends_twice, "result", "job-1"),
    (is_given_by_an_old_attempt, "result", "job-1"),
    (is_completed_without_a_run, "result", "job-1"),
    (ran_beside_its_successor, "overlap", "job-1"),
    (was_begun_twice, "leased", "job-1"),
    (ran_without_a_lease, "leased", "job-2"),
    (began_after_its_lease, "leased", "job-1"),
    (outlived_its_lease, "afterlife", "job-1"),
    (left_a_process, "survivor", "job-1"),
    (kept_its_lease, "in-use", "job-1"),
    (is_still_in_use, "in-use", ""),
    (holds_more_than_it_has, "capacity", "job-1"),
    (has_a_gap, "output", "job-1"),
    (has_a_double, "output", "job-1"),
    (shows_another_attempts_output, "output", "job-1"),
    (counts_other_bytes, "output", "job-1"),
    (went_backwards, "history", "job-1"),
    (lost_a_part_of_its_history, "history", "job-1"),
    (was_started_after_its_cancel, "cancelled", "job-2"),
    (ran_after_its_cancel, "cancelled", "job-2"),
    (key_gave_two_answers, "idempotency", "job-1"),
    (key_gave_two_jobs, "idempotency", "job-1"),
    (left_a_message, "queues", ""),
    (left_an_old_tick, "queues", ""),
    (is_shown_otherwise, "answer", "job-1"),
    (got_a_server_error, "served", ""),
    (needed_a_restart, "process", ""),
    (logged_a_defect, "logged", ""),
]


@pytest.mark.parametrize(
    ("breach", "rule", "job_id"), BREACHES, ids=[breach.__name__ for breach, _, _ in BREACHES]
)
def test_a_breach_is_found_and_named(
    evidence: Evidence, breach: Callable[[Evidence], None], rule: str, job_id: str
) -> None:
    breach(evidence)
    assert (rule, job_id) in {(found.rule, found.job_id) for found in check(evidence)}


def test_every_rule_has_a_breach_that_it_finds() -> None:
    assert {rule for _, rule, _ in BREACHES} == set(RULES)


def test_a_refused_write_in_the_history_is_no_transition(evidence: Evidence) -> None:
    document = evidence.documents["job-1"]
    refused = {**document["history"][2], "verb": "refuse", "from": "COMPLETED", "to": "COMPLETED"}
    document["history"] = [*document["history"], refused]
    assert check(evidence) == []


def test_runs_are_read_from_the_log_with_their_children() -> None:
    lines = [
        "start job-1 1 7 100.000",
        "child job-1 1 7 100.900",
        "end job-1 1 7 100.500 3",
        "start job-1 2 8 101.000",
    ]
    assert runs_of(line.split() for line in lines) == [
        Run(job_id="job-1", attempt=1, pid=7, began=100.0, last=100.9, code=3),
        Run(job_id="job-1", attempt=2, pid=8, began=101.0, last=101.0),
    ]


def _store(evidence: Evidence, job: Job) -> None:
    evidence.documents = {**evidence.documents, job.job_id: to_document(job)}


def _show(evidence: Evidence, **fields: Any) -> None:
    evidence.answers = {**evidence.answers, "job-1": replace(evidence.answers["job-1"], **fields)}
