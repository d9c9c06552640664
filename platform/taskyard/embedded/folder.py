"""The data folder of an embedded server: who holds it, its secrets, and where its server is."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from taskyard.addresses import free_port
from taskyard.errors import EmbeddedServerError

LOG_CAP_BYTES = 10 * 1024 * 1024


def running_uri(data_dir: Path) -> str | None:
    """The URI of the server that a running ``taskyard up`` of this user holds, or None."""
    try:
        pid, uri = (data_dir / "uri").read_text().split()
        os.kill(int(pid), 0)
    except (OSError, ValueError):
        return None
    return uri


class DataFolder:
    """The data folder of one server, locked by one process at a time. Its methods raise OSError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.db = path / "db"
        self.log = path / "mongod.log"
        self._lock: IO[str] | None = None

    @contextmanager
    def needed(self) -> Iterator[None]:
        """Say what is wrong with the folder: turn OSError into EmbeddedServerError."""
        try:
            yield
        except OSError as error:
            raise EmbeddedServerError(
                f"The data folder {self.path} cannot be used: {error.strerror}."
            ) from None

    def take(self) -> None:
        """Make the folder, and lock it for this process. Raises EmbeddedServerError too."""
        # A folder that is there may serve others too, so its mode stays as it is: ``db`` and the
        # secrets are closed to other users by their own modes.
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.db.mkdir(mode=0o700, exist_ok=True)
        self.db.chmod(0o700)
        lock = (self.path / "lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise EmbeddedServerError(
                f"Another `taskyard up` is running on {self.path}. "
                "Stop it first, or give this one another --data-dir."
            ) from None
        self._lock = lock

    def let_go(self) -> None:
        """Give up the lock on the folder."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @property
    def has_server(self) -> bool:
        """Whether a server runs on the folder's data, whoever started it."""
        try:
            with (self.db / "mongod.lock").open() as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def secret(self, name: str, make: Callable[[], str]) -> str:
        """Return a secret of the folder, made on first use, for this user's eyes only."""
        path = self.path / name
        # An empty file is left by an interrupted start, and was never in use.
        if not path.exists() or not path.stat().st_size:
            draft = self.path / f"{name}.draft"
            draft.unlink(missing_ok=True)
            with open(draft, "x", opener=lambda p, f: os.open(p, f, 0o400)) as kept:
                kept.write(make())
            draft.replace(path)
        return path.read_text()

    def remembered_port(self) -> int:
        """Return the last run's port, so that the set's member keeps its name, or a free one."""
        try:
            port = int((self.path / "port").read_text())
        except (OSError, ValueError):
            return free_port()
        return port if _is_free(port) else free_port()

    def remember_port(self, port: int) -> None:
        """Store the port for the next run."""
        (self.path / "port").write_text(str(port))

    def turn_log(self) -> None:
        """Begin a new log for the server if the present one is large; the last one is kept."""
        if self.log.exists() and self.log.stat().st_size > LOG_CAP_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))

    def publish(self, pid: int, uri: str) -> None:
        """Leave the URI for this user's other commands, for as long as the server runs."""
        path = self.path / "uri"
        path.unlink(missing_ok=True)
        with open(path, "x", opener=lambda p, f: os.open(p, f, 0o600)) as kept:
            kept.write(f"{pid}\n{uri}\n")

    def withdraw(self) -> None:
        """Remove the published URI, if we hold the folder. Never raises."""
        if self._lock is not None:
            # A file that cannot be removed (the disk may be read-only by now) is seen to be stale.
            with suppress(OSError):
                (self.path / "uri").unlink()


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            return False
    return True
