"""What a job left, or a folder to send: packed into a ZIP within bounds."""

from __future__ import annotations

import os
import stat
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_PIECE_BYTES = 256 * 1024


@dataclass(frozen=True, kw_only=True)
class PackReport:
    """What was packed; ``cut`` when not everything fitted."""

    entries: int
    packed_bytes: int
    cut: bool


def pack(folder: Path, target: BinaryIO, *, cap_bytes: int, cap_entries: int) -> PackReport:
    """Pack the regular files below ``folder``, in order, up to the caps.

    Links are not followed; what vanishes or cannot be read meanwhile is left out.
    """
    entries = taken = 0
    cut = False
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path, name in _regular_files(folder):
            if entries >= cap_entries or taken >= cap_bytes:
                cut = True
                break
            try:
                size = _add(archive, path, name, cap_bytes - taken)
            except _NoRoom:
                cut = True
                continue
            if size is not None:
                taken += size
                entries += 1
        if cut:
            archive.comment = b"cut by taskyard: more was left than may be kept"
    return PackReport(entries=entries, packed_bytes=taken, cut=cut)


class _NoRoom(Exception):
    """The file is larger than what is left."""


def _regular_files(folder: Path) -> Iterator[tuple[Path, str]]:
    """The regular files below, in a stable order, each with its name in the archive."""
    for here, below, names in os.walk(folder, followlinks=False):
        below.sort()
        for name in sorted(names):
            path = Path(here, name)
            inside = os.fsencode(path.relative_to(folder)).decode("utf-8", "replace")
            yield path, inside


def _add(archive: zipfile.ZipFile, path: Path, name: str, room: int) -> int | None:
    """Add one file; returns its bytes, or None for what is no regular file. Raises _NoRoom."""
    try:
        # A FIFO would block without NONBLOCK, and a link is not what the job left.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with os.fdopen(handle, "rb") as source:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            return None
        if status.st_size > room:
            raise _NoRoom
        entry = zipfile.ZipInfo(name)
        entry.compress_type = zipfile.ZIP_DEFLATED
        entry.external_attr = stat.S_IMODE(status.st_mode) << 16
        taken = 0
        with archive.open(entry, "w", force_zip64=status.st_size > 2**31) as target:
            # It may grow while it is read.
            while taken < room and (piece := source.read(min(_PIECE_BYTES, room - taken))):
                target.write(piece)
                taken += len(piece)
        return taken
