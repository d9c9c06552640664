"""The four processes of the platform as children of ``up``: their start, logs and end."""

from __future__ import annotations

import codecs
import contextlib
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from taskyard.embedded import dies_with_us
from taskyard.settings import CELERYCONFIG

_WORKER = "celery -A taskyard.celery_app worker"
_QUIET = "-l WARNING --without-gossip --without-mingle --without-heartbeat"

#: The command of each process, as in the ``Procfile``.
COMMANDS: Mapping[str, str] = {
    "web": "gunicorn -c python:taskyard.gunicorn_config taskyard.wsgi:app",
    "beat": "celery -A taskyard.celery_app beat -l WARNING",
    "scheduler": f"{_WORKER} -Q scheduler -n scheduler@%h {_QUIET}",
    "agent": f"{_WORKER} -n agent@%h {_QUIET}",
}

#: Where the children start. Celery and gunicorn import from there before they import what is
#: installed, so it is the folder of a checkout's ``celeryconfig.py`` or ``/``, and not the folder
#: in which somebody happened to call ``up``.
_FOLDER = CELERYCONFIG.parent if CELERYCONFIG.is_file() else Path("/")

#: How many of a child's last lines are kept, to show if it ends while the platform starts.
KEPT_LINES = 40

#: Pause after lines were passed on, so that those that follow closely are passed on together.
_GATHER_SECONDS = 0.02

_READ_BYTES = 64 * 1024

#: Called with a child's name and lines of its log.
Print = Callable[[str, Sequence[str]], None]


class Child:
    """One process in a session of its own, so that Ctrl-C in the terminal is ours to handle."""

    def __init__(self, name: str, env: Mapping[str, str], on_lines: Print) -> None:
        self.name = name
        self.kept: deque[str] = deque(maxlen=KEPT_LINES)
        self._on_lines = on_lines
        program, *arguments = shlex.split(COMMANDS[name])
        self._popen = subprocess.Popen(
            [*dies_with_us(), sys.executable, "-m", program, *arguments],
            cwd=_FOLDER,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, name=f"log-{name}", daemon=True)
        self._reader.start()

    @property
    def exit_code(self) -> int | None:
        """The child's exit code, or None while it runs."""
        return self._popen.poll()

    def stop(self) -> None:
        """Ask the child to end, if it still runs."""
        if self.exit_code is None:
            self._popen.terminate()

    def await_end(self, until: float) -> None:
        """Wait for the child's end until then (monotonic), and kill what is left of its group."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(max(0.1, until - time.monotonic()))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait()
        self._reader.join(timeout=1)

    def _read(self) -> None:
        assert self._popen.stdout is not None
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        with self._popen.stdout as pipe:
            begun = ""
            while data := os.read(pipe.fileno(), _READ_BYTES):
                *lines, begun = (begun + decoder.decode(data)).split("\n")
                if len(begun) > _READ_BYTES:
                    lines, begun = [*lines, begun], ""
                self._pass_on(lines)
                time.sleep(_GATHER_SECONDS)
            if begun:
                self._pass_on([begun])

    def _pass_on(self, lines: Sequence[str]) -> None:
        self.kept.extend(lines)
        if lines:
            self._on_lines(self.name, lines)


class Children:
    """The four children."""

    def __init__(self, env: Mapping[str, str], on_lines: Print) -> None:
        self._env = env
        self._on_lines = on_lines
        self._children: dict[str, Child] = {}

    def start(self) -> None:
        """Start all four at once."""
        for name in COMMANDS:
            self._start(name)

    def ended(self) -> Child | None:
        """Return a child that has ended without being asked to, or None."""
        return next((c for c in self._children.values() if c.exit_code is not None), None)

    def restart(self, child: Child) -> None:
        """Start a child again that has ended."""
        self._start(child.name)

    def stop(self, grace_seconds: float) -> None:
        """Ask all to end, and kill what has not ended in time."""
        until = time.monotonic() + grace_seconds
        for child in self._children.values():
            child.stop()
        for child in self._children.values():
            child.await_end(until)
        self._children.clear()

    def _start(self, name: str) -> None:
        self._children[name] = Child(name, self._env, self._on_lines)
