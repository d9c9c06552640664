"""Our stdout and stderr where they cannot take what we print: closed, full, or of another code."""

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
    """Make every text printable; a stream that was closed before us swallows what it gets."""
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(nowhere, "r" if name == "stdin" else "w"))
        elif isinstance(stream, io.TextIOWrapper) and stream is not sys.stdin:
            stream.reconfigure(errors="backslashreplace")


def silence(stream: TextIO) -> None:
    """Swallow what it holds and all that it gets from now on, at our end too."""
    with suppress(io.UnsupportedOperation):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


@contextmanager
def lossy(stream: TextIO) -> Iterator[None]:
    """For what may get lost: what cannot be written silences the stream, and no more."""
    try:
        yield
        stream.flush()
    except OSError:
        silence(stream)


def is_stdout(path: Path) -> bool:
    """Whether this file is where our stdout goes."""
    try:
        return os.path.samestat(path.stat(), os.fstat(sys.stdout.fileno()))
    except OSError:
        return False


def is_unread(error: OSError) -> bool:
    """Whether nobody reads what was written, as after ``| head``."""
    return error.errno == errno.EPIPE


def flushed(code: int) -> int:
    """Write out what stdout holds; the exit code, which is no 0 when that fails."""
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
