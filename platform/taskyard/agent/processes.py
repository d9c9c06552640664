"""The agent's end of its keeper: start lines, signal them, move their deadlines, hear of ends."""

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

#: A keeper that takes nothing for so long is not waited for.
_SEND_SECONDS = 5

#: A keeper that has said nothing for so long, asked so often, is stopped or stuck: it is replaced.
_SILENCE_SECONDS = 10.0
_ASKED_TIMES = 3

_END_SECONDS = 5.0

#: Between two tries to start a keeper on a host that has no room for it.
AGAIN_SECONDS = 1.0

#: The longest message of a keeper: an end with what was printed, each byte an escape.
_HEARD_BYTES = 64 * 1024
_FDS_BYTES = socket.CMSG_SPACE(2 * array("i").itemsize)

#: ``socket.recv_fds`` of Python 3.11 takes flags and does not heed them.
_HEAR_FLAGS = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC


class Ends(Protocol):
    """What is told of started lines, by the key they were started with; on the loop's thread."""

    def opened(self, key: str, pipes: Sequence[int]) -> None:
        """The line goes on, or has printed much: the read ends of its stdout and stderr."""

    def exited(self, key: str, code: int, printed: Sequence[bytes]) -> None:
        """The line has ended, and nothing that it started is left; what it printed on stdout and
        stderr, where that was not in its pipes.
        """

    def failed(self, key: str, reason: str, *, is_full: bool = False) -> None:
        """The line could not be started, maybe because the host is full; or its keeper died and
        took it along.
        """

    def lapsed(self, key: str) -> None:
        """The deadline passed: it was killed, or not started."""


class Processes:
    """Starts lines through the keeper, and starts the keeper anew should it die."""

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
        #: Lines that were started and not heard of since, in that order.
        self._running: dict[str, None] = {}
        self._stopped = False

    def start(self) -> None:
        """Start the keeper. Raises OSError."""
        # Should the keeper die, what it kept comes to us to be ended.
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
        # The kernel's own: Python's would make each receive wait too.
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

        ``until`` is the monotonic instant past which it may not live. Raises OSError.
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
        """Signal the line and all that it started, wherever that went."""
        self._say_if_heard(say="signal", key=key, number=number)

    def extend(self, keys: Sequence[str], until: float) -> None:
        """Let these lines live until then; from any thread. The keeper is to answer."""
        self._say_if_heard(say="extend", keys=list(keys), until=until)
        self._loop.post(self._expect_answer)

    def stop(self) -> None:
        """End the keeper with all that it still keeps."""
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
        """It was asked once more: kill a keeper that did not answer for long, so that it is
        replaced.
        """
        # Answers may have waited for us, if it was we who were stopped.
        self._hear()
        self._asked += 1
        silent = time.monotonic() - self._said_at >= _SILENCE_SECONDS
        if silent and self._asked >= _ASKED_TIMES and self._keeper is not None:
            events.warn("agent.keeper_silent", seconds=round(time.monotonic() - self._said_at))
            self._keeper.kill()

    def _replace_keeper(self) -> None:
        """The keeper died: end what it kept, say so, and start another."""
        # What was to follow a line fails before that: it has not begun.
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
        # A message has to fit the socket: characters as they are, not as escapes. Surrogates stand
        # for bytes of the agent's own variables that are no text.
        channel.send(json.dumps(message, ensure_ascii=False).encode(errors="surrogatepass"))

    def _say_if_heard(self, **message: Any) -> None:
        """A keeper that is gone is noticed, and what it kept ended, by the loop."""
        with contextlib.suppress(OSError):
            self._say(**message)


@contextlib.contextmanager
def _closed_on_error(channel: socket.socket) -> Iterator[None]:
    try:
        yield
    except BaseException:
        channel.close()
        raise
