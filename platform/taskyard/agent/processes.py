"""The agent's end of its keeper: starts and signals lines, moves deadlines, hears of ends."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import struct
import subprocess
import sys
import time
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from taskyard import events
from taskyard.agent import open_files, tree
from taskyard.agent.keeper import MESSAGE_BYTES
from taskyard.agent.loop import Loop

#: How long a message may wait for a keeper to take it.
_SEND_SECONDS = 5

#: A keeper that was silent for so long and asked so often is stopped or stuck: it is replaced.
_SILENCE_SECONDS = 10.0
_ASKED_TIMES = 3

_END_SECONDS = 5.0

#: Pause between two tries to start a keeper on a host that has no room for it.
AGAIN_SECONDS = 1.0

#: The longest message of a keeper: the end of a line with its output, each byte an escape.
_HEARD_BYTES = 64 * 1024
_FDS_BYTES = socket.CMSG_SPACE(2 * array("i").itemsize)

#: Flags for ``recvmsg``: ``socket.recv_fds`` of Python 3.11 takes flags and ignores them.
_HEAR_FLAGS = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC


class Ends(Protocol):
    """Receives what happens to started lines, by their keys; called on the loop's thread."""

    def opened(self, key: str, pipes: Sequence[int]) -> None:
        """The line still runs, or has printed much: take the read ends of its stdout and stderr."""

    def exited(self, key: str, code: int, printed: Sequence[bytes]) -> None:
        """The line has ended, and no process that it started is left.

        ``printed`` is its stdout and stderr, empty if its pipes were handed over (``opened``).
        """

    def failed(self, key: str, reason: str, *, is_full: bool = False) -> None:
        """The line could not be started, or its keeper died and it was killed.

        With ``is_full`` it could not be started because the host is full.
        """

    def lapsed(self, key: str) -> None:
        """The line's deadline passed, and it was killed."""


