"""The rules that every run must keep, as pure functions over the evidence.

``check`` returns one Violation for each breach; no violation means that the run has passed.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from taskyard.jobs.states import HELD, ROADS, TERMINAL, JobStatus, Verb
from taskyard.jobs.transition import HISTORY_KEPT
from tests.chaos.evidence import Evidence, Run
from tests.chaos.holds import holds, steps
from tests.chaos.job import expected

#: Tolerance between two clocks of one host: the jobs' wall clock, and mongod's clock as the
#: platform measures it.
SKEW_SECONDS = 0.5

#: The longest time from the end of an attempt until the agent has killed its last process.
AFTERLIFE_SECONDS = 2.0

#: The greatest age of a tick's message, waiting or leased; the broker's lease is 15 s.
MESSAGE_SECONDS = 30.0

#: Rounding errors in sums of fractions of a CPU.
_CPU_SLACK = 1e-6

_SCHEDULER_QUEUE = "scheduler"


@dataclass(frozen=True, kw_only=True)
class Violation:
    """One breach of one rule."""

    rule: str
    job_id: str
    detail: str

    def __str__(self) -> str:
        return f"{self.rule:12} {self.job_id or '-'}: {self.detail}"


Found = Iterator[tuple[str, str]]


def check(evidence: Evidence) -> list[Violation]:
    """Return all breaches of all rules."""
    return [
        Violation(rule=rule, job_id=job_id, detail=detail)
        for rule, breaches in RULES.items()
        for job_id, detail in breaches(evidence)
    ]


def ended(evidence: Evidence) -> Found:
    """Every accepted job is stored, and every stored job is in a terminal state."""
    for job_id in evidence.accepted:
        if job_id not in evidence.documents:
            yield job_id, "was accepted, and is not stored"
    for job_id, document in evidence.documents.items():
        if document["status"] not in TERMINAL:
            yield job_id, f"has not ended: {document['status']}"


def one_result(evidence: Evidence) -> Found:
    """One entry of the history ends the job, and it belongs to the highest attempt."""
    runs = _by_job(evidence.runs)
    for job_id, document in evidence.documents.items():
        entries = steps(document)
        ends = [entry for entry in entries if entry["to"] in TERMINAL]
        if document["status"] in TERMINAL and len(ends) != 1:
            yield job_id, f"{len(ends)} results are recorded"
        highest = max([entry["attempt"] for entry in entries], default=0)
        if ends and ends[-1]["attempt"] != highest:
            yield job_id, f"attempt {ends[-1]['attempt']} of {highest} gave the result"
        if document["status"] == JobStatus.COMPLETED:
            codes = [r.code for r in runs[job_id] if r.attempt == document["attempts"]]
            if codes != [0]:
                yield job_id, f"is COMPLETED, and the log of that attempt says {codes}"


def no_overlap(evidence: Evidence) -> Found:
    """No run of a job shows life after a later run has begun, whatever their leases."""
    for job_id, runs in _by_job(evidence.runs).items():
        held = holds(steps(evidence.documents.get(job_id, {})))
        for earlier, later in pairwise(runs):
            if earlier.last > later.began:
                beyond = earlier.last - later.began
                yield (
                    job_id,
                    f"attempt {earlier.attempt} lived {beyond:.3f} s beside attempt "
                    f"{later.attempt}, which began at {later.began:.3f}; "
                    + "; ".join(map(str, held)),
                )


def runs_are_leased(evidence: Evidence) -> Found:
    """Each attempt was run once, under a hold of that attempt, and begun before the hold's end."""
    for job_id, runs in _by_job(evidence.runs).items():
        document = evidence.documents.get(job_id)
        if document is None:
            yield job_id, "ran, and is not stored"
            continue
        entries = steps(document)
        leased = {hold.attempt: hold for hold in holds(entries) if hold.by != Verb.RELEASE}
        seen: set[int] = set()
        for run in runs:
            if run.attempt in seen:
                yield job_id, f"attempt {run.attempt} was begun twice"
            seen.add(run.attempt)
            hold = leased.get(run.attempt)
            if hold is None:
                if not _forgotten(entries, run.attempt):
                    yield job_id, f"attempt {run.attempt} ran without ever being started"
            elif hold.ended is not None and run.began > hold.ended + SKEW_SECONDS:
                yield job_id, f"began {run.began - hold.ended:.3f} s too late: {hold}"


