"""The jobs collection, written: one guarded operation per transition."""

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
from taskyard.store.failures import accept_duplicates, is_unavailable, unconfirmed
from taskyard.store.statements import Statement
from taskyard.store.together import Together

Document = dict[str, Any]

#: How often a verb is decided anew after losing a race. Each loss means that somebody else
#: moved the job, and a job has few states left to move to.
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


#: Where a line is looked for that was just written: notes of refusals may have come behind it.
_LAST_LINES = 5


class JobStore:
    """Verbs on jobs. There is no ``set_status``."""

    def __init__(self, database: Database[dict[str, Any]], counters: CounterStore) -> None:
        self._jobs = database["jobs"]
        self._counters = counters
        self._insert_soon = Together(self._insert)

    def submit(self, jobs: Sequence[Job]) -> None:
        """Record new jobs on a majority; ids that are there already are left as they are."""
        documents = [to_document(job) for job in jobs]
        if len(documents) == 1:
            self._insert_soon(documents[0])
        else:
            self._insert(documents)
        for job in jobs:
            events.emit("job.submitted", job=job.job_id, shape=job.shape)

    def _insert(self, documents: Sequence[Document]) -> None:
        if len(documents) == 1 and self._insert_one(documents[0]):
            return
        try:
            self._jobs.insert_many(documents, ordered=False)
        except BulkWriteError as error:
            accept_duplicates(error)

    def _insert_one(self, document: Document) -> bool:
        """The same as for many, at less cost; False when a job of that id is there already: the
        answer does not tell whether a majority has it.
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
        """The job, once a majority has everything that is known of it here.

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

    def change(self, job_id: str, decide: Callable[[Job], Transition]) -> Job:
        """Read, decide, write; decide again when somebody was faster.

        Raises NotFound, Conflict, and whatever ``decide`` raises.
        """
        for _ in range(DECISIONS):
            changed = self.apply(self._decided(job_id, decide))
            if changed is not None:
                return changed
        raise Conflict(f"{job_id} changed too often at once; try again.")

    def _decided(self, job_id: str, decide: Callable[[Job], Transition]) -> Transition:
        try:
            return decide(self.get(job_id))
        except StaleAttempt:
            raise
        except Conflict:
            # Whoever is told that a job has ended relies on it: not before a majority has it.
            job = self.confirmed(job_id)
            if job is None:
                raise
            return decide(job)

    def apply_all(self, transitions: Sequence[Transition]) -> list[Transition]:
        """Perform many transitions in one command; returns those that were performed.

        May be done again when it is not known what came of it: what was performed before is found
        by its line in the job's history.
        """
        if not transitions:
            return []
        writes = statements.of(transitions)
        try:
            performed = self._write(writes)
        except PyMongoError as error:
            if not is_unavailable(error):
                raise
            # The driver itself repeats no statement about many jobs.
            performed = self._write(writes)
        won = transitions if performed == len(transitions) else self._performed(transitions)
        self._told(transitions, {transition.job_id for transition in won})
        return list(won)

    def delete(self, job_ids: Sequence[str]) -> int:
        """Remove ended jobs; what is live stays. Their children go first (retention)."""
        states = [str(status) for status in TERMINAL]
        ended = {"_id": {"$in": list(job_ids)}, "status": {"$in": states}}
        return self._jobs.delete_many(ended).deleted_count

    def _write(self, writes: Sequence[Statement]) -> int:
        """How many jobs were written. Raises PyMongoError, StoreUnavailable."""
        try:
            return self._jobs.bulk_write(writes, ordered=False).matched_count
        except BulkWriteError as error:
            accept_duplicates(error)
            return int(error.details["nMatched"])

    def _performed(self, transitions: Sequence[Transition]) -> list[Transition]:
        """Those whose line is in their job's history, under the lease that they gave it.

        Another pass may have written the same line in the same millisecond.
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
        """Tell of each, and count what moves a counter in one write for all."""
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
