"""Passes on request: one thread of a process runs them, one pass for all requests at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from taskyard import events

Act = Callable[[], None]

#: Within this time, agents claim most of the submitted jobs by themselves and need no pass.
DELAY_SECONDS = 0.02

#: The largest part of the time that is spent on requested passes.
_BUSY_PART = 0.1

#: Longest pause after a pass: a pass that took long may only have waited for MongoDB.
_MOST_SECONDS = 2.0


def at_once(act: Act) -> None:
    """Do the act now, in the caller's thread."""
    act()


def pause_after(took_seconds: float) -> float:
    """How long a process rests after a pass that took so long, in seconds."""
    return min(max(DELAY_SECONDS, took_seconds / _BUSY_PART), _MOST_SECONDS)


class Nudges:
    """Does the act that was requested last, soon and on a thread of its own; no caller waits."""

    def __init__(self) -> None:
        self._act: Act | None = None
        self._asked = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def __call__(self, act: Act) -> None:
        """Request an act. The acts of a process are all alike: the last stands for those before."""
        self._act = act
        self._asked.set()
        with self._lock:
            # A forked process has this object, but not its thread.
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="nudges", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        pause = DELAY_SECONDS
        while True:
            self._asked.wait()
            time.sleep(pause)
            self._asked.clear()
            began = time.monotonic()
            try:
                if self._act is not None:
                    self._act()
            except Exception as error:
                events.error("scheduler.pass_failed", error)
            pause = pause_after(time.monotonic() - began)
