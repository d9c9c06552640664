"""One line of a job as an operating-system process, in a session and group of its own."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from taskyard.agent import job_python
from taskyard.agent.workspace import Workspace

SHELL = "/bin/sh"


def clean_environment(
    passed: Sequence[str],
    workspace: Workspace,
    wanted: Mapping[str, str],
    job_id: str,
    attempt: int,
) -> dict[str, str]:
    """What a job sees: a few of the agent's variables, its own folders, and what it asked for.

    The platform's settings and secrets are not in it. A PATH that the job asks for replaces ours.
    """
    kept = {name: os.environ[name] for name in passed if name in os.environ}
    return {
        **kept,
        **job_python.install(workspace.base, kept.get("PATH", os.defpath)),
        "HOME": str(workspace.home),
        "TMPDIR": str(workspace.tmp),
        "PYTHONUNBUFFERED": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "TASKYARD_JOB_ID": job_id,
        "TASKYARD_ATTEMPT": str(attempt),
        **wanted,
    }


class Process:
    """A running line. Its group can be signalled until it is reaped, and not after."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self._popen = popen
        assert popen.stdout is not None
        assert popen.stderr is not None
        # The pipes outlive the process: the runner owns their descriptors from here on.
        self.stdout_fd = os.dup(popen.stdout.fileno())
        self.stderr_fd = os.dup(popen.stderr.fileno())
        popen.stdout.close()
        popen.stderr.close()
        os.set_blocking(self.stdout_fd, False)
        os.set_blocking(self.stderr_fd, False)
        #: Readable once the process has ended.
        self.pidfd = os.pidfd_open(popen.pid)

    @property
    def pid(self) -> int:
        """The process, which also leads its group."""
        return self._popen.pid

    def signal_group(self, number: int) -> None:
        """Signal the process and everything that stayed in its group."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._popen.pid, number)

    def reap(self) -> int:
        """Wait for the end, which must be near, and return the exit code as a shell gives it."""
        status = self._popen.wait()
        os.close(self.pidfd)
        return status if status >= 0 else 128 - status


def spawn(line: str, *, cwd: Path, env: Mapping[str, str]) -> Process:
    """Start one line in a shell. Raises OSError when the host cannot."""
    return Process(
        subprocess.Popen(
            [SHELL, "-c", line],
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    )


@dataclass(frozen=True, kw_only=True)
class KillSequence:
    """SIGTERM, a grace, SIGKILL: what is due when, by the monotonic clock."""

    started_at: float
    grace_seconds: float

    def due(self, now: float, last_sent: str | None) -> int | None:
        """The signal to send now, or None; ``last_sent`` is the one before."""
        if now >= self.started_at + self.grace_seconds:
            return None if last_sent == "SIGKILL" else signal.SIGKILL
        return signal.SIGTERM if last_sent is None else None
