"""The keeper: one small process per agent that starts the lines of its jobs and ends them surely.

It is the parent and the subreaper of everything that jobs start, so nothing outlives its job, its
lease or its agent, not even what called ``setsid``: it kills when the agent says so, when a
deadline passes that the agent did not move (an agent that is stopped, or cut off from MongoDB),
and when the agent is gone. It knows nothing of jobs, has no threads and imports the standard
library alone. Run as ``python -m taskyard.agent.keeper FD``; ``processes.py`` is its other end.

Messages are JSON on a SEQPACKET socket, with the pipes of a line as file descriptors beside it.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from taskyard.agent import tree

SHELL = "/bin/sh"

#: The longest message: a line of a command with its environment.
MESSAGE_BYTES = 512 * 1024

#: Between two looks at processes that were killed and are not gone yet.
_LOOK_SECONDS = 0.02

_LOOK_ONLY = os.WEXITED | os.WNOHANG | os.WNOWAIT

#: A process that does not go even so (it hangs in the kernel) holds up its job no longer.
_PATIENCE_SECONDS = 10.0


@dataclass
class _Line:
    """One started line, until it and all that it left are gone."""

    key: str
    tag: int
    pid: int
    #: Monotonic instant past which it may not live.
    until: float
    lapsed: bool = False
    #: It was asked to end: what its shell leaves may use the grace, until it is killed.
    asked: bool = False
    exit_code: int | None = None
    #: When its shell ended, for the patience with what it left.
    ended_at: float = 0.0


class Keeper:
    """Serves one agent until it goes."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._tags = tree.Tags()
        self._children = tree.OwnChildren()
        self._lines: dict[str, _Line] = {}
        #: Never waited for: a stopped agent reads nothing, and deadlines pass all the same.
        self._outbox: deque[bytes] = deque()
        self._selector = selectors.DefaultSelector()
        self._serving = True
        channel.setblocking(False)
        self._selector.register(channel, selectors.EVENT_READ, self._hear)

    def run(self) -> None:
        """Serve until the agent closes its end or dies, then leave nothing behind."""
        bell = _child_bell()
        self._selector.register(bell, selectors.EVENT_READ, lambda: _drain(bell))
        while self._serving:
            for key, _ in self._selector.select(self._nap()):
                key.data()
            self._look_after()
            self._flush()
        _kill_all()

    # --- what the agent says

    def _hear(self) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(
                self._channel, MESSAGE_BYTES, 2, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", []
        if not data:
            self._serving = False
            return
        message = json.loads(data)
        match message["say"]:
            case "spawn":
                self._spawn(message, fds)
            case "signal":
                self._signal(message["key"], message["number"])
            case "extend":
                self._extend(message["keys"], message["until"])

    def _spawn(self, message: Mapping[str, Any], pipes: list[int]) -> None:
        key, until = message["key"], message["until"]
        try:
            # A stopped agent that wakes may ask for what is over by now.
            if time.monotonic() >= until:
                self._tell("failed", key, error="its lease was over before it began")
                return
            self._lines[key] = _Line(
                key=key,
                tag=self._tags.take(),
                pid=_spawn(message["line"], message["cwd"], message["env"], pipes),
                until=until,
            )
        except (OSError, ValueError) as error:
            self._tell("failed", key, error=str(error))
        finally:
            for fd in pipes:
                os.close(fd)

    def _signal(self, key: str, number: int) -> None:
        if line := self._lines.get(key):
            line.asked = number != signal.SIGKILL
            tree.send(number, self._alive(line))

    def _extend(self, keys: list[str], until: float) -> None:
        for key in keys:
            if line := self._lines.get(key):
                line.until = max(line.until, until)

    # --- what happens by itself

    def _look_after(self) -> None:
        """Kill what may not live on, and tell of the lines that are over with all they left."""
        for line in list(self._lines.values()):
            if time.monotonic() >= line.until and not line.lapsed:
                line.lapsed, line.asked = True, False
                tree.send(signal.SIGKILL, self._alive(line))
                self._tell("lapsed", line.key)
            if line.exit_code is None and _has_ended(line.pid) and not self._has_grace(line):
                # Its group goes before its number can be used again.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(line.pid, signal.SIGKILL)
                line.exit_code = _as_shell(os.waitpid(line.pid, 0)[1])
                line.ended_at = time.monotonic()
            if line.exit_code is not None and self._is_clear(line):
                del self._lines[line.key]
                self._tell("exited", line.key, code=line.exit_code)
        _reap_orphans({line.pid for line in self._lines.values()})

    def _has_grace(self, line: _Line) -> bool:
        """Whether something of a line that was asked to end may go on, though its shell has not
        waited for it.
        """
        return line.asked and bool(self._alive(line))

    def _is_clear(self, line: _Line) -> bool:
        """Whether nothing of an ended line is left; what is left is killed."""
        left = self._alive(line)
        tree.send(signal.SIGKILL, left)
        return not left or time.monotonic() > line.ended_at + _PATIENCE_SECONDS

    def _alive(self, line: _Line) -> list[int]:
        """The processes of a line: its shell, orphans of its tag, and all below them."""
        shells = {other.pid for other in self._lines.values()}
        roots = [
            pid
            for pid in self._children()
            if (pid == line.pid or (pid not in shells and self._tags.of(pid) == line.tag))
            and not _has_ended(pid)
        ]
        return tree.with_descendants(roots)

    def _nap(self) -> float | None:
        """Until the next deadline; a moment while something killed is not gone."""
        if not self._lines:
            return None
        if any(line.exit_code is not None for line in self._lines.values()):
            return _LOOK_SECONDS
        pending = [line.until for line in self._lines.values() if not line.lapsed]
        return max(0.0, min(pending) - time.monotonic()) if pending else None

    # --- telling

    def _tell(self, event: str, key: str, **facts: Any) -> None:
        self._outbox.append(json.dumps({"event": event, "key": key, **facts}).encode())

    def _flush(self) -> None:
        try:
            while self._outbox:
                self._channel.send(self._outbox[0])
                self._outbox.popleft()
        except BlockingIOError:
            pass
        except OSError:
            self._serving = False
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._outbox else 0)
        self._selector.modify(self._channel, wanted, self._hear)