def no_afterlife(evidence: Evidence) -> Found:
    """No process of a job outlives its attempt, not even one that has left its process group."""
    for job_id, runs in _by_job(evidence.runs).items():
        leased = {hold.attempt: hold for hold in holds(steps(evidence.documents.get(job_id, {})))}
        for run in runs:
            hold = leased.get(run.attempt)
            if hold and hold.ended and run.last > hold.ended + AFTERLIFE_SECONDS:
                yield job_id, f"lived {run.last - hold.ended:.3f} s too long: {hold}"


def no_survivors(evidence: Evidence) -> Found:
    """In the end, no process of a job is left on the machine."""
    for survivor in evidence.survivors:
        yield survivor.job_id, f"process {survivor.pid} is left: {survivor.command}"


def nothing_in_use(evidence: Evidence) -> Found:
    """In the end, no worker has resources in use and no ended job has a lease."""
    for document in evidence.documents.values():
        if document.get("leaseUntil") is not None and document["status"] not in HELD:
            yield document["_id"], "has ended, and still has a lease"
    for worker in evidence.workers:
        used = (worker["reservedCpu"], worker["reservedRamMb"], worker["currentJobIds"])
        if used != (0, 0, []):
            yield "", f"{worker['workerId']} still has in use: {used}"


def nobody_is_overcommitted(evidence: Evidence) -> Found:
    """At no instant did a worker's RUNNING jobs need more CPUs than it has."""
    offered = {worker["workerId"]: worker["cpuCount"] for worker in evidence.workers}
    changes: dict[str, list[tuple[float, float, str]]] = defaultdict(list)
    alive = {(run.job_id, run.attempt): run.last for run in evidence.runs}
    for job_id, document in evidence.documents.items():
        held, cpu = holds(steps(document)), document["requiredCpu"]
        for hold in held:
            began = hold.began
            if hold is held[-1] and (started := document.get("startedAt")):
                # An agent may claim a job before it has room for it; CPUs are in use only from
                # ``startedAt``, when the job's process was spawned.
                began = max(began, started.timestamp())
            changes[hold.worker].append((began, cpu, job_id))
            if (ended := hold.ended) is not None:
                if ended == hold.asked:
                    # The job ended before its cancel but reported later, so the history gives only
                    # the time of the cancel.
                    ended = max(began, min(ended, alive.get((job_id, hold.attempt), ended)))
                changes[hold.worker].append((ended, -cpu, job_id))
    for worker, moves in changes.items():
        used = 0.0
        # Sorted, ends (negative) come before begins of the same instant.
        for at, cpu, job_id in sorted(moves):
            used += cpu
            if used > offered.get(worker, used) + _CPU_SLACK:
                yield job_id, f"{worker} held {used:g} CPUs of {offered[worker]:g} at {at:.3f}"


def output_is_whole(evidence: Evidence) -> Found:
    """Chunks have no gaps or duplicates, and a run that was not killed has its whole output."""
    for (job_id, attempt), numbers in evidence.chunks.items():
        if list(numbers) != list(range(len(numbers))):
            yield job_id, f"attempt {attempt} has the chunks {_brief(numbers)}"
    runs = {(run.job_id, run.attempt): run for run in evidence.runs}
    for job_id, accepted in evidence.accepted.items():
        answer = evidence.answers.get(job_id)
        run = runs.get((job_id, answer.attempts)) if answer else None
        # Only a run that came to its end (``code``) is known to have printed everything.
        if answer is None or run is None or run.code is None or answer.status == "CANCELLED":
            continue
        if answer.exit_code != run.code:
            continue  # the agent failed the job, perhaps because output was lost
        sizes = {"stdout": accepted.plan.stdout_bytes, "stderr": accepted.plan.stderr_bytes}
        for stream, size in sizes.items():
            text = expected(job_id, answer.attempts, stream, size).encode()
            wanted = (len(text), hashlib.sha256(text).hexdigest())
            if answer.printed[stream] != wanted:
                yield job_id, f"{stream} is {answer.printed[stream]}, printed was {wanted}"
        if answer.output_bytes != sum(sizes.values()):
            yield job_id, f"counts {answer.output_bytes} bytes of {sum(sizes.values())}"


def history_follows_the_roads(evidence: Evidence) -> Found:
    """Each entry begins in the state where the one before ended, on a transition of ROADS."""
    for job_id, document in evidence.documents.items():
        entries = steps(document)
        if len(document["history"]) < HISTORY_KEPT and entries[0]["verb"] != Verb.SUBMIT:
            yield job_id, f"its history begins with {entries[0]['verb']}"
        for entry in entries:
            if entry["verb"] != Verb.SUBMIT and not _is_road(entry):
                yield job_id, f"{entry['verb']} led from {entry['from']} to {entry['to']}"
        for before, after in pairwise(entries):
            if after["from"] != before["to"]:
                yield job_id, f"{after['verb']} began at {after['from']}, not {before['to']}"
            if after["attempt"] < before["attempt"]:
                yield job_id, f"attempt {after['attempt']} came after {before['attempt']}"
        if entries[-1]["to"] != document["status"]:
            yield job_id, f"is {document['status']}, its history says {entries[-1]['to']}"


