"""Uploads and result archives, never whole in memory.

They are laid out as GridFS does, so that its tools can read them; the driver's own classes take
48 MB and more for each file that is under way (``docs/decisions/0014-files-in-pieces.md``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
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
from taskyard.store.failures import insert_missing
from taskyard.store.together import Together

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


Document = dict[str, Any]

#: The record of a file of less than a piece, and that piece; none if the file is empty.
_Small = tuple[Document, Sequence[Document]]


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """The record of a file."""

    file_id: str
    filename: str
    size_bytes: int
    sha256: str
    content_type: str
    is_archive: bool


@dataclass(frozen=True, kw_only=True)
class _Upload:
    """What is known of a file before its content, and the documents that are made of both."""

    file_id: str
    filename: str
    at: datetime
    metadata: Mapping[str, Any]

    def pieces(self, block: bytes, first: int = 0) -> Iterator[Document]:
        """The pieces of a block, numbered from ``first`` on; each is made as it is wanted."""
        for n, start in enumerate(range(0, len(block), _PIECE_BYTES), first):
            yield {"files_id": self.file_id, "n": n, "data": block[start : start + _PIECE_BYTES]}

    def record(self, size: int, sha256: str) -> Document:
        """The record of the file."""
        return {
            "_id": self.file_id,
            "filename": self.filename,
            "length": Int64(size),
            "chunkSize": _PIECE_BYTES,
            "uploadDate": self.at,
            "metadata": {**self.metadata, "sha256": sha256},
        }


class FileStore:
    """Verbs on files."""

    def __init__(self, database: Database[dict[str, Any]], clock: Clock) -> None:
        self._files = database["files.files"]
        self._pieces = database["files.chunks"]
        #: Large uploads that have begun: by these, what is left of an unfinished one is found.
        self._begun = database["files.begun"].with_options(write_concern=WriteConcern(w=1))
        self._clock = clock
        self._save_soon = Together(self._save_small)

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
        upload = _Upload(
            file_id=ids.new("file", now),
            filename=filename,
            at=now,
            metadata={
                "contentType": content_type,
                "isArchive": is_archive,
                "expireAt": now + keep,
            },
        )
        head = source.read(_PIECE_BYTES)
        if len(head) == _PIECE_BYTES or len(head) > cap_bytes:
            return _stored(self._save_large(upload, head, source, cap_bytes))
        record = upload.record(len(head), hashlib.sha256(head).hexdigest())
        self._save_soon((record, list(upload.pieces(head))))
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

    def _save_large(
        self, upload: _Upload, head: bytes, source: BinaryIO, cap_bytes: int
    ) -> Document:
        """Store a file of several pieces, of which ``head`` is the first; returns its record.
        Raises TooLarge.
        """
        self._begun.insert_one({"_id": upload.file_id, "at": upload.at})
        try:
            record = upload.record(*self._send(upload, head, source, cap_bytes))
            with pymongo.timeout(_SEND_SECONDS):
                self._files.insert_one(record)
        except BaseException:
            if self._undone([upload.file_id]):
                self._settle(upload.file_id)
            raise
        self._settle(upload.file_id)
        return record

    def _send(
        self, upload: _Upload, head: bytes, source: BinaryIO, cap_bytes: int
    ) -> tuple[int, str]:
        """Store a file's pieces; returns the size and the SHA-256. Raises TooLarge."""
        digest = hashlib.sha256()
        size = 0
        block = head
        while block:
            first = size // _PIECE_BYTES
            size += len(block)
            if size > cap_bytes:
                raise TooLarge(f"The file is over {cap_bytes} bytes.", field="file")
            digest.update(block)
            with pymongo.timeout(_SEND_SECONDS):
                self._pieces.insert_many(upload.pieces(block, first))
            block = source.read(PIECES_AT_ONCE * _PIECE_BYTES)
        return size, digest.hexdigest()

    def _save_small(self, group: Sequence[_Small]) -> None:
        """Store files of less than a piece, all with the same two writes.

        Records go first: if this process dies in between, retention finds what is left by them.
        """
        try:
            with pymongo.timeout(_SEND_SECONDS):
                insert_missing(self._files, [record for record, _ in group])
                insert_missing(self._pieces, [piece for _, pieces in group for piece in pieces])
        except BaseException:
            self._undone([record["_id"] for record, _ in group])
            raise

    def _undone(self, file_ids: Sequence[str]) -> bool:
        """Remove what was sent of files; returns whether that was done. If MongoDB is unavailable,
        retention does it later.
        """
        try:
            self.delete(file_ids)
        except PyMongoError:
            return False
        return True

    def _settle(self, file_id: str) -> None:
        """Note that an upload is over; if that cannot be written, retention does it later."""
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
