"""The agent's end of its keeper: start lines, signal them, move their deadlines, hear of ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from taskyard import events
from taskyard.agent import tree
from taskyard.agent.keeper import MESSAGE_BYTES
from taskyard.agent.loop import Loop

#: A keeper that takes nothing for so long is stopped or stuck: it is replaced.
_SEND_SECONDS = 5.0

_END_SECONDS = 5.0


class Ends(Protocol):
    """What is told of started lines, by the key they were started with; on the loop's thread."""

    def exited(self, key: str, code: int) -> None:
        """The line has ended, and nothing that it started is left."""

    def failed(self, key: str, reason: str) -> None:
        """The line could not be started, or its keeper died and took it along."""

    def lapsed(self, key: str) -> None:
        """The deadline passed: it was killed, or not started."""


class Processes:
    """Starts lines through the keeper, and starts the keeper anew should it die."""

    def __init__(self, loop: Loop, ends: Ends) -> None:
        self._loop = loop
        self._ends = ends
        self._channel: socket.socket | None = None
        self._keeper: subprocess.Popen[bytes] | None = None
        #: Lines that were started and not heard of since.
        self._running: set[str] = set()

    def start(self) -> None:
        """Start the keeper. Raises OSError."""
        # Should the keeper die, what it kept comes to us to be ended.
        tree.become_subreaper()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            for end in (ours, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MESSAGE_BYTES)
            self._keeper = subprocess.Popen(
                [sys.executable, "-m", "taskyard.agent.keeper", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                # Signals for the agent's group are not for its keeper.
                start_new_session=True,
            )
        ours.settimeout(_SEND_SECONDS)
        self._channel = ours
        self._loop.watch(ours.fileno(), self._hear)

    def spawn(
        self, key: str, line: str, *, cwd: Path, env: Mapping[str, str], until: float
    ) -> tuple[int, int]:
        """Start a line in a shell; returns the read ends of its stdout and stderr.

        ``until`` is the monotonic instant past which it may not live. Raises OSError, and
        ValueError for text that cannot be sent.
        """
        out, out_end = os.pipe()
        err, err_end = os.pipe()
        try:
            self._running.add(key)
            self._say(
                [out_end, err_end],
                say="spawn",
                key=key,
                line=line,
                cwd=str(cwd),
                env=dict(env),
                until=until,
            )
        except (OSError, ValueError):
            self._running.discard(key)
            os.close(out)
            os.close(err)
            raise
        finally:
            os.close(out_end)
            os.close(err_end)
        for fd in (out, err):
            os.set_blocking(fd, False)
        return out, err

    def signal(self, key: str, number: int) -> None:
        """Signal the line and all that it started, wherever that went."""
        self._say_if_heard(say="signal", key=key, number=number)

    def extend(self, keys: Sequence[str], until: float) -> None:
        """Let these lines live until then; from any thread."""
        self._say_if_heard(say="extend", keys=list(keys), until=until)

    def stop(self) -> None:
        """End the keeper with all that it still keeps."""
        channel, self._channel = self._channel, None
        if channel is not None:
            self._loop.unwatch(channel.fileno())
            channel.close()
        self._end_keeper()

    # --- the other direction

    def _hear(self) -> None:
        channel = self._channel
        if channel is None:
            return
        try:
            data = channel.recv(MESSAGE_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._tell(json.loads(data))
        elif self._channel is not None:
            self._replace_keeper()

    def _tell(self, message: Mapping[str, Any]) -> None:
        key = message["key"]
        match message["event"]:
            case "exited":
                self._running.discard(key)
                self._ends.exited(key, message["code"])
            case "failed":
                self._running.discard(key)
                self._ends.failed(key, message["error"])
            case "lapsed":
                self._ends.lapsed(key)

    def _replace_keeper(self) -> None:
        """The keeper died: end what it kept, say so, and start another."""
        lost, self._running = self._running, set()
        self.stop()
        killed = tree.kill_what_was_kept()
        events.warn("agent.keeper_died", lines=len(lost), killed=killed)
        self.start()
        for key in lost:
            self._ends.failed(key, "its keeper process died")

    def _end_keeper(self) -> None:
        if self._keeper is None:
            return
        try:
            self._keeper.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._keeper.send_signal(signal.SIGKILL)
            self._keeper.wait()
            tree.kill_what_was_kept()
        self._keeper = None

    def _say(self, fds: Sequence[int], **message: Any) -> None:
        channel = self._channel
        if channel is None:
            raise BrokenPipeError("the keeper is not there")
        # A message has to fit the socket: characters as they are, not as escapes.
        socket.send_fds(channel, [json.dumps(message, ensure_ascii=False).encode()], list(fds))

    def _say_if_heard(self, **message: Any) -> None:
        """A keeper that is gone is noticed, and what it kept ended, by the loop."""
        with contextlib.suppress(OSError):
            self._say([], **message)
