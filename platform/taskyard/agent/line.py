"""One line of a job's command, which the keeper runs in a shell; standard library alone."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import sys
import termios
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from taskyard.agent import open_files

SHELL = "/bin/sh"

#: The pipes of a line that ends sooner than this and prints no more than this are read once, at its
#: end: having the agent watch them costs more than many a line.
SHORT_SECONDS = 0.01
LITTLE_BYTES = 4096

_LOOK_ONLY = os.WEXITED | os.WNOHANG | os.WNOWAIT


@dataclass
class Line:
    """A line that was started, until all its processes are gone."""

    key: str
    #: Its job's id, as in the environment of its processes; empty if that has none.
    job: str
    tag: int
    #: None of its processes began before this (``tree.ticks``).
    began: int
    pid: int
    #: Monotonic instant past which it is killed.
    until: float
    #: The read ends of its stdout and stderr, none once they are given away; and when they are
    #: handed to the agent, as a monotonic instant.
    pipes: tuple[int, ...]
    shown_at: float
    lapsed: bool = False
    #: Whether it was asked to end: processes that its shell leaves may then use the grace.
    asked: bool = False
    exit_code: int | None = None
    #: When its shell was reaped, from which the patience with its last processes counts.
    ended_at: float = 0.0

    def give_pipes(self) -> tuple[int, ...]:
        """Give its pipes away; the caller closes them."""
        pipes, self.pipes = self.pipes, ()
        return pipes

    def has_printed_little(self) -> bool:
        """Whether its pipes have no writer any more, and little is in them."""
        poll = select.poll()
        for fd in self.pipes:
            poll.register(fd, 0)
        # A pipe without a hang-up has a writer: a process that was handed it over a socket.
        if len(poll.poll(0)) < len(self.pipes):
            return False
        return sum(map(waiting_bytes, self.pipes)) <= LITTLE_BYTES

    def take_printed(self) -> list[bytes]:
        """Return all that is in its pipes, and close them."""
        printed = []
        for fd in self.give_pipes():
            printed.append(os.read(fd, LITTLE_BYTES) if waiting_bytes(fd) else b"")
            os.close(fd)
        return printed

    def reap(self, now: float) -> None:
        """Take the exit code of its ended shell, and kill what is left of the shell's group."""
        # Before the shell is reaped: the number of its group can be used again after that.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.exit_code = _as_shell(os.waitpid(self.pid, 0)[1])
        self.ended_at = now


def start(
    line: str, cwd: str, env: Mapping[str, str], *, files: int
) -> tuple[int, tuple[int, int]]:
    """Start a line in a session of its own; return its process and the read ends of its pipes.

    Each of its processes may have so many ``files`` open, and inherits no others of ours. Not by
    ``subprocess``, which costs as much again. Raises OSError, ValueError.
    """
    out, out_end = os.pipe()
    err, err_end = os.pipe()
    try:
        with open_files.limited(files):
            return _spawn(line, cwd, env, (out_end, err_end)), (out, err)
    except BaseException:
        os.close(out)
        os.close(err)
        raise
    finally:
        os.close(out_end)
        os.close(err_end)


def has_ended(pid: int) -> bool:
    """Whether a child of ours has ended; it stays a zombie."""
    try:
        return os.waitid(os.P_PID, pid, _LOOK_ONLY) is not None
    except ChildProcessError:
        return True


def reap_orphans(shells: set[int]) -> None:
    """Reap orphans that have ended; shells are reaped by their own lines."""
    with contextlib.suppress(ChildProcessError):
        while ended := os.waitid(os.P_ALL, 0, _LOOK_ONLY):
            if ended.si_pid in shells:
                return
            os.waitpid(ended.si_pid, 0)


def waiting_bytes(fd: int) -> int:
    """Return how many bytes are in a pipe."""
    return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), sys.byteorder)


def _spawn(line: str, cwd: str, env: Mapping[str, str], ends: Sequence[int]) -> int:
    # ``posix_spawn`` takes no working folder; this process, with one thread, may change its own.
    os.chdir(cwd)
    try:
        return os.posix_spawn(
            SHELL,
            [SHELL, "-c", line],
            env,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, ends[0], 1),
                (os.POSIX_SPAWN_DUP2, ends[1], 2),
            ],
            setsid=True,
            # Python ignores these; jobs must not inherit that.
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
        )
    finally:
        os.chdir("/")


def _as_shell(status: int) -> int:
    """Return the exit code as a shell gives it: 128 and the signal's number if one ended it."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
