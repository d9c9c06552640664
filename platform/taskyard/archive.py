"""Check and unpack ZIP archives that strangers made.

Nothing that an archive says about itself is trusted while it is unpacked: bytes are counted as
they are written (``docs/security.md``).
"""

from __future__ import annotations

import lzma
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO

from taskyard.errors import BadArchive
from taskyard.settings import Settings

_PIECE_BYTES = 256 * 1024
_NAME_BYTES = 255
_DEPTH = 64

#: Longest path in an archive: with the workspace's path before it, far less than a system allows.
_PATH_BYTES = 1000

_DRIVE = re.compile(r"[A-Za-z]:[\\/]")

#: What unpacks to more than this many times its packed size is a bomb, if it is also larger than
#: ``_BOMB_MATTERS_BYTES``.
BOMB_RATIO = 200
_BOMB_MATTERS_BYTES = 10 * 1024 * 1024

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
_ENCRYPTED = 0x1

#: The least size of a central directory entry: bounds their number before any is read.
_ENTRY_BYTES = 46

_UNREADABLE = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    NotImplementedError,
    RuntimeError,
    EOFError,
    OverflowError,
    UnicodeError,
    ValueError,
    MemoryError,
)


@dataclass(frozen=True, kw_only=True)
class ArchiveLimits:
    """What an archive may hold."""

    max_entries: int
    max_bytes: int

    @classmethod
    def of(cls, settings: Settings) -> ArchiveLimits:
        """What the settings allow."""
        return cls(max_entries=settings.archive_cap_entries, max_bytes=settings.archive_cap_bytes)


def check(source: BinaryIO, limits: ArchiveLimits) -> None:
    """Check that an archive can be read and may be unpacked. Raises BadArchive."""
    with _opened(source, limits) as archive:
        _entries(archive, limits)


def check_readable(source: BinaryIO, limits: ArchiveLimits) -> None:
    """Check that ``source`` is a ZIP archive, empty or not; for one that is never unpacked here.

    Raises BadArchive.
    """
    with _opened(source, limits):
        pass


def extract(source: BinaryIO, destination: Path, limits: ArchiveLimits) -> None:
    """Unpack into ``destination``, regular files only.

    Raises BadArchive, with nothing written outside ``destination``.
    """
    with _opened(source, limits) as archive:
        written = 0
        for entry in _entries(archive, limits):
            target = destination.joinpath(*PurePosixPath(entry.filename).parts)
            if entry.is_dir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            written += _write(archive, entry, target, limits.max_bytes - written)


@contextmanager
def _opened(source: BinaryIO, limits: ArchiveLimits) -> Iterator[zipfile.ZipFile]:
    """The open archive; whatever error zipfile raises about it becomes a BadArchive."""
    try:
        _check_directory_size(source, limits)
        with zipfile.ZipFile(source) as archive:
            yield archive
    except BadArchive:
        raise
    except _UNREADABLE as error:
        raise BadArchive(f"not a readable ZIP archive: {error}", readable=False) from None


def _check_directory_size(source: BinaryIO, limits: ArchiveLimits) -> None:
    """Bound the central directory before zipfile reads it whole into memory."""
    end = zipfile._EndRecData(source)  # type: ignore[attr-defined] # the only reader of it
    if not end:
        raise BadArchive("not a ZIP archive", readable=False)
    size, count = end[zipfile._ECD_SIZE], end[zipfile._ECD_ENTRIES_TOTAL]  # type: ignore[attr-defined]
    if max(count, size // (_ENTRY_BYTES * 12)) > limits.max_entries:
        raise BadArchive(f"more than {limits.max_entries} entries")
    source.seek(0)


def _entries(archive: zipfile.ZipFile, limits: ArchiveLimits) -> list[zipfile.ZipInfo]:
    """All entries, checked to be harmless. Raises BadArchive, naming the first that is not."""
    entries = archive.infolist()
    # zipfile reads the last character of a name, so no name may be empty.
    if not all(entry.filename for entry in entries):
        raise BadArchive("an entry has no name", readable=False)
    if not any(not entry.is_dir() for entry in entries):
        raise BadArchive("the archive is empty", readable=False)
    if len(entries) > limits.max_entries:
        raise BadArchive(f"more than {limits.max_entries} entries")
    files: set[str] = set()
    folders: set[str] = set()
    total = packed = 0
    for entry in entries:
        if reason := _unsafe(entry) or _clash(entry, files, folders):
            raise BadArchive(f"{_shown(entry.filename)} {reason}")
        total += entry.file_size
        packed += entry.compress_size
    if total > limits.max_bytes:
        raise BadArchive(f"unpacks to more than {limits.max_bytes} bytes")
    if total > _BOMB_MATTERS_BYTES and total > BOMB_RATIO * max(packed, 1):
        raise BadArchive(f"unpacks to more than {BOMB_RATIO} times its size")
    return entries


def _unsafe(entry: zipfile.ZipInfo) -> str | None:
    """Why this entry must not be unpacked, or None."""
    # zipfile cuts names at a NUL and replaces backslashes on some systems: check the original.
    name = entry.orig_filename
    parts = PurePosixPath(name).parts
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if "\0" in name or "\\" in name:
        return "has a forbidden character in its name"
    if name.startswith("/") or _DRIVE.match(name):
        return "is an absolute path"
    # Some programs pack the folder itself as an entry, ``./``.
    if ".." in name.split("/") or not (parts or name.endswith("/")):
        return "leads outside its folder"
    too_long = any(len(os.fsencode(part)) > _NAME_BYTES for part in parts)
    if too_long or len(parts) > _DEPTH or len(os.fsencode(name)) > _PATH_BYTES:
        return "has too long a path"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device"
    if entry.flag_bits & _ENCRYPTED:
        return "is encrypted"
    if entry.compress_type not in _METHODS:
        return "is packed in an unknown way"
    return None


def _clash(entry: zipfile.ZipInfo, files: set[str], folders: set[str]) -> str | None:
    """Why this entry collides with one before it, or None; adds it to ``files`` and ``folders``."""
    path = PurePosixPath(entry.filename)
    above = {str(parent) for parent in path.parents} - {"."}
    if str(path) in files or above & files:
        return "is there twice"
    if not entry.is_dir() and str(path) in folders:
        return "is both a file and a folder"
    folders |= above | ({str(path)} if entry.is_dir() else set())
    if not entry.is_dir():
        files.add(str(path))
    return None


def _write(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path, room: int) -> int:
    """Write one file, counting what is really written; of its mode only the owner's x is kept."""
    mode = 0o755 if (entry.external_attr >> 16) & stat.S_IXUSR else 0o644
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    written = 0
    with archive.open(entry) as packed, os.fdopen(os.open(target, flags, mode), "wb") as file:
        for piece in _pieces(packed):
            written += len(piece)
            if written > room:
                raise BadArchive(f"{_shown(entry.filename)} unpacks to more than it says")
            file.write(piece)
    return written


def _pieces(packed: IO[bytes]) -> Iterator[bytes]:
    """The content of an entry, piece by piece. Raises BadArchive."""
    try:
        while piece := packed.read(_PIECE_BYTES):
            yield piece
    except OSError as error:
        # bz2 raises an OSError without number for invalid data; with one it is the system's.
        if error.errno is not None:
            raise
        raise BadArchive(f"not a readable ZIP archive: {error}", readable=False) from None


def _shown(name: str) -> str:
    """An entry's name, harmless to print."""
    return repr(name[:80])
