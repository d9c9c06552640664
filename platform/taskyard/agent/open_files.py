"""How many files may be open: for the agent all that it can have, for its jobs what it came with.

An agent and its keeper have two pipes of each line that runs. The usual soft limit is low for the
sake of programs that use ``select(2)``, which jobs may be.
"""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator

#: The soft limit that this process was started with.
AT_START = resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def raise_limit() -> None:
    """Let this process, and what it starts from now on, open as many as it can."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # One that is higher than the kernel's own bound cannot be had.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def restore_limit() -> None:
    """Undo that, for what takes this process over: Celery starts itself anew in it at SIGHUP."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (AT_START, hard))


@contextlib.contextmanager
def limited(most: int) -> Iterator[None]:
    """What is started within this may have so many open; what is open here stays so."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
