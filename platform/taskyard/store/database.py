"""The state of MongoDB itself: its replica set, its version and the sizes of our collections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pymongo import MongoClient
from pymongo.database import Database

Document = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class CollectionState:
    """The size of one collection; ``documents`` is MongoDB's own estimate."""

    name: str
    documents: int
    data_bytes: int
    index_bytes: int


@dataclass(frozen=True, kw_only=True)
class DatabaseState:
    """The replica set as it describes itself now, and our database in it."""

    version: str
    set_name: str | None
    primary: str | None
    members: Sequence[str]
    data_bytes: int
    #: On disk, compressed, with all indexes.
    storage_bytes: int
    #: The largest first.
    collections: Sequence[CollectionState]


def state(client: MongoClient[Document], database: Database[Document]) -> DatabaseState:
    """Ask the server for its state; no collection is read document by document."""
    hello = client.admin.command("hello")
    sizes = database.command("dbStats")
    collections = [
        _collection(database, name)
        for name in database.list_collection_names(filter={"type": "collection"})
        if not name.startswith("system.")
    ]
    return DatabaseState(
        version=client.server_info()["version"],
        set_name=hello.get("setName"),
        primary=hello.get("primary"),
        members=hello.get("hosts", []),
        data_bytes=int(sizes["dataSize"]),
        storage_bytes=int(sizes["storageSize"] + sizes["indexSize"]),
        collections=sorted(collections, key=lambda c: -(c.data_bytes + c.index_bytes)),
    )


def _collection(database: Database[Document], name: str) -> CollectionState:
    (found,) = database[name].aggregate([{"$collStats": {"storageStats": {}}}])
    stats = found["storageStats"]
    return CollectionState(
        name=name,
        documents=int(stats["count"]),
        data_bytes=int(stats["size"]),
        index_bytes=int(stats["totalIndexSize"]),
    )
