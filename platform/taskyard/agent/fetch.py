"""The fetch of one job's input, which another thread can stop."""

from __future__ import annotations

import contextlib
import socket
import threading
import time


class Unwanted(Exception):
    """Nobody waits for the input any more."""


class Unreachable(Exception):
    """The input cannot be fetched now, which is neither the job's fault nor this host's."""


class Fetch:
    """A fetch that the loop's thread can stop; the fetching thread checks whether it did."""

    def __init__(self, timeout_seconds: float) -> None:
        self._timeout_seconds = timeout_seconds
        self._stopped = threading.Event()
        self._connection: socket.socket | None = None
        #: Monotonic instant past which the input comes too late, once the fetch has begun.
        self.deadline = float("inf")

    def begin(self) -> None:
        """Start the timeout: the fetch has a thread now."""
        self.deadline = time.monotonic() + self._timeout_seconds

    def stop(self) -> None:
        """Stop the fetch, even while it waits for the server."""
        self._stopped.set()
        self._hang_up()

    def check(self) -> None:
        """Raises Unwanted once the fetch was stopped."""
        if self._stopped.is_set():
            raise Unwanted

    def pause(self, seconds: float) -> None:
        """Wait. Raises Unwanted as soon as the fetch is stopped."""
        self._stopped.wait(seconds)
        self.check()

    def reads_from(self, connection: socket.socket) -> None:
        """Note the connection through which the input comes from now on."""
        self._connection = connection
        if self._stopped.is_set():
            self._hang_up()

    def _hang_up(self) -> None:
        if self._connection is not None:
            # The plain socket's: an SSLSocket's would also drop the TLS state that the reader uses.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self._connection, socket.SHUT_RDWR)
