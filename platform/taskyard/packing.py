"""Pack what a job left, or a folder to send, into a ZIP within bounds."""

from __future__ import annotations

import errno
import os
import re
import stat
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_PIECE_BYTES = 256 * 1024

#: What is little to pack, in entries and bytes: it takes some ten milliseconds.
_LITTLE_ENTRIES = 100
_LITTLE_BYTES = 512 * 1024

#: Characters that Python makes of bytes that are not UTF-8.
_NOT_TEXT = re.compile("[\udc80-\udcff]")


@dataclass(frozen=True, kw_only=True)
class PackReport:
    """What was packed; ``cut`` when not everything fitted or could be read.

    ``left_out`` names what was skipped in a ``whole`` folder: special files, and links to anything
    but a file inside it.
    """

    entries: int
    cut: bool
    left_out: tuple[str, ...]


def pack(
    folder: Path, target: BinaryIO, *, cap_bytes: int, cap_entries: int, whole: bool = False
) -> PackReport:
    """Pack the regular files below ``folder``, in order, up to the caps.

    Links are not followed, a file that vanishes meanwhile is left out, and one that cannot be read
    counts as cut. With ``whole``, empty folders are packed too, as are links to files inside
    ``folder``, and what cannot be read raises OSError.
    """
    entries = taken = 0
    names: set[str] = set()
    unread: list[OSError] = []
    left_out: list[str] = []
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        cut = False
        for path, name in _regular_files(folder, _fail if whole else unread.append, whole=whole):
            if entries >= cap_entries or taken >= cap_bytes:
                cut = True
                break
            if whole and _is_itself(path, target):
                continue
            # A name that is text may equal one that stands for other bytes (``_readable``).
            while name in names:
                name += "~"
            names.add(name)
            try:
                size = _add(archive, path, name, cap_bytes - taken, whole=whole)
            except _NotKept:
                cut = True
                continue
            if size is not None:
                taken += size
                entries += 1
            elif whole:
                left_out.append(name)
        cut = cut or not all(map(_is_gone, unread))
        if cut:
            archive.comment = b"cut by taskyard: more was left than could be kept"
    return PackReport(entries=entries, cut=cut, left_out=tuple(left_out))


def is_little(folder: Path) -> bool:
    """Whether what is below ``folder`` is packed in a moment."""
    taken = 0
    try:
        for number, size in enumerate(_sizes(folder), 1):
            taken += size
            if number > _LITTLE_ENTRIES or taken > _LITTLE_BYTES:
                return False
    except OSError:
        return False
    return True


class _NotKept(Exception):
    """The file is larger than the room that is left, or cannot be read."""


def _is_gone(error: OSError) -> bool:
    """Whether a file has vanished meanwhile, or has a link or a socket in its place."""
    return error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO)


def _sizes(folder: Path) -> Iterator[int]:
    """The size of each entry below ``folder``, in any order; 0 for folders. Raises OSError."""
    waiting = [str(folder)]
    while waiting:
        with os.scandir(waiting.pop()) as found:
            for entry in found:
                is_folder = entry.is_dir(follow_symlinks=False)
                if is_folder:
                    waiting.append(entry.path)
                yield 0 if is_folder else entry.stat(follow_symlinks=False).st_size


def _regular_files(
    folder: Path, failed: Callable[[OSError], None], *, whole: bool
) -> Iterator[tuple[Path, str]]:
    """The regular files below ``folder`` in a stable order, each with its name in the archive; with
    ``whole`` also links, special files and empty folders. ``failed`` gets the error of each folder
    that cannot be read.
    """
    # A job may have put a link in the place of its folder.
    if not whole and folder.is_symlink():
        return
    # Not by ``os.walk``, which calls itself for each level of folders in Python 3.11.
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        try:
            with os.scandir(here) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            failed(error)
            continue
        below = [Path(e.path) for e in entries if e.is_dir(follow_symlinks=False)]
        waiting += reversed(below)
        paths = [Path(e.path) for e in entries if _is_wanted(e, whole=whole)]
        for path in paths if entries or not whole or here == folder else [here]:
            inside = _readable(path.relative_to(folder))
            yield _named_by(path, folder) if whole else path, inside


def _is_wanted(entry: os.DirEntry[str], *, whole: bool) -> bool:
    if whole:
        return not entry.is_dir(follow_symlinks=False)
    return entry.is_file(follow_symlinks=False)


def _readable(path: Path) -> str:
    """A path as text: a byte that is not UTF-8 becomes, say, ``%E9``."""
    text = os.fsencode(path).decode("utf-8", "surrogateescape")
    return _NOT_TEXT.sub(lambda found: f"%{ord(found[0]) - 0xDC00:02X}", text)


def _fail(error: OSError) -> None:
    raise error


def _named_by(path: Path, folder: Path) -> Path:
    """The file inside ``folder`` that a link leads to, else the path itself."""
    if not path.is_symlink():
        return path
    real = Path(os.path.realpath(path))
    inside = real.is_relative_to(os.path.realpath(folder)) and real.is_file()
    return real if inside else path


def _is_itself(path: Path, target: BinaryIO) -> bool:
    """Whether this is the archive itself: it may be inside the folder, and grows as it is read."""
    return os.path.samestat(path.lstat(), os.fstat(target.fileno()))


def _add(archive: zipfile.ZipFile, path: Path, name: str, room: int, *, whole: bool) -> int | None:
    """Add a file, or with ``whole`` a folder; returns its size, or None for anything else and for a
    file that has vanished. Raises _NotKept.
    """
    if whole and not stat.S_ISREG(kind := path.lstat().st_mode):
        if not stat.S_ISDIR(kind):
            return None
        archive.mkdir(name)
        return 0
    try:
        # Without O_NONBLOCK a FIFO would block. The target of a link is not what the job left.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if whole:
            raise
        if _is_gone(error):
            return None
        raise _NotKept from None
    with os.fdopen(handle, "rb") as source:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            return None
        if status.st_size > room:
            raise _NotKept
        entry = zipfile.ZipInfo(name)
        entry.compress_type = zipfile.ZIP_DEFLATED
        entry.external_attr = stat.S_IMODE(status.st_mode) << 16
        # Tells zipfile which form of entry is needed; the size that is written replaces it.
        entry.file_size = status.st_size
        taken = 0
        with archive.open(entry, "w") as target:
            # The file may grow while it is read.
            while taken < room and (piece := source.read(min(_PIECE_BYTES, room - taken))):
                target.write(piece)
                taken += len(piece)
        return taken
