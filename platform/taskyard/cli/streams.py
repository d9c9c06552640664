"""Our stdout and stderr when they cannot take what we print: closed, full, or not in UTF-8."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO


def prepare() -> None:
    """Make every text printable, and put /dev/null in place of streams closed before our start."""
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(nowhere, "r" if name == "stdin" else "w"))
        elif isinstance(stream, io.TextIOWrapper) and stream is not sys.stdin:
            stream.reconfigure(errors="backslashreplace")


def silence(stream: TextIO) -> None:
    """Discard what the stream holds and all that is written to it from now on, also at our exit."""
    with suppress(io.UnsupportedOperation):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


@contextmanager
def lossy(stream: TextIO) -> Iterator[None]:
    """Allow output to be lost: a failed write only silences the stream."""
    try:
        yield
        stream.flush()
    except OSError:
        silence(stream)


def is_stdout(path: Path) -> bool:
    """Return whether our stdout goes to this file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(sys.stdout.fileno()))
    except OSError:
        return False


def is_unread(error: OSError) -> bool:
    """Return whether the write failed because nobody reads any more, as after ``| head``."""
    return error.errno == errno.EPIPE


def flushed(code: int) -> int:
    """Flush stdout; returns the exit code, which is not 0 if that fails while somebody reads."""
    try:
        sys.stdout.flush()
    except OSError as error:
        silence(sys.stdout)
        if is_unread(error):
            return code
        with lossy(sys.stderr):
            print(f"taskyard: stdout: {error.strerror}", file=sys.stderr)
        return code or 1
    return code
