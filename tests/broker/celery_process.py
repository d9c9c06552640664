"""A real ``celery worker`` in a process group of its own, which nothing restarts."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from taskyard.embedded import dies_with_us
from tests.helpers import eventually

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[2]

#: Long, because a loaded laptop is slow and an election takes a while. No test judges by time.
PATIENCE_SECONDS = 60.0


class CeleryProcess:
    """A worker of an app, with its log in a file."""

    def __init__(
        self, app: str, name: str, *arguments: str, log: Path, environment: Mapping[str, str]
    ) -> None:
        self._log = log
        command = [str(BIN / "celery"), "-A", app, "worker", "-n", name, "-l", "INFO", *arguments]
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [*dies_with_us(), *command],
                env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def await_ready(self) -> Self:
        def ready() -> bool:
            assert self.process.poll() is None, self.log
            return " ready." in self.log

        wait(ready, lambda: self.log)
        return self

    def await_log(self, part: str) -> None:
        wait(lambda: part in self.log, lambda: self.log)

    def signal(self, number: int) -> None:
        """Signal the main process alone, as a supervisor does."""
        self.process.send_signal(number)

    def signal_all(self, number: int) -> None:
        """Signal all processes of the worker at once."""
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """Kill all processes of the worker with SIGKILL."""
        with contextlib.suppress(ProcessLookupError):
            self.signal_all(signal.SIGKILL)
        self.process.wait(PATIENCE_SECONDS)

    def await_end(self) -> int:
        return self.process.wait(PATIENCE_SECONDS)

    def never_restarted(self) -> bool:
        """Whether it is the first process still, and its consumer was started only once."""
        return self.process.poll() is None and self.log.count(" ready.") == 1


def wait(check: Callable[[], Any], evidence: Callable[[], Any]) -> Any:
    """Wait as ``eventually`` does; if the condition does not come, fail with the evidence."""
    try:
        return eventually(check, PATIENCE_SECONDS)
    except AssertionError:
        raise AssertionError(f"it did not come; there is: {evidence()}") from None
