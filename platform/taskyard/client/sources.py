"""Files to upload, each with a length that stays the same during the upload."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast


@contextmanager
def opened(file: Path) -> Iterator[BinaryIO]:
    """Open the file up to its present end. A pipe, which can be read only once, is copied first."""
    with file.open("rb") as source:
        if source.seekable():
            yield cast(BinaryIO, _AsFarAsNow(source))
            return
        with tempfile.TemporaryFile() as kept:
            shutil.copyfileobj(source, kept)
            kept.seek(0)
            yield cast(BinaryIO, kept)


class _AsFarAsNow:
    """A file without what it grows by, as a log does: its length is sent ahead of it."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._size = source.seek(0, os.SEEK_END)
        source.seek(0)

    def read(self, size: int = -1) -> bytes:
        """Read up to so many bytes, or all that is left."""
        left = max(0, self._size - self._source.tell())
        return self._source.read(left if size < 0 else min(size, left))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position as in a file, whose end is the one at its opening."""
        if whence == os.SEEK_END:
            offset, whence = self._size + offset, os.SEEK_SET
        return self._source.seek(offset, whence)

    def tell(self) -> int:
        """Return the position as in a file."""
        return self._source.tell()