def cancelled_stay(evidence: Evidence) -> Found:
    """A cancelled job is never started, neither by its history nor by the jobs' log."""
    runs = _by_job(evidence.runs)
    for job_id, document in evidence.documents.items():
        cancelled_at = None
        for entry in steps(document):
            if cancelled_at is not None and entry["verb"] in (Verb.ASSIGN, Verb.START, Verb.CLAIM):
                yield job_id, f"{entry['verb']} after its cancel"
            if entry["verb"] == Verb.CANCEL:
                cancelled_at = entry["at"].timestamp()
                before_start = entry["from"] != JobStatus.RUNNING
                late = [r for r in runs[job_id] if r.began > cancelled_at + SKEW_SECONDS]
                for run in late if before_start else []:
                    yield job_id, f"began {run.began - cancelled_at:.3f} s after its cancel"


def keys_name_one_job(evidence: Evidence) -> Found:
    """An Idempotency-Key gave the same ids each time, and each planned job is stored once."""
    for key, answers in evidence.keys.items():
        if len(set(answers)) > 1:
            yield answers[0][0], f"{key} gave {sorted(set(answers))}"
    stored = defaultdict(list)
    for job_id, document in evidence.documents.items():
        stored[document["env"]["CHAOS_JOB"]].append(job_id)
    for name, job_ids in stored.items():
        if len(job_ids) > 1:
            yield job_ids[0], f"{name} is stored {len(job_ids)} times: {job_ids}"


def queues_drain(evidence: Evidence) -> Found:
    """In the end, no message to an agent is left, and no tick's message is old."""
    for queue, age in evidence.messages:
        if queue.startswith("agent.") or (queue == _SCHEDULER_QUEUE and age > MESSAGE_SECONDS):
            yield "", f"a message of {queue} is left after {age:.0f} s"


def answers_agree(evidence: Evidence) -> Found:
    """The API shows what is stored."""
    for job_id, answer in evidence.answers.items():
        document = evidence.documents[job_id]
        shown = (answer.status, answer.attempts, answer.exit_code)
        stored = (document["status"], document["attempts"], document.get("exitCode"))
        if shown != stored:
            yield job_id, f"is shown as {shown}, and stored as {stored}"


def clients_were_served(evidence: Evidence) -> Found:
    """Clients got only 2xx answers, and 503 with Retry-After."""
    for words in evidence.wrong:
        yield "", words


def processes_stay(evidence: Evidence) -> Found:
    """No process that had not been killed needed a restart."""
    for words in evidence.own_ends:
        yield "", words


def nothing_failed_unseen(evidence: Evidence) -> Found:
    """No process logged an exception that nobody expected, even if all went well in the end."""
    for words in evidence.defects:
        yield "", words


RULES: Mapping[str, Callable[[Evidence], Found]] = {
    "ended": ended,
    "result": one_result,
    "overlap": no_overlap,
    "leased": runs_are_leased,
    "afterlife": no_afterlife,
    "survivor": no_survivors,
    "in-use": nothing_in_use,
    "capacity": nobody_is_overcommitted,
    "output": output_is_whole,
    "history": history_follows_the_roads,
    "cancelled": cancelled_stay,
    "idempotency": keys_name_one_job,
    "queues": queues_drain,
    "answer": answers_agree,
    "served": clients_were_served,
    "process": processes_stay,
    "logged": nothing_failed_unseen,
}


def _by_job(runs: Any) -> dict[str, list[Run]]:
    found: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        found[run.job_id].append(run)
    return found


def _forgotten(entries: list[Mapping[str, Any]], attempt: int) -> bool:
    """Whether the attempt's entries may have been dropped from a history of full length."""
    return len(entries) >= HISTORY_KEPT and attempt <= entries[0]["attempt"]


def _is_road(entry: Mapping[str, Any]) -> bool:
    road = (JobStatus(entry["from"]), JobStatus(entry["to"]))
    return road in ROADS[Verb(entry["verb"])]


def _brief(numbers: Any) -> str:
    return ", ".join(map(str, list(numbers)[:20]))