class Processes:
    """Starts lines through the keeper, and replaces the keeper if it dies."""

    def __init__(self, loop: Loop, ends: Ends) -> None:
        self._loop = loop
        self._ends = ends
        self._channel: socket.socket | None = None
        self._keeper: subprocess.Popen[bytes] | None = None
        #: Whether the keeper has said anything, when it last did, and how often it was asked since.
        self._has_spoken = False
        self._said_at = 0.0
        self._asked = 0
        #: Why there is no keeper, while another could not be started.
        self.missing = ""
        #: Keys of the lines that were asked for and have not ended, in that order.
        self._running: dict[str, None] = {}
        self._stopped = False

    def start(self) -> None:
        """Start the keeper. Raises OSError."""
        # If the keeper dies, its processes become our children, and we can end them.
        tree.become_subreaper()
        open_files.raise_limit()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, _closed_on_error(ours):
            for end in (ours, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MESSAGE_BYTES)
            self._keeper = subprocess.Popen(
                [
                    *(sys.executable, "-m", "taskyard.agent.keeper"),
                    *(str(theirs.fileno()), str(open_files.AT_START)),
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                # Signals for the agent's group are not for its keeper.
                start_new_session=True,
            )
        # The kernel's timeout: Python's would make each receive wait too.
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", _SEND_SECONDS, 0))
        self._channel = ours
        self._has_spoken = False
        self._said_at, self._asked = time.monotonic(), 0
        self.missing = ""
        self._loop.watch(ours.fileno(), self._hear)

    def spawn(
        self, key: str, line: str, *, cwd: Path, env: Mapping[str, str], until: float, after: str
    ) -> None:
        """Start a line in a shell: at once, or when the line of ``after`` is over.

        ``until`` is the monotonic instant past which it is killed. Raises OSError.
        """
        self._running[key] = None
        try:
            self._say(
                say="spawn",
                key=key,
                line=line,
                cwd=str(cwd),
                env=dict(env),
                until=until,
                after=after,
            )
        except OSError:
            self._running.pop(key)
            raise

    def start_now(self, key: str) -> None:
        """Start a line that was to follow another, unless it has begun."""
        self._say_if_heard(say="start", key=key)

    def withdraw(self, key: str) -> None:
        """Do not start a line that was to follow another: it fails, unless it has begun."""
        self._say_if_heard(say="withdraw", key=key)

    def signal(self, key: str, number: int) -> None:
        """Signal all processes of a line, wherever they went."""
        self._say_if_heard(say="signal", key=key, number=number)

    def extend(self, keys: Sequence[str], until: float) -> None:
        """Move the deadlines of these lines, from any thread; the keeper has to answer."""
        self._say_if_heard(say="extend", keys=list(keys), until=until)
        self._loop.post(self._expect_answer)

    def stop(self) -> None:
        """End the keeper and all processes that it still keeps."""
        self._stopped = True
        self._drop_keeper()
        open_files.restore_limit()

    def _drop_keeper(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            self._loop.unwatch(channel.fileno())
            channel.close()
        self._end_keeper()

    # --- the other direction

    def _hear(self) -> None:
        while (channel := self._channel) is not None:
            try:
                data, beside, _, _ = channel.recvmsg(_HEARD_BYTES, _FDS_BYTES, _HEAR_FLAGS)
            except BlockingIOError:
                return
            except OSError:
                data, beside = b"", []
            if data:
                self._has_spoken = True
                self._said_at, self._asked = time.monotonic(), 0
                self._tell(json.loads(data), [fd for _, _, fds in beside for fd in array("i", fds)])
            elif channel is self._channel:
                self._replace_keeper()

    def _tell(self, message: Mapping[str, Any], fds: Sequence[int]) -> None:
        key = message["key"]
        match message["event"]:
            case "opened":
                self._ends.opened(key, fds)
            case "exited":
                self._running.pop(key, None)
                printed = [message[stream].encode("latin-1") for stream in ("out", "err")]
                self._ends.exited(key, message["code"], printed)
            case "failed":
                self._running.pop(key, None)
                self._ends.failed(key, message["error"], is_full=message.get("is_full", False))
            case "lapsed":
                self._ends.lapsed(key)

    def _expect_answer(self) -> None:
        """Count that the keeper was asked once more.

        A keeper that has not answered for long is killed, so that it is replaced.
        """
        # Answers may be waiting here, if it was the agent that was stopped.
        self._hear()
        self._asked += 1
        silent = time.monotonic() - self._said_at >= _SILENCE_SECONDS
        if silent and self._asked >= _ASKED_TIMES and self._keeper is not None:
            events.warn("agent.keeper_silent", seconds=round(time.monotonic() - self._said_at))
            self._keeper.kill()

    def _replace_keeper(self) -> None:
        """End all that the dead keeper kept, report its lines as failed, and start another."""
        # In reverse: a follower, which has not begun, fails before the line it was to follow.
        lost, self._running = [*reversed(self._running)], {}
        self._drop_keeper()
        killed = tree.kill_what_was_kept()
        events.warn("agent.keeper_died", lines=len(lost), killed=killed)
        if self._has_spoken:
            self._start_again()
        else:
            self._start_later("ended before it said anything")
        for key in lost:
            self._ends.failed(key, "its keeper process died")

    def _start_again(self) -> None:
        """Start another keeper: at once, or when the host has a process and files left for it."""
        if self._stopped:
            return
        try:
            self.start()
        except OSError as error:
            self._start_later(f"could not be started: {error}")

    def _start_later(self, why: str) -> None:
        self.missing = f"its keeper process {why}"
        events.warn("agent.keeper_missing", error=why)
        self._loop.post_later(AGAIN_SECONDS, self._start_again)

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

    def _say(self, **message: Any) -> None:
        channel = self._channel
        if channel is None:
            raise BrokenPipeError("the keeper is not there")
        # Characters as they are, not as escapes, because a message has to fit the socket.
        # Surrogates stand for bytes of the agent's own variables that are not text.
        channel.send(json.dumps(message, ensure_ascii=False).encode(errors="surrogatepass"))

    def _say_if_heard(self, **message: Any) -> None:
        """Say something; a keeper that is gone is ignored here, and noticed by the loop."""
        with contextlib.suppress(OSError):
            self._say(**message)


@contextlib.contextmanager
def _closed_on_error(channel: socket.socket) -> Iterator[None]:
    try:
        yield
    except BaseException:
        channel.close()
        raise