def main() -> None:
    """Serve the agent at the other end of the socket whose number is given."""
    # Handlers, not SIG_IGN, which jobs would inherit: the agent's end is what ends us.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    tree.become_subreaper()
    channel = socket.socket(fileno=int(sys.argv[1]))
    channel.set_inheritable(False)
    Keeper(channel).run()


def _child_bell() -> socket.socket:
    """A socket that can be read after a child has ended."""
    bell, ring = socket.socketpair()
    bell.setblocking(False)
    ring.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(ring.detach(), warn_on_full_buffer=False)
    return bell


def _spawn(line: str, cwd: str, env: Mapping[str, str], pipes: Sequence[int]) -> int:
    """Start a line in a session of its own. Raises OSError, ValueError.

    Not by ``subprocess``, which costs as much again; nothing else that is open is inherited.
    """
    # It has no argument for it; one thread may go there itself.
    os.chdir(cwd)
    try:
        return os.posix_spawn(
            SHELL,
            [SHELL, "-c", line],
            env,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, pipes[0], 1),
                (os.POSIX_SPAWN_DUP2, pipes[1], 2),
            ],
            setsid=True,
            # What Python itself ignores.
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
        )
    finally:
        os.chdir("/")


def _drain(bell: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        while bell.recv(4096):
            pass


def _has_ended(pid: int) -> bool:
    """Whether a child of ours is a zombie; it stays one."""
    try:
        return os.waitid(os.P_PID, pid, _LOOK_ONLY) is not None
    except ChildProcessError:
        return True


def _as_shell(status: int) -> int:
    """An exit code as a shell gives it."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _reap_orphans(shells: set[int]) -> None:
    """Let ended orphans go; shells are waited for by their own lines."""
    with contextlib.suppress(ChildProcessError):
        while ended := os.waitid(os.P_ALL, 0, _LOOK_ONLY):
            if ended.si_pid in shells:
                return
            os.waitpid(ended.si_pid, 0)


def _kill_all() -> None:
    """The agent is gone: so is everything that it ran."""
    until = time.monotonic() + _PATIENCE_SECONDS
    while (left := tree.children(os.getpid())) and time.monotonic() < until:
        tree.send(signal.SIGKILL, tree.with_descendants(left))
        for pid in left:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(_LOOK_SECONDS / 10)


if __name__ == "__main__":
    main()
