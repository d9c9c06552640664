"""Uploads and result archives, never whole in memory.

They are laid out as GridFS does, so that its tools can read them; the driver's own classes take
48 MB and more for each file that is under way (``docs/decisions/0014-files-in-pieces.md``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, BinaryIO, TypeVar

import pymongo
from bson import Int64
from pymongo import WriteConcern
from pymongo.database import Database
from pymongo.errors import PyMongoError

from taskyard import ids
from taskyard.clock import Clock
from taskyard.errors import NotFound, TooLarge

T = TypeVar("T")

#: What GridFS takes by default.
_PIECE_BYTES = 255 * 1024

#: The most that one statement removes, in bytes and in number: it has to end within its timeout.
REMOVED_BYTES = 64 * 1024 * 1024
REMOVED_AT_ONCE = 200

#: How many pieces are sent or read at once: four MB.
PIECES_AT_ONCE = 16

#: Time for one write of a file. Four MB to a majority can take longer than other operations may.
_SEND_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """The record of a file."""

    file_id: str
    filename: str
    size_bytes: int
    sha256: str
    content_type: str
    is_archive: bool


class FileStore:
    """Verbs on files."""

    def __init__(self, database: Database[dict[str, Any]], clock: Clock) -> None:
        self._files = database["files.files"]
        self._pieces = database["files.chunks"]
        #: Uploads that have begun: by these records the remains of an unfinished upload are found.
        self._begun = database["files.begun"].with_options(write_concern=WriteConcern(w=1))
        self._clock = clock

    def save(
        self,
        source: BinaryIO,
        *,
        filename: str,
        cap_bytes: int,
        keep: timedelta,
        content_type: str = "application/zip",
        is_archive: bool = True,
    ) -> StoredFile:
        """Store a file piece by piece; an upload that fails leaves nothing behind. A read of
        ``source`` gives less than was asked for only at its end.

        ``keep`` is how long the file stays while no job uses it. Raises TooLarge over
        ``cap_bytes``.
        """
        now = self._clock.now()
        file_id = ids.new("file", now)
        metadata: dict[str, Any] = {
            "contentType": content_type,
            "isArchive": is_archive,
            "expireAt": now + keep,
        }
        self._begun.insert_one({"_id": file_id, "at": now})
        try:
            size, metadata["sha256"] = self._send(file_id, source, cap_bytes)
            record: dict[str, Any] = {
                "_id": file_id,
                "filename": filename,
                "length": Int64(size),
                "chunkSize": _PIECE_BYTES,
                "uploadDate": now,
                "metadata": metadata,
            }
            with pymongo.timeout(_SEND_SECONDS):
                self._files.insert_one(record)
        except BaseException:
            self._undo(file_id)
            raise
        self._settle(file_id)
        return _stored(record)

    def find(self, file_id: str) -> StoredFile | None:
        """The record of a file, or None."""
        found = self._files.find_one({"_id": file_id})
        return _stored(found) if found else None

    def get(self, file_id: str) -> StoredFile:
        """The record of a file. Raises NotFound."""
        stored = self.find(file_id)
        if stored is None:
            raise NotFound("file", file_id)
        return stored

    def pieces(self, file_id: str, start: int, length: int) -> Iterator[bytes]:
        """``length`` bytes from ``start``, piece by piece, read as they are wanted. Raises NotFound
        for a file that is not there, or no longer.
        """
        number, skipped = divmod(start, _PIECE_BYTES)
        while length > 0:
            count = min(PIECES_AT_ONCE, -(-(skipped + length) // _PIECE_BYTES))
            wanted = {"files_id": file_id, "n": {"$gte": number, "$lt": number + count}}
            found = list(self._pieces.find(wanted, sort=[("n", pymongo.ASCENDING)]))
            if [piece["n"] for piece in found] != list(range(number, number + count)):
                raise NotFound("file", file_id)
            for piece in found:
                data = piece["data"][skipped : skipped + length]
                skipped = 0
                length -= len(data)
                yield data
            number += count

    def delete(self, file_ids: Sequence[str]) -> None:
        """Remove files, few at once where they are large; pieces go first, so that no piece is left
        without its file.
        """
        known = self._files.find({"_id": {"$in": list(file_ids)}}, {"length": 1})
        sizes = dict.fromkeys(file_ids, 0) | {found["_id"]: found["length"] for found in known}
        for some in bounded(sizes.items(), key=lambda sized: sized[1]):
            ids = [file_id for file_id, _ in some]
            self._pieces.delete_many({"files_id": {"$in": ids}})
            self._files.delete_many({"_id": {"$in": ids}})

    def expired(self, now: datetime, *, limit: int) -> list[str]:
        """Ids of files whose time is over, whether or not a job uses them."""
        over = self._files.find({"metadata.expireAt": {"$lt": now}}, {"_id": 1})
        return [found["_id"] for found in over.limit(limit)]

    def collect_unfinished(self, *, begun_before: datetime, limit: int) -> int:
        """Remove what is left of uploads that began before then and never finished. Returns how
        many uploads were looked at.
        """
        found = self._begun.find({"at": {"$lt": begun_before}}, {"_id": 1}).limit(limit)
        old = [begun["_id"] for begun in found]
        for file_id in old:
            if self.find(file_id) is None:
                self.delete([file_id])
            self._settle(file_id)
        return len(old)

    def keep_until(self, file_ids: Collection[str], until: datetime) -> None:
        """Keep files that are in use until then; the end of their time only moves forward."""
        used = {"_id": {"$in": list(file_ids)}}
        self._files.update_many(used, {"$max": {"metadata.expireAt": until}})

    def _send(self, file_id: str, source: BinaryIO, cap_bytes: int) -> tuple[int, str]:
        """Store a file's pieces; returns the size and the SHA-256. Raises TooLarge."""
        digest = hashlib.sha256()
        size = 0
        while block := source.read(PIECES_AT_ONCE * _PIECE_BYTES):
            first = size // _PIECE_BYTES
            size += len(block)
            if size > cap_bytes:
                raise TooLarge(f"The file is over {cap_bytes} bytes.", field="file")
            digest.update(block)
            pieces = range(0, len(block), _PIECE_BYTES)
            with pymongo.timeout(_SEND_SECONDS):
                self._pieces.insert_many(
                    {"files_id": file_id, "n": n, "data": block[start : start + _PIECE_BYTES]}
                    for n, start in enumerate(pieces, first)
                )
        return size, digest.hexdigest()

    def _undo(self, file_id: str) -> None:
        """Remove what was sent of a file; if MongoDB is unavailable, retention does it later."""
        with suppress(PyMongoError):
            self.delete([file_id])
            self._settle(file_id)

    def _settle(self, file_id: str) -> None:
        """Note that the upload is over; if that cannot be written, retention does it later."""
        with suppress(PyMongoError):
            self._begun.delete_one({"_id": file_id})


def bounded(things: Iterable[T], *, key: Callable[[T], int]) -> Iterator[list[T]]:
    """Groups of things that one statement may remove; ``key`` gives a thing's size in bytes."""
    group: list[T] = []
    size = 0
    for thing in things:
        if group and (size + key(thing) > REMOVED_BYTES or len(group) == REMOVED_AT_ONCE):
            yield group
            group, size = [], 0
        group.append(thing)
        size += key(thing)
    if group:
        yield group


def _stored(found: dict[str, Any]) -> StoredFile:
    metadata = found.get("metadata") or {}
    return StoredFile(
        file_id=found["_id"],
        filename=found["filename"],
        size_bytes=found["length"],
        sha256=metadata.get("sha256", ""),
        content_type=metadata.get("contentType", "application/octet-stream"),
        is_archive=metadata.get("isArchive", False),
    )
