"""The indexes: every query of a collection that grows with the jobs has one. And the capped
collections, of which MongoDB itself removes what is oldest.
"""

from __future__ import annotations

from typing import Any

import pymongo
from pymongo import ASCENDING, DESCENDING, IndexModel
from pymongo.database import Database

from taskyard.store import mailboxes, passes
from taskyard.store.failures import INDEX_NOT_FOUND, NAMESPACE_EXISTS, done_by_another

_NEWEST = [("createdAt", DESCENDING), ("_id", DESCENDING)]

INDEXES: dict[str, list[IndexModel]] = {
    "jobs": [
        # A pass reads the queue shape by shape, each in the scheduler's order.
        IndexModel(
            [
                ("status", ASCENDING),
                ("shape", ASCENDING),
                ("priority", DESCENDING),
                ("queuedAt", ASCENDING),
                ("_id", ASCENDING),
            ],
            name="queue",
            partialFilterExpression={"status": "QUEUED"},
        ),
        # The jobs that each worker holds: those with a lease, which other jobs do not have. The
        # lease is not a key of this index, so that a renewal need not write the index.
        IndexModel(
            [("assignedAgentId", ASCENDING)],
            name="held_by",
            partialFilterExpression={"leaseUntil": {"$exists": True}},
        ),
        IndexModel(
            [("leaseUntil", ASCENDING)],
            name="lease",
            partialFilterExpression={"leaseUntil": {"$exists": True}},
        ),
        IndexModel(_NEWEST, name="newest"),
        IndexModel([("status", ASCENDING), *_NEWEST], name="newest_by_status"),
        IndexModel([("assignedAgentId", ASCENDING), *_NEWEST], name="newest_by_worker"),
        IndexModel([("labels", ASCENDING), *_NEWEST], name="newest_by_label"),
        # Ended jobs by time, with all fields that statistics need: they read the index alone.
        IndexModel(
            [(name, ASCENDING) for name in ("completedAt", "status", "queuedAt", "startedAt")],
            name="ended",
            partialFilterExpression={"completedAt": {"$exists": True}},
        ),
        IndexModel([("expireAt", ASCENDING)], name="expiry", sparse=True),
        IndexModel([("retryOf", ASCENDING)], name="retries", sparse=True),
        IndexModel([("fileId", ASCENDING)], name="by_file", sparse=True),
        IndexModel([("resultFileId", ASCENDING)], name="by_result", sparse=True),
    ],
    "workers": [IndexModel([("softDeleted", ASCENDING), ("_id", ASCENDING)], name="listing")],
    "files.files": [IndexModel([("metadata.expireAt", ASCENDING)], name="expiry", sparse=True)],
    "files.chunks": [
        IndexModel([("files_id", ASCENDING), ("n", ASCENDING)], name="files_id_1_n_1", unique=True)
    ],
    "files.begun": [IndexModel([("at", ASCENDING)], name="begun")],
    "stats": [IndexModel([("expireAt", ASCENDING)], name="expiry", expireAfterSeconds=0)],
    "sign_in_codes": [IndexModel([("expireAt", ASCENDING)], name="expiry", expireAfterSeconds=0)],
    "idempotency": [IndexModel([("expireAt", ASCENDING)], name="expiry", expireAfterSeconds=0)],
}

#: The capped collections with their most bytes and, where that is bounded, documents.
CAPPED: dict[str, dict[str, Any]] = {
    passes.COLLECTION: {"size": passes.KEPT_BYTES, "max": passes.KEPT},
    **{box: {"size": mailboxes.BOX_BYTES} for box in mailboxes.BOXES},
}

#: Indexes of earlier versions, to be dropped.
REPLACED = {"jobs": ["held"]}


def ensure_indexes(database: Database[dict[str, Any]]) -> None:
    """Create the indexes and the capped collections that are missing, and drop replaced indexes.

    There is no timeout: a new index over a million jobs takes as long as it takes.
    """
    with pymongo.timeout(0):
        for name in CAPPED.keys() - set(database.list_collection_names()):
            with done_by_another(NAMESPACE_EXISTS):
                database.create_collection(name, check_exists=False, capped=True, **CAPPED[name])
        for collection, models in INDEXES.items():
            database[collection].create_indexes(models)
        for collection, names in REPLACED.items():
            for name in set(names) & set(database[collection].index_information()):
                with done_by_another(INDEX_NOT_FOUND):
                    database[collection].drop_index(name)
