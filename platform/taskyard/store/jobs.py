"""Writes to the jobs collection: one guarded operation per transition."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from typing import Any

from pymongo import ReturnDocument
from pymongo.database import Database
from pymongo.errors import BulkWriteError, DuplicateKeyError, PyMongoError, WriteConcernError

from taskyard import events
from taskyard.documents import to_document, to_record
from taskyard.errors import Conflict, NotFound, StaleAttempt
from taskyard.jobs import counters
from taskyard.jobs.model import Job
from taskyard.jobs.states import TERMINAL, Verb
from taskyard.jobs.transition import Transition
from taskyard.store import statements
from taskyard.store.counters import CounterStore
from taskyard.store.failures import accept_duplicates, insert_missing, is_unavailable, unconfirmed
from taskyard.store.mailboxes import Mailboxes
from taskyard.store.statements import Statement
from taskyard.store.together import Together

Document = dict[str, Any]

#: How often a verb is decided before it gives up, once more after each lost race. A lost race
#: means that somebody else moved the job, and a job has few states left to move to.
DECISIONS = 8

_PAST = {
    Verb.ASSIGN: "assigned",
    Verb.START: "started",
    Verb.CLAIM: "claimed",
    Verb.COMPLETE: "completed",
    Verb.FAIL: "failed",
    Verb.TIME_OUT: "timed_out",
    Verb.EXPIRE: "expired",
    Verb.RELEASE: "released",
    Verb.CANCEL: "cancelled",
}


#: How many of the last history lines may hold one that was just written: notes of refusals may
#: have been appended after it.
_LAST_LINES = 5


class JobStore:
    """Verbs on jobs. There is no ``set_status``: only a Transition moves a job."""

    def __init__(
        self, database: Database[dict[str, Any]], counters: CounterStore, mailboxes: Mailboxes
    ) -> None:
        self._jobs = database["jobs"]
        self._counters = counters
        self._mailboxes = mailboxes
        self._insert_soon = Together(self._insert_offered)

    def submit(self, jobs: Sequence[Job]) -> None:
        """Record new jobs on a majority, and tell the agents to which they are offered; jobs that
        exist already are left as they are.
        """
        documents = [to_document(job) for job in jobs]
        if len(documents) == 1:
            self._insert_soon(documents[0])
        else:
            self._insert(documents)
            self._offer(documents)
        for job in jobs:
            events.emit("job.submitted", job=job.job_id, shape=job.shape)

    def _insert_offered(self, documents: Sequence[Document]) -> None:
        """Insert jobs that were submitted one by one. Their agents are told before: by the time
        that they look, the jobs are there, though maybe not on a majority yet. What they then claim
        is, since a majority that has the claim also has all earlier writes.
        """
        self._offer(documents)
        self._insert(documents)

    def _offer(self, documents: Sequence[Document]) -> None:
        pairs = [(document.get("offeredTo"), document["_id"]) for document in documents]
        self._mailboxes.offer([(worker, job_id) for worker, job_id in pairs if worker])

    def _insert(self, documents: Sequence[Document]) -> None:
        if len(documents) == 1 and self._insert_one(documents[0]):
            return
        insert_missing(self._jobs, documents)

    def _insert_one(self, document: Document) -> bool:
        """Insert one job, at less cost than many. False when its id exists already: that error does
        not tell whether a majority has the job.
        """
        try:
            self._jobs.insert_one(document)
        except DuplicateKeyError:
            return False
        except WriteConcernError as error:
            raise unconfirmed() from error
        return True

    def find(self, job_id: str) -> Job | None:
        """The job, or None."""
        document = self._jobs.find_one({"_id": job_id})
        return to_record(Job, document) if document else None

    def get(self, job_id: str) -> Job:
        """The job. Raises NotFound."""
        job = self.find(job_id)
        if job is None:
            raise NotFound("job", job_id)
        return job

    def confirmed(self, job_id: str) -> Job | None:
        """The job as it is now, returned once a majority has this state; None when there is none.

        A write that changes nothing waits for the majority as any other does.
        """
        document = self._jobs.find_one_and_update({"_id": job_id}, {"$setOnInsert": {}})
        return to_record(Job, document) if document else None

    def apply(self, transition: Transition) -> Job | None:
        """Perform one transition; None when its guard no longer matches."""
        document = self._jobs.find_one_and_update(
            {"_id": transition.job_id, **transition.guard},
            statements.update(transition),
            return_document=ReturnDocument.AFTER,
        )
        self._told([transition], {transition.job_id} if document else set())
        return to_record(Job, document) if document else None

    def change(
        self, job_id: str, decide: Callable[[Job], Transition], *, known: Job | None = None
    ) -> Job:
        """Read, decide, write; decide again when somebody was faster. ``known`` is the job as it
        was read just now.

        Raises NotFound, Conflict, and whatever ``decide`` raises.
        """
        for _ in range(DECISIONS):
            changed = self.apply(decide(known) if known else self._decided(job_id, decide))
            if changed is not None:
                return changed
            known = None
        raise Conflict(f"{job_id} changed too often at once; try again.")

    def _decided(self, job_id: str, decide: Callable[[Job], Transition]) -> Transition:
        try:
            return decide(self.get(job_id))
        except StaleAttempt:
            raise
        except Conflict:
            # A caller relies on hearing that a job has ended: a majority must have that first.
            job = self.confirmed(job_id)
            if job is None:
                raise
            return decide(job)

    def apply_all(self, transitions: Sequence[Transition]) -> list[Transition]:
        """Perform many transitions in one command; returns those that were performed.

        When the outcome of the command is unknown, it is sent once more; transitions that were
        performed the first time are found by their lines in the jobs' histories.
        """
        if not transitions:
            return []
        writes = statements.of(transitions)
        try:
            performed = self._write(writes)
        except PyMongoError as error:
            if not is_unavailable(error):
                raise
            # The driver itself never retries a statement that updates many jobs.
            performed = self._write(writes)
        won = transitions if performed == len(transitions) else self._performed(transitions)
        self._told(transitions, {transition.job_id for transition in won})
        return list(won)

    def delete(self, job_ids: Sequence[str]) -> int:
        """Remove those of these jobs that have ended; returns how many. Their output and result
        files go before (retention).
        """
        states = [str(status) for status in TERMINAL]
        ended = {"_id": {"$in": list(job_ids)}, "status": {"$in": states}}
        return self._jobs.delete_many(ended).deleted_count

    def _write(self, writes: Sequence[Statement]) -> int:
        """Execute the statements; returns how many jobs matched. Raises PyMongoError,
        StoreUnavailable.
        """
        try:
            return self._jobs.bulk_write(writes, ordered=False).matched_count
        except BulkWriteError as error:
            accept_duplicates(error)
            return int(error.details["nMatched"])

    def _performed(self, transitions: Sequence[Transition]) -> list[Transition]:
        """The transitions that were performed: the job has their history line and their lease.

        The line alone is not enough: another pass may have written it in the same millisecond.
        """
        ids = [transition.job_id for transition in transitions]
        wanted = {"leaseId": 1, "history": {"$slice": -_LAST_LINES}}
        found = {job["_id"]: job for job in self._jobs.find({"_id": {"$in": ids}}, wanted)}
        return [
            transition
            for transition in transitions
            if (job := found.get(transition.job_id))
            and dict(transition.entry) in job["history"]
            and transition.changes.get("leaseId") in (None, job.get("leaseId"))
        ]

    def _told(self, transitions: Sequence[Transition], won: Collection[str]) -> None:
        """Log an event for each transition, and add up what the performed ones count."""
        moved: dict[str, float] = defaultdict(float)
        for transition in transitions:
            _tell(transition, won=transition.job_id in won)
            if transition.job_id in won:
                for name, count in counters.moved_by(transition).items():
                    moved[name] += count
        self._counters.add(moved)


def _tell(transition: Transition, *, won: bool) -> None:
    entry = transition.entry
    name = f"job.{_PAST[transition.verb]}" if won else "job.race_lost"
    events.emit(
        name,
        job=transition.job_id,
        verb=str(transition.verb),
        to=entry["to"],
        attempt=entry["attempt"],
        worker=entry["worker"],
    )
