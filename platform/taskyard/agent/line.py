"""One line of a job's command in its shell, as the keeper has it; standard library alone."""

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

#: The pipes of a line that is over sooner and has printed no more are read once, at its end: to
#: have the agent watch them costs more than many a line.
SHORT_SECONDS = 0.01
LITTLE_BYTES = 4096

_LOOK_ONLY = os.WEXITED | os.WNOHANG | os.WNOWAIT


@dataclass
class Line:
    """One started line, until it and all that it left are gone."""

    key: str
    #: Its job by name, as its processes see it; none where there is none.
    job: str
    tag: int
    #: Nothing of it began before that (``tree.ticks``).
    began: int
    pid: int
    #: Monotonic instant past which it may not live.
    until: float
    #: The read ends of its stdout and stderr, and when they become the agent's to read; none any
    #: more from then on.
    pipes: tuple[int, ...]
    shown_at: float
    lapsed: bool = False
    #: It was asked to end: what its shell leaves may use the grace, until it is killed.
    asked: bool = False
    exit_code: int | None = None
    #: When its shell ended, for the patience with what it left.
    ended_at: float = 0.0

    def give_pipes(self) -> tuple[int, ...]:
        """Its pipes, which whoever takes them closes."""
        pipes, self.pipes = self.pipes, ()
        return pipes

    def has_printed_little(self) -> bool:
        """Whether nothing will come after what is in its pipes, and that is little."""
        poll = select.poll()
        for fd in self.pipes:
            poll.register(fd, 0)
        # Both, or somebody still has them: a process that was handed one by another's socket.
        if len(poll.poll(0)) < len(self.pipes):
            return False
        return sum(map(waiting_bytes, self.pipes)) <= LITTLE_BYTES

    def take_printed(self) -> list[bytes]:
        """All that is in its pipes, which are closed with that."""
        printed = []
        for fd in self.give_pipes():
            printed.append(os.read(fd, LITTLE_BYTES) if waiting_bytes(fd) else b"")
            os.close(fd)
        return printed

    def reap(self, now: float) -> None:
        """Its shell has ended: take its exit code, and its group along."""
        # Before its number can be used again.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.exit_code = _as_shell(os.waitpid(self.pid, 0)[1])
        self.ended_at = now


def start(
    line: str, cwd: str, env: Mapping[str, str], *, files: int
) -> tuple[int, tuple[int, int]]:
    """Start a line in a session of its own, which may have so many ``files`` open; returns its
    process and the read ends of its pipes.

    Not by ``subprocess``, which costs as much again; nothing else that is open is inherited.
    Raises OSError, ValueError.
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
    """Whether a child of ours is a zombie; it stays one."""
    try:
        return os.waitid(os.P_PID, pid, _LOOK_ONLY) is not None
    except ChildProcessError:
        return True


def reap_orphans(shells: set[int]) -> None:
    """Let ended orphans go; shells are waited for by their own lines."""
    with contextlib.suppress(ChildProcessError):
        while ended := os.waitid(os.P_ALL, 0, _LOOK_ONLY):
            if ended.si_pid in shells:
                return
            os.waitpid(ended.si_pid, 0)


def waiting_bytes(fd: int) -> int:
    """How much is in a pipe."""
    return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), sys.byteorder)


def _spawn(line: str, cwd: str, env: Mapping[str, str], ends: Sequence[int]) -> int:
    # It has no argument for it; one thread may go there itself.
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
            # What Python itself ignores.
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
        )
    finally:
        os.chdir("/")


def _as_shell(status: int) -> int:
    """An exit code as a shell gives it."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
