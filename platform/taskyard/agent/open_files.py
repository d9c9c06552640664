"""The limit of open files: as high as possible for the agent, as it was at start for its jobs.

The agent and its keeper have two pipes of each line that runs, so they need many. The usual soft
limit is low for the sake of programs that use ``select(2)``, and jobs may be such programs.
"""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator

#: The soft limit that this process was started with.
AT_START = resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def raise_limit() -> None:
    """Let this process, and those it starts from now on, open as many files as possible."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # A limit that is higher than the kernel's own bound cannot be set.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def restore_limit() -> None:
    """Undo ``raise_limit``: at SIGHUP Celery starts itself anew in this process."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (AT_START, hard))


@contextlib.contextmanager
def limited(most: int) -> Iterator[None]:
    """Limit the open files of processes started within this; those open here stay open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
