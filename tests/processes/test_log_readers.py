"""Processes whose log nobody reads, or whose log cannot be written."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from taskyard.addresses import free_port
from taskyard.embedded import EmbeddedServer
from tests.helpers import eventually
from tests.processes.conftest import BIN, ROOT, user_environment

CELERY = ["celery", "-A", "taskyard.celery_app"]
COMMANDS = {
    "web": ["gunicorn", "-c", "python:taskyard.gunicorn_config", "taskyard.wsgi:app"],
    "beat": [*CELERY, "beat"],
    "scheduler": [*CELERY, "worker", "-Q", "scheduler", "-n", "scheduler@test"],
    "agent": [*CELERY, "worker", "-n", "agent@test"],
}

Start = Callable[..., "subprocess.Popen[bytes]"]

CLOSED = ["sh", "-c", 'exec "$@" >&- 2>&-', "sh"]


@pytest.fixture
def start(mongod: EmbeddedServer, tmp_path: Path) -> Iterator[Start]:
    """Starts a process of the platform that logs to the given file descriptor."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(name: str, log: int, *, by: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        program, *arguments = COMMANDS[name]
        env = {
            "MONGODB_URI": mongod.uri,
            "TASKYARD_DATABASE": "unread",
            "TASKYARD_BIND": f"127.0.0.1:{free_port()}",
            "PYTHONUNBUFFERED": "1",
        }
        process = subprocess.Popen(
            [*by, BIN / program, *arguments],
            cwd=ROOT,
            env=user_environment(tmp_path, **env),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _heeds_sigterm(process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, "it ended while it started"
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = re.search(r"^SigCgt:\s*(\w+)", status, re.MULTILINE)
    assert caught
    return bool(int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)


def _fill(pipe: int) -> None:
    """Fill a pipe to the last byte."""
    # Opened anew, so that O_NONBLOCK does not apply to the process that shares the pipe.
    end = os.open(f"/proc/self/fd/{pipe}", os.O_WRONLY | os.O_NONBLOCK)
    for size in (4096, 1):
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(end, b"!" * size)
    os.close(end)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_signal_ends_it_though_nobody_reads_its_log(start: Start, name: str) -> None:
    reader, writer = os.pipe()
    process = start(name, writer)
    eventually(lambda: _heeds_sigterm(process), 60)
    _fill(writer)
    process.terminate()
    process.wait(60)
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("name", COMMANDS)
def test_it_starts_and_ends_though_nobody_reads_what_another_wrote(start: Start, name: str) -> None:
    """As a process that is restarted while its log's reader hangs. Its first lines are not ours."""
    reader, writer = os.pipe()
    _fill(writer)
    process = start(name, writer)
    eventually(lambda: _heeds_sigterm(process), 60)
    process.terminate()
    process.wait(60)
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("is_full", [True, False], ids=["a full disk", "a reader that has gone"])
def test_it_starts_and_ends_though_no_line_can_be_written(
    start: Start, name: str, is_full: bool
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    full = os.open("/dev/full", os.O_WRONLY)
    process = start(name, full if is_full else writer)
    os.close(writer)
    os.close(full)
    eventually(lambda: _heeds_sigterm(process), 60)
    process.terminate()
    process.wait(60)


@pytest.mark.parametrize("name", COMMANDS)
def test_it_starts_and_ends_without_stdout_and_stderr(start: Start, name: str) -> None:
    process = start(name, subprocess.DEVNULL, by=CLOSED)
    eventually(lambda: _heeds_sigterm(process), 60)
    process.terminate()
    process.wait(60)
