"""Passes that somebody asks for: by one thread of a process, and one for all that ask at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from taskyard import events

Act = Callable[[], None]

#: Agents take most of what is submitted by themselves within this time, and so do not need a pass.
DELAY_SECONDS = 0.02

#: At most this part of the time is spent on passes that were asked for.
_BUSY_PART = 0.1

#: Longest pause after one: what took long may have waited for MongoDB.
_MOST_SECONDS = 2.0


def at_once(act: Act) -> None:
    """Do it now, in the thread that asks."""
    act()


def pause_after(took_seconds: float) -> float:
    """How long a process rests after a pass that took so long, in seconds."""
    return min(max(DELAY_SECONDS, took_seconds / _BUSY_PART), _MOST_SECONDS)


class Nudges:
    """Does the last thing that was asked of it, soon; whoever asks does not wait for it."""

    def __init__(self) -> None:
        self._act: Act | None = None
        self._asked = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def __call__(self, act: Act) -> None:
        """Ask for it. The acts of one process are all alike: one stands for those before it."""
        self._act = act
        self._asked.set()
        with self._lock:
            # A process that was forked has the object and not the thread.
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
