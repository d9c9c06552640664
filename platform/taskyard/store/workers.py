"""The workers collection: registration, heartbeat, health and soft deletion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from pymongo import ReturnDocument, UpdateOne
from pymongo.database import Database
from pymongo.errors import BulkWriteError

from taskyard import events
from taskyard.documents import to_record
from taskyard.errors import Gone, NotFound, StaleAttempt
from taskyard.jobs.model import Job
from taskyard.store.failures import accept_duplicates
from taskyard.store.mailboxes import Mailboxes
from taskyard.workers.model import Worker

#: Fields that a registration clears unless it sends them: what happened to the earlier boot, and
#: what the earlier boot reported about itself.
_FRESH = frozenset(
    {"cooldownUntil", "healthReason", "suspendedAt", "reservedFor"}
    | {"os", "cpuCount", "cpuUsage", "ramTotalMb", "ramFreeMb", "version", "labels", "maxJobs"}
    | {"isolation", "dockerContainers", "dockerCpuUsage", "dockerMemoryMb"}
)

#: Fields that are cleared when a cooldown is over.
_RECOVERED = ("cooldownUntil", "healthReason")


class WorkerStore:
    """Verbs on workers."""

    def __init__(self, database: Database[dict[str, Any]], mailboxes: Mailboxes) -> None:
        self._workers = database["workers"]
        self._mailboxes = mailboxes

    def register(self, worker_id: str, facts: Mapping[str, Any], *, now: datetime) -> Worker:
        """Add the worker, or begin a new boot of it; clears deletion, drain and cooldown.

        Jobs that an earlier boot still holds are not renewed any more: they are requeued when their
        leases end.
        """
        document = self._workers.find_one_and_update(
            {"_id": worker_id},
            {
                "$set": {
                    "health": "OK",
                    **facts,
                    "softDeleted": False,
                    "draining": False,
                    "fenced": False,
                    "registeredAt": now,
                    "lastHeartbeat": now,
                    "updatedAt": now,
                },
                "$unset": dict.fromkeys(_FRESH - facts.keys(), ""),
            },
            upsert=True,
            return_document=ReturnDocument.AFTER,
        )
        assert document is not None
        self._mailboxes.tell([worker_id])
        events.emit("worker.registered", worker=worker_id, kind=facts.get("kind"))
        return to_record(Worker, document)

    def heartbeat(
        self,
        worker_id: str,
        facts: Mapping[str, Any],
        *,
        now: datetime,
        boot_id: str | None = None,
    ) -> Worker:
        """Note that the worker is alive. This ends a suspension, but never a cooldown.

        Raises NotFound, Gone for a deleted worker, StaleAttempt for an earlier boot of it.
        """
        changes = {"health": "OK", **facts, "lastHeartbeat": now, "updatedAt": now}
        document = self._workers.find_one_and_update(
            _alive(worker_id, boot_id),
            {"$set": changes, "$unset": {"suspendedAt": ""}},
            return_document=ReturnDocument.AFTER,
        )
        if document is None:
            known = self.get(worker_id, deleted=True)
            self._keep_deleted(worker_id, now)
            raise _refusal(known, boot_id)
        worker = to_record(Worker, document)
        return self._recovered(worker) if _has_recovered(worker) else worker

    def _keep_deleted(self, worker_id: str, now: datetime) -> None:
        """Keep the record of a deleted worker that still sends heartbeats: without the record, it
        would be taken for a new worker.
        """
        gone = {"_id": worker_id, "softDeleted": True}
        self._workers.update_one(gone, {"$max": {"lastHeartbeat": now}})

    def _recovered(self, worker: Worker) -> Worker:
        """Clear the reason why the worker was unhealthy, unless it is unhealthy again."""
        well = {
            **_alive(worker.worker_id, worker.boot_id),
            "health": "OK",
            "cooldownUntil": {"$exists": False},
        }
        self._workers.update_one(well, {"$unset": {"healthReason": ""}})
        return replace(worker, health_reason=None)

    def find(self, worker_id: str) -> Worker | None:
        """The worker, deleted or not, or None."""
        document = self._workers.find_one({"_id": worker_id})
        return to_record(Worker, document) if document else None

    def get(self, worker_id: str, *, deleted: bool = False) -> Worker:
        """The worker. Raises NotFound; a deleted one is Gone unless asked for."""
        worker = self.find(worker_id)
        if worker is None:
            raise NotFound("worker", worker_id)
        if worker.soft_deleted and not deleted:
            raise _gone(worker_id)
        return worker

    def listed(self) -> list[Worker]:
        """All workers that are not deleted, by id. Retention keeps their number bounded."""
        return [
            to_record(Worker, w) for w in self._workers.find({"softDeleted": False}).sort("_id")
        ]

    def soft_delete(self, worker_id: str, *, now: datetime) -> bool:
        """Take the worker out of listing and scheduling until it registers again."""
        changes = {"softDeleted": True, "updatedAt": now}
        update = {"$set": changes, "$unset": {"reservedFor": ""}}
        existed = self._workers.update_one({"_id": worker_id, "softDeleted": False}, update)
        if existed.matched_count:
            self._mailboxes.tell([worker_id])
            events.emit("worker.deleted", worker=worker_id)
        return existed.matched_count == 1

    def drain(
        self, worker_id: str, *, draining: bool, now: datetime, boot_id: str | None = None
    ) -> Worker:
        """Stop or resume giving the worker new jobs; a worker that asks for itself names its boot.

        Raises NotFound, Gone, StaleAttempt for an earlier boot of it.
        """
        document = self._workers.find_one_and_update(
            _alive(worker_id, boot_id),
            {"$set": {"draining": draining, "updatedAt": now}},
            return_document=ReturnDocument.AFTER,
        )
        if document is None:
            raise _refusal(self.get(worker_id, deleted=True), boot_id)
        # Before the caller hears of it: of a job that is submitted then the agent hears later.
        self._mailboxes.tell([worker_id])
        events.emit("worker.draining" if draining else "worker.resumed", worker=worker_id)
        return to_record(Worker, document)

    def leave(self, worker_id: str, boot_id: str, *, now: datetime) -> None:
        """Mark a worker that stops as offline at once, without waiting until it is silent."""
        mine = {"_id": worker_id, "bootId": boot_id}
        changes = {"health": "OFFLINE", "healthReason": "stopped", "updatedAt": now}
        if self._workers.update_one(mine, {"$set": changes}).matched_count:
            events.emit("worker.left", worker=worker_id)

    def record_failure(
        self, worker_id: str, *, reason: str, now: datetime, cooldown: timedelta
    ) -> None:
        """Note that the worker itself failed: it gets no new jobs until the cooldown is over."""
        self._workers.update_one(
            {"_id": worker_id},
            {"$set": {"cooldownUntil": now + cooldown, "healthReason": reason, "updatedAt": now}},
        )
        self._mailboxes.tell([worker_id])
        events.warn("worker.cooling_down", worker=worker_id, seconds=cooldown.total_seconds())

    def suspend(self, lost: Sequence[Job], *, now: datetime) -> None:
        """Suspend the workers whose leases on these jobs expired: no new jobs until they heartbeat.

        A worker that has registered since is a new boot, which did not lose the jobs.
        """
        holders = {(job.assigned_agent_id, job.assigned_at) for job in lost}
        silent = {
            "lastHeartbeat": {"$lt": now},
            "$or": [{"_id": worker, "registeredAt": {"$lte": at}} for worker, at in holders],
        }
        self._workers.update_many(silent, {"$set": {"suspendedAt": now}})

    def mark_fenced(self, worker_id: str) -> None:
        """Note that the worker sends an attempt or a lease with its writes."""
        self._workers.update_one({"_id": worker_id}, {"$set": {"fenced": True}})

    def mark_offline(self, *, silent_since: datetime, now: datetime) -> list[str]:
        """Mark workers without a heartbeat since then; returns those that just went offline."""
        silent = {
            "softDeleted": False,
            "lastHeartbeat": {"$lt": silent_since},
            "health": {"$ne": "OFFLINE"},
        }
        heard_of = {"$dateToString": {"date": "$lastHeartbeat", "format": "%Y-%m-%d %H:%M:%S"}}
        changes = {
            "health": "OFFLINE",
            "healthReason": {"$concat": ["no heartbeat since ", heard_of, " UTC"]},
            "updatedAt": now,
        }
        if not (found := [worker["_id"] for worker in self._workers.find(silent, {"_id": 1})]):
            return []
        # In one write: after an outage these may be all workers, and the sweep waits for it.
        among = {"_id": {"$in": found}}
        self._workers.update_many({**silent, **among}, [{"$set": changes}])
        gone = {**among, "health": "OFFLINE", "updatedAt": now}
        return [worker["_id"] for worker in self._workers.find(gone, {"_id": 1})]

    def end_cooldowns(self, *, now: datetime) -> int:
        """Clear the cooldowns that are over; returns how many. A worker that went offline meanwhile
        keeps its reason, which is about that.
        """
        over = {"cooldownUntil": {"$lte": now}}
        offline = self._workers.update_many(
            {**over, "health": "OFFLINE"}, {"$unset": {"cooldownUntil": ""}}
        )
        ended = self._workers.update_many(over, {"$unset": dict.fromkeys(_RECOVERED, "")})
        return offline.modified_count + ended.modified_count

    def reserve(self, reservations: Mapping[str, str], current: Mapping[str, str | None]) -> None:
        """Write which job each worker is reserved for; only changes are written."""
        changed = {
            worker_id: job_id
            for worker_id, was in current.items()
            if (job_id := reservations.get(worker_id)) != was
        }
        if not changed:
            return
        writes = [
            UpdateOne(
                {"_id": worker_id},
                {"$set": {"reservedFor": job_id}} if job_id else {"$unset": {"reservedFor": ""}},
            )
            for worker_id, job_id in changed.items()
        ]
        try:
            self._workers.bulk_write(writes, ordered=False)
        except BulkWriteError as error:
            accept_duplicates(error)
        self._mailboxes.tell(changed)

    def forget(self, *, silent_since: datetime) -> int:
        """Remove the records of workers without a heartbeat since then; returns how many."""
        return self._workers.delete_many({"lastHeartbeat": {"$lt": silent_since}}).deleted_count


def _alive(worker_id: str, boot_id: str | None) -> dict[str, Any]:
    """Matches the worker unless it is deleted; with ``boot_id``, only in that boot."""
    alive: dict[str, Any] = {"_id": worker_id, "softDeleted": False}
    return alive if boot_id is None else {**alive, "bootId": boot_id}


def _has_recovered(worker: Worker) -> bool:
    """Whether the worker is healthy and still has the reason why it was not."""
    return bool(worker.health == "OK" and worker.health_reason and not worker.cooldown_until)


def _refusal(worker: Worker, boot_id: str | None) -> Gone | StaleAttempt:
    if worker.soft_deleted:
        return _gone(worker.worker_id)
    return StaleAttempt(f"boot {boot_id} of worker {worker.worker_id}")


def _gone(worker_id: str) -> Gone:
    return Gone(f"Worker {worker_id!r} was deleted; it may register again.")
