"""The platform as a user runs it: ``taskyard up`` in its own process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psutil
import pytest

from tests.helpers import eventually

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[2]


class Up:
    """A running ``taskyard up``."""

    def __init__(self, home: Path, *arguments: str, **env: str) -> None:
        self.home = home
        self.env = user_environment(home, **env)
        self._out = (home / "out").open("wb")
        self._err = (home / "err").open("wb")
        self.process = subprocess.Popen(
            [BIN / "taskyard", "up", "--port", "0", *arguments],
            cwd=home,
            env=self.env,
            stdout=self._out,
            stderr=self._err,
            start_new_session=True,
        )

    @property
    def out(self) -> str:
        return (self.home / "out").read_text()

    @property
    def err(self) -> str:
        return (self.home / "err").read_text()

    @property
    def url(self) -> str:
        found = re.search(r"Taskyard is up +(http\S+)", self.out)
        assert found, self.err
        return found[1]

    def await_ready(self) -> Up:
        def ready() -> bool:
            assert self.process.poll() is None, self.err
            return "Ctrl-C" in self.out

        eventually(ready, 60)
        return self

    def run(self, *command: str, timeout_seconds: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command as the same user, with the same environment."""
        return subprocess.run(
            command,
            cwd=self.home,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
        )

    def taskyard(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run("taskyard", *arguments)

    def everything(self) -> list[psutil.Process]:
        """Return all processes of the platform, down to those of jobs."""
        mine = psutil.Process(self.process.pid)
        return [mine, *mine.children(recursive=True)]

    def stop(self, number: int = signal.SIGINT) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(timeout=30)
        self._out.close()
        self._err.close()
        return code


def user_environment(home: Path, **more: str) -> dict[str, str]:
    """Return the environment of a user with ``home`` as home folder and without our settings."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("TASKYARD_", "MONGODB_", "XDG_"))
    }
    path = f"{BIN}{os.pathsep}{kept['PATH']}"
    return {**kept, "HOME": str(home), "PATH": path, **more}


def alive(processes: list[psutil.Process]) -> list[str]:
    """Return the command lines of those processes that still run."""
    found = []
    for process in processes:
        try:
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
        except psutil.NoSuchProcess:
            continue
    return found


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One platform for all tests of a module."""
    started = Up(tmp_path_factory.mktemp("home"))
    try:
        yield started.await_ready()
    finally:
        started.stop()


@pytest.fixture
def start_up(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    """A function that starts a platform, which is stopped at the end of the test."""
    started: list[Up] = []

    def start(*arguments: str, home: Path | None = None, **env: str) -> Up:
        folder = home or tmp_path / f"home{len(started)}"
        folder.mkdir(exist_ok=True)
        started.append(Up(folder, *arguments, **env))
        return started[-1]

    yield start
    for one in started:
        one.stop(signal.SIGTERM)


@pytest.fixture
def celery(up: Up) -> Callable[..., subprocess.CompletedProcess[str]]:
    """A function that runs Celery's own command in the checkout, against the platform."""

    def run(*arguments: str, env: Mapping[str, str] | None = None) -> object:
        return subprocess.run(
            [BIN / "celery", "-A", "taskyard.celery_app", *arguments],
            cwd=ROOT,
            env={**up.env, **(env or {})},
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run  # type: ignore[return-value] # subprocess.run with text gives str
