"""Removes the folder of a job, whatever the job made of it.

Each folder below is moved to the top of the job's folder before it is read. So the deepest tree
needs no recursion and no long paths, a link that somebody puts there meanwhile is not followed, and
a file system that is mounted there is left alone, because it cannot be moved.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def remove(base: Path) -> bool:
    """Remove ``base`` with all that is in it; return whether nothing is left."""
    # Twice, because a process that is being killed may still write while we remove.
    for _ in range(2):
        with contextlib.suppress(OSError):
            _open_up(str(base))
            with _opened(str(base)) as top:
                _empty(top)
            base.rmdir()
        if not os.path.lexists(base):
            return True
    return False


def _empty(top: int) -> None:
    """Remove all that is in the folder that is open as ``top``."""
    unique = secrets.token_hex(8)
    names = (f"{unique}.{number}" for number in itertools.count())
    moved = _take_apart(top, top, names)
    while moved:
        name = moved.pop()
        with contextlib.suppress(OSError):
            with _opened(name, top) as folder:
                moved += _take_apart(folder, top, names)
            os.rmdir(name, dir_fd=top)


def _take_apart(folder: int, top: int, names: Iterator[str]) -> list[str]:
    """Move the folders in this one to ``top`` and remove all else; return the folders' new names.

    What can be neither moved nor removed stays.
    """
    moved = []
    with os.scandir(folder) as entries:
        # Files first: on a full disk there may be no room for another name.
        found = sorted(entries, key=lambda entry: entry.is_dir(follow_symlinks=False))
    for entry in found:
        with contextlib.suppress(OSError):
            if entry.is_dir(follow_symlinks=False):
                _open_up(entry.name, folder)
                name = next(names)
                os.rename(entry.name, name, src_dir_fd=folder, dst_dir_fd=top)
                moved.append(name)
            else:
                os.unlink(entry.name, dir_fd=folder)
    return moved


def _open_up(name: str, within: int | None = None) -> None:
    """Restore the permissions of a folder that the job may have taken away. Raises OSError."""
    status = os.stat(name, dir_fd=within, follow_symlinks=False)
    if stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_IRWXU != stat.S_IRWXU:
        with _opened(name, within, os.O_PATH | os.O_NOFOLLOW) as folder:
            Path(f"/proc/self/fd/{folder}").chmod(stat.S_IRWXU)


@contextlib.contextmanager
def _opened(name: str, within: int | None = None, flags: int = _FOLDER) -> Iterator[int]:
    folder = os.open(name, flags, dir_fd=within)
    try:
        yield folder
    finally:
        os.close(folder)
