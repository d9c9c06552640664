"""The agent's event loop: one thread that watches descriptors and runs what others post."""

from __future__ import annotations

import queue
import selectors
import socket
import threading
import time
from collections.abc import Callable

from taskyard import events

Action = Callable[[], object]


class Loop:
    """Runs actions on its own thread. An action that fails is logged, and the loop goes on."""

    def __init__(self) -> None:
        self._commands: queue.SimpleQueue[Action] = queue.SimpleQueue()
        #: Actions to run later, each with the monotonic instant when it is due.
        self._later: list[tuple[float, Action]] = []
        self._selector = selectors.DefaultSelector()
        self._bell, self._ring = socket.socketpair()
        self._bell.setblocking(False)
        self._ring.setblocking(False)
        self._selector.register(self._bell, selectors.EVENT_READ, self._hear)
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, tend: Action, nap: Callable[[], float | None]) -> None:
        """Begin. ``tend`` runs in every round; ``nap`` is how long a round may wait, in seconds."""
        self._thread = threading.Thread(
            target=self._run, args=(tend, nap), name="runner", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """End after this round; what is posted later is not run."""
        self._stopped.set()
        if self._thread is not None:
            self._wake()
            self._thread.join(timeout=2)
        if self._thread is None or not self._thread.is_alive():
            self._selector.close()
            self._bell.close()
            self._ring.close()

    def post(self, action: Action) -> None:
        """Have the action run by the loop's thread, soon; from any thread."""
        self._commands.put(action)
        self._wake()

    def post_later(self, seconds: float, action: Action) -> None:
        """Have the action run in so many seconds; called by the loop's thread alone."""
        self._later.append((time.monotonic() + seconds, action))

    def watch(self, fd: int, action: Action) -> None:
        """Run the action whenever the descriptor can be read."""
        self._selector.register(fd, selectors.EVENT_READ, action)

    def unwatch(self, fd: int) -> None:
        """Stop watching a descriptor; one that is not watched is no error."""
        if fd in self._selector.get_map():
            self._selector.unregister(fd)

    def _run(self, tend: Action, nap: Callable[[], float | None]) -> None:
        while not self._stopped.is_set():
            for key, _ in self._selector.select(self._patience(nap())):
                # An earlier action may have closed it, and its number may be in use again.
                if self._selector.get_map().get(key.fd) is key:
                    _guarded(key.data)
            while not self._commands.empty():
                _guarded(self._commands.get())
            for action in self._due():
                _guarded(action)
            _guarded(tend)

    def _patience(self, nap: float | None) -> float | None:
        """Return how long this round may wait: for the nap, or until a later action is due."""
        left = [max(0.0, due - time.monotonic()) for due, _ in self._later]
        return min([*left, *([] if nap is None else [nap])], default=None)

    def _due(self) -> list[Action]:
        """Remove and return the later actions that are due now."""
        now, later = time.monotonic(), self._later
        self._later = [each for each in later if each[0] > now]
        return [action for due, action in later if due <= now]

    def _wake(self) -> None:
        try:
            self._ring.send(b"!")
        except OSError:
            return  # the bell is full, so it is heard anyway; or nobody listens any more

    def _hear(self) -> None:
        try:
            while self._bell.recv(4096):
                pass
        except BlockingIOError:
            return


def _guarded(action: Action) -> None:
    try:
        action()
    except Exception as error:
        events.error("agent.loop_failed", error)
