"""A side: one of the systems that ``bench/jobs.py`` compares, with its clients and processes.

Processes are grouped by kind, so that costs can be reported by kind. The workers can be held
(SIGSTOP) while jobs are submitted.
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
    """A client that submits jobs and reads their output."""

    def submit(self, command: str = COMMAND) -> Any:
        """Submit a job and return a handle for ``output``."""

    def output(self, job: Any) -> str:
        """Wait until the job has ended and return what it printed."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """One running system."""

    connect: Callable[[], Client]
    #: Whether every submitted job has ended and its result is stored.
    is_drained: Callable[[], bool]
    #: The system's processes by kind; the benchmark's own process is not among them.
    processes: Processes
    #: The kinds of process that run jobs.
    workers: Sequence[str]

    def everything(self) -> list[psutil.Process]:
        """Return the processes of all kinds."""
        return [process for kind in self.processes.values() for process in kind]

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Stop the workers (SIGSTOP) for the duration of the block."""
        mine = [process for kind in self.workers for process in self.processes[kind]]
        for process in mine:
            process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for process in reversed(mine):
                process.send_signal(signal.SIGCONT)
