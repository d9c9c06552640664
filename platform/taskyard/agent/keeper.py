"""The keeper: a small process, one per agent, that starts the lines of jobs and reliably ends them.

It is the parent and the subreaper of all processes that jobs start, so nothing outlives its job,
its lease or its agent, not even a process that called ``setsid``. It kills when the agent asks for
it, when a deadline passes that the agent did not move (because it is stopped, or cut off from
MongoDB), and when the agent is gone. It knows jobs only by name, has no threads and imports the
standard library alone. It is run as ``python -m taskyard.agent.keeper FD FILES``; the agent's end
is ``processes.py``.

A line may be asked for as the follower of another: it begins as soon as that is over.

Messages are JSON on a SEQPACKET socket. The output of a short line comes with the message that it
has ended; the pipes of any other line are handed to the agent, as file descriptors beside a
message.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import selectors
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Iterable
from typing import Any

from taskyard.agent import line as lines
from taskyard.agent import tree
from taskyard.agent.followers import Followers, Spawn
from taskyard.agent.line import Line

#: The longest message of an agent: a line of a command with its environment.
MESSAGE_BYTES = 512 * 1024

#: Errors that say that the host has no process, memory or file left, whatever the line is.
_FULL = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE})

#: Pause between two looks at processes that were killed and are not gone yet.
_LOOK_SECONDS = 0.02

#: How long a killed process that does not go (it hangs in the kernel) holds up its job.
_PATIENCE_SECONDS = 10.0


class Keeper:
    """Serves one agent until that is gone."""

    def __init__(self, channel: socket.socket, files: int) -> None:
        """``files`` is how many files each process of a line may have open."""
        self._channel = channel
        self._files = files
        self._tags = tree.Tags()
        self._children = tree.OwnChildren()
        self._lines: dict[str, Line] = {}
        self._followers = Followers()
        #: Messages to the agent, sent without blocking: deadlines count while a stopped agent
        #: reads none.
        self._outbox: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self._selector = selectors.DefaultSelector()
        self._serving = True
        channel.setblocking(False)
        self._selector.register(channel, selectors.EVENT_READ, self._hear)

    def run(self) -> None:
        """Serve until the agent closes its end or dies, then kill all that is left."""
        bell = _child_bell()
        self._selector.register(bell, selectors.EVENT_READ, lambda: _drain(bell))
        while self._serving:
            for key, _ in self._selector.select(self._nap()):
                key.data()
            self._look_after()
            self._flush()
        _kill_all()

    # --- messages from the agent

    def _hear(self) -> None:
        try:
            while self._serving:
                data = self._channel.recv(MESSAGE_BYTES)
                self._serving = bool(data)
                if data:
                    self._heed(json.loads(data))
        except BlockingIOError:
            return
        except OSError:
            self._serving = False

    def _heed(self, message: dict[str, Any]) -> None:
        match message["say"]:
            case "spawn" if message["after"] in self._lines or self._followers.has(
                message["after"]
            ):
                self._followers.add(message)
            case "spawn":
                self._spawn(message)
            case "start":
                self._spawn(self._followers.take(message["key"]))
            case "withdraw":
                if self._followers.withdraw(message["key"]):
                    self._tell("failed", message["key"], error="it was withdrawn")
            case "signal":
                self._signal(message["key"], message["number"])
            case "extend":
                self._extend(message["keys"], message["until"])
                self._tell("extended", "")

    def _spawn(self, message: Spawn | None) -> None:
        """Start a line, or its follower if it cannot be started, and so on."""
        while message is not None and not self._has_spawned(message):
            message = self._followers.next(message["key"])

    def _has_spawned(self, message: Spawn) -> bool:
        key, until, now = message["key"], message["until"], time.monotonic()
        # An agent that was stopped and wakes may ask for a line whose lease is over.
        if now >= until:
            self._tell("failed", key, error="its lease was over before it began")
            return False
        tag, began = self._tags.take(), tree.ticks()
        try:
            pid, pipes = lines.start(
                message["line"], message["cwd"], message["env"], files=self._files
            )
        except (OSError, ValueError) as error:
            is_full = isinstance(error, OSError) and error.errno in _FULL
            self._tell("failed", key, error=str(error), is_full=is_full)
            return False
        self._lines[key] = Line(
            key=key,
            job=message["env"].get(tree.JOB_VARIABLE, ""),
            tag=tag,
            began=began,
            pid=pid,
            until=until,
            pipes=pipes,
            shown_at=now + lines.SHORT_SECONDS,
        )
        return True

    def _signal(self, key: str, number: int) -> None:
        if line := self._lines.get(key):
            line.asked = number != signal.SIGKILL
            tree.send(number, self._alive(line))

    def _extend(self, keys: list[str], until: float) -> None:
        for key in keys:
            if line := self._lines.get(key):
                line.until = max(line.until, until)
        self._followers.extend(keys, until)

    # --- what happens by itself

    def _look_after(self) -> None:
        """Kill lines past their deadline, and report those of which no process is left."""
        now, one_is_over = time.monotonic(), False
        for line in list(self._lines.values()):
            if now >= line.until and not line.lapsed:
                line.lapsed, line.asked = True, False
                tree.send(signal.SIGKILL, self._alive(line))
                self._tell("lapsed", line.key)
            if line.exit_code is None and lines.has_ended(line.pid) and not self._has_grace(line):
                line.reap(now)
            if line.exit_code is not None and self._is_clear(line, now):
                del self._lines[line.key]
                one_is_over = True
                self._tell_end(line)
                self._spawn(self._followers.next(line.key))
            elif line.pipes and now >= line.shown_at:
                self._tell("opened", line.key, fds=line.give_pipes())
        if one_is_over or not self._lines:
            self._end_what_is_nobodys()
        lines.reap_orphans({line.pid for line in self._lines.values()})

    def _end_what_is_nobodys(self) -> None:
        """Kill orphans that are older than every living line, so that none of those started them.

        This ends processes that have dropped both their tag and the variable that names the job.
        """
        shells = {line.pid for line in self._lines.values()}
        if strays := self._not_ended(pid for pid in self._children() if pid not in shells):
            oldest = min((line.began for line in self._lines.values()), default=float("inf"))
            nobodys = [pid for pid in strays if tree.began(pid) < oldest]
            tree.send(signal.SIGKILL, tree.with_descendants(nobodys))

    def _has_grace(self, line: Line) -> bool:
        """Whether a line was asked to end and has processes left.

        These may use the grace, even though the shell has ended.
        """
        return line.asked and bool(self._alive(line))

    def _is_clear(self, line: Line, now: float) -> bool:
        """Kill what is left of an ended line; return whether nothing is, or patience is over."""
        left = self._alive(line)
        tree.send(signal.SIGKILL, left)
        return not left or now > line.ended_at + _PATIENCE_SECONDS

    def _alive(self, line: Line) -> list[int]:
        """Return the processes of a line: its shell, its orphans, and all their descendants."""
        shells = {other.pid for other in self._lines.values()}
        tags = {other.tag for other in self._lines.values()}

        def is_orphan_of_it(pid: int) -> bool:
            tag = self._tags.of(pid)
            return tag == line.tag or (tag not in tags and tree.job_of(pid) == line.job != "")

        roots = [
            pid
            for pid in self._children()
            if pid == line.pid or (pid not in shells and is_orphan_of_it(pid))
        ]
        return tree.with_descendants(self._not_ended(roots))

    def _not_ended(self, pids: Iterable[int]) -> list[int]:
        return [pid for pid in pids if not lines.has_ended(pid)]

    def _nap(self) -> float | None:
        """Return the time until the next deadline, or a moment while a killed process is left."""
        if not self._lines:
            return None
        if any(line.exit_code is not None for line in self._lines.values()):
            return _LOOK_SECONDS
        due = [line.until for line in self._lines.values() if not line.lapsed]
        due += [line.shown_at for line in self._lines.values() if line.pipes]
        return max(0.0, min(due) - time.monotonic()) if due else None

    # --- messages to the agent

    def _tell_end(self, line: Line) -> None:
        if line.pipes and not line.has_printed_little():
            self._tell("opened", line.key, fds=line.give_pipes())
        out, err = (data.decode("latin-1") for data in line.take_printed() or (b"", b""))
        self._tell("exited", line.key, code=line.exit_code, out=out, err=err)

    def _tell(self, event: str, key: str, *, fds: tuple[int, ...] = (), **facts: Any) -> None:
        self._outbox.append((json.dumps({"event": event, "key": key, **facts}).encode(), fds))

    def _flush(self) -> None:
        try:
            while self._outbox:
                message, fds = self._outbox[0]
                socket.send_fds(self._channel, [message], fds)
                self._outbox.popleft()
                for fd in fds:
                    os.close(fd)
        except BlockingIOError:
            pass
        except OSError:
            self._serving = False
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._outbox else 0)
        self._selector.modify(self._channel, wanted, self._hear)


def main() -> None:
    """Serve the agent at the other end of the socket, which is the first argument."""
    # Only the end of the agent ends us. Handlers, not SIG_IGN, which jobs would inherit.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    tree.become_subreaper()
    channel = socket.socket(fileno=int(sys.argv[1]))
    channel.set_inheritable(False)
    Keeper(channel, files=int(sys.argv[2])).run()


def _child_bell() -> socket.socket:
    """Return a socket that can be read once a child has ended."""
    bell, ring = socket.socketpair()
    bell.setblocking(False)
    ring.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(ring.detach(), warn_on_full_buffer=False)
    return bell


def _drain(bell: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        while bell.recv(4096):
            pass


def _kill_all() -> None:
    """Kill and reap all that the agent ran, because it is gone."""
    until = time.monotonic() + _PATIENCE_SECONDS
    while (left := tree.children(os.getpid())) and time.monotonic() < until:
        tree.send(signal.SIGKILL, tree.with_descendants(left))
        for pid in left:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(_LOOK_SECONDS / 10)


if __name__ == "__main__":
    main()
