"""The fetching of one job's input, which can be stopped from another thread."""

from __future__ import annotations

import contextlib
import socket
import threading
import time


class Unwanted(Exception):
    """The input is not waited for any more."""


class Unreachable(Exception):
    """The input cannot be had now: neither the job's fault nor this host's."""


class Fetch:
    """Told by the loop's thread to stop; heeded by the one that fetches."""

    def __init__(self, timeout_seconds: float) -> None:
        self._timeout_seconds = timeout_seconds
        self._stopped = threading.Event()
        self._connection: socket.socket | None = None
        #: Monotonic instant past which it came too late, once it has begun.
        self.deadline = float("inf")

    def begin(self) -> None:
        """It has a thread: from now on its time counts."""
        self.deadline = time.monotonic() + self._timeout_seconds

    def stop(self) -> None:
        """It is not wanted any more. What waits for the other end does not go on waiting."""
        self._stopped.set()
        self._hang_up()

    def check(self) -> None:
        """Raises Unwanted once it was stopped."""
        if self._stopped.is_set():
            raise Unwanted

    def pause(self, seconds: float) -> None:
        """Wait, unless it is stopped. Raises Unwanted."""
        self._stopped.wait(seconds)
        self.check()

    def reads_from(self, connection: socket.socket) -> None:
        """It comes through this connection from now on."""
        self._connection = connection
        if self._stopped.is_set():
            self._hang_up()

    def _hang_up(self) -> None:
        if self._connection is not None:
            # The socket's own: that of TLS would also take its state from under the reader.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self._connection, socket.SHUT_RDWR)
