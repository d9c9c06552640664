"""One system that ``bench/jobs.py`` measures: its clients, its processes, and its workers held.

What it costs is told by kind of process, and its workers can be held (SIGSTOP) while jobs are
submitted.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import psutil

COMMAND = "echo hi"

Processes = Mapping[str, Sequence[psutil.Process]]


class Client(Protocol):
    """One of the clients that submit jobs and read them back."""

    def submit(self, command: str = COMMAND) -> Any:
        """Submit a job; what it returns names it."""

    def output(self, job: Any) -> str:
        """What the job printed, once it has ended."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """One system, running."""

    connect: Callable[[], Client]
    #: Whether every job that was submitted is over and its result stored.
    is_drained: Callable[[], bool]
    #: Kind -> its processes; all but the benchmark's own.
    processes: Processes
    #: Kinds that run jobs.
    workers: Sequence[str]

    def everything(self) -> list[psutil.Process]:
        """All its processes."""
        return [process for kind in self.processes.values() for process in kind]

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Its workers stand still meanwhile."""
        mine = [process for kind in self.workers for process in self.processes[kind]]
        for process in mine:
            process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for process in reversed(mine):
                process.send_signal(signal.SIGCONT)
