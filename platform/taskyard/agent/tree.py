"""Finds processes of jobs wherever they went: children, orphans, and those that called setsid.

Linux only, and standard library only, because the keeper uses it. Orphans become children of the
nearest subreaper (prctl(2)). A tag tells to which line they belong. It is inherited by fork, kept
by exec and not lost with the environment: the hard limit ``RLIMIT_RTTIME`` (setrlimit(2)), a bound
for realtime scheduling that nobody else uses at such values, lower by a step for each line that is
started. A process may lower it further, as some sound servers do: then ``TASKYARD_JOB_ID`` in its
environment tells.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import time
from collections.abc import Iterable
from pathlib import Path

#: The variable that names the job to its processes.
JOB_VARIABLE = "TASKYARD_JOB_ID"

_PR_SET_CHILD_SUBREAPER = 36

#: The first tag, and the step from one to the next.
_FIRST = 2**62
_STEP = 2**32
_UNLIMITED = 2**64

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def become_subreaper() -> None:
    """Have orphans among our descendants become our children. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "cannot become a subreaper")


class Tags:
    """Tags for the lines that this process starts.

    An agent that itself runs in a job finds a limit set, and goes down from it in steps of one: for
    the outer keeper, the processes that it tags still belong to that job.
    """

    def __init__(self) -> None:
        self._last = _limit(os.getpid())
        self._step = 1 if self._last < _UNLIMITED else _STEP

    def take(self) -> int:
        """Tag whatever this process starts from now on with a new tag, and return it."""
        self._last = min(self._last, _FIRST + self._step) - self._step
        resource.setrlimit(resource.RLIMIT_RTTIME, (self._last, self._last))
        return self._last

    def of(self, pid: int) -> int:
        """Return the tag of a process, rounded up to a step: a nested agent's tag to its job's."""
        return -(-_limit(pid) // self._step) * self._step


def job_of(pid: int) -> str:
    """Return the job that a process's environment names; empty if the process has cleared it."""
    try:
        seen = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return ""
    prefix = f"{JOB_VARIABLE}=".encode()
    named = (each.removeprefix(prefix) for each in seen if each.startswith(prefix))
    return next(named, b"").decode(errors="replace")


def ticks() -> int:
    """Return the time now, in the unit and clock of the kernel's start times of processes."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // (10**9 // _TICKS_PER_SECOND)


def began(pid: int) -> int:
    """Return when a process, also of another user, began (proc_pid_stat(5)), as ``ticks``.

    One that cannot be seen (``hidepid``), or is gone, counts as the youngest of all.
    """
    try:
        # Its name, which may be anything, ends with the last bracket.
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19])
    except OSError:
        return _UNLIMITED


def children(pid: int) -> list[int]:
    """The children of a process, zombies too; none for one that is gone."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (thread / "children").read_text().split())
    return found


class OwnChildren:
    """The children of this process, zombies too; one thread must have started all of them."""

    def __init__(self) -> None:
        self._listed = os.open("/proc/thread-self/children", os.O_RDONLY | os.O_CLOEXEC)

    def __call__(self) -> list[int]:
        """Return the children there are now."""
        parts: list[bytes] = []
        while part := os.pread(self._listed, 65536, sum(map(len, parts))):
            parts.append(part)
        return list(map(int, b"".join(parts).split()))


def with_descendants(pids: Iterable[int]) -> list[int]:
    """Return these processes and all their descendants, parents first."""
    found = list(pids)
    for pid in found:
        found += children(pid)
    return found


def send(number: int, pids: Iterable[int]) -> None:
    """Signal each process, except those that are gone or belong to another user by now."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def kill_what_was_kept() -> int:
    """Kill and reap our own children that carry a tag, with all below them; returns how many.

    For an agent whose keeper died: the processes that it kept have become our children.
    """
    killed = 0
    ours = _limit(os.getpid())
    while kept := [pid for pid in children(os.getpid()) if _limit(pid) < ours]:
        send(signal.SIGKILL, with_descendants(kept))
        for pid in kept:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
        killed += len(kept)
    return killed


def _limit(pid: int) -> int:
    """The hard limit of a process; one that is gone or another user's has none."""
    try:
        _, hard = resource.prlimit(pid, resource.RLIMIT_RTTIME)
    except OSError:
        return _UNLIMITED
    return _UNLIMITED if hard == resource.RLIM_INFINITY else hard
