"""One ``mongod`` on loopback and one data folder, for as long as its owner runs."""

from __future__ import annotations

import base64
import fcntl
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from taskyard.addresses import free_port
from taskyard.embedded import primary
from taskyard.embedded.binary import check_runs, find_mongod
from taskyard.errors import EmbeddedServerError

STOP_SECONDS = 8.0
_LOOK_SECONDS = 0.1
LOG_CAP_BYTES = 10 * 1024 * 1024

#: Memory of the storage engine's cache: enough for one host's work, beside everything else.
CACHE_GB = "0.5"


def running_uri(data_dir: Path) -> str | None:
    """The URI of the server that a running ``taskyard up`` of this user holds, or None."""
    try:
        pid, uri = (data_dir / "uri").read_text().split()
        os.kill(int(pid), 0)
    except (OSError, ValueError):
        return None
    return uri


class EmbeddedServer:
    """One ``mongod`` on one data folder; a second one on the same folder is refused."""

    def __init__(self, data_dir: Path, *, port: int | None = None) -> None:
        self._data_dir = data_dir
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: IO[str] | None = None
        self.uri = ""

    def __enter__(self) -> EmbeddedServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, on_progress: Callable[[str], None] = lambda _: None) -> None:
        """Start the server and wait until it takes writes. Raises EmbeddedServerError."""
        mongod = find_mongod()
        check_runs(mongod)
        try:
            with self._folder_needed():
                self._take_folder()
                self._await_one_before(on_progress)
                password = self._secret("password", lambda: secrets.token_urlsafe(24))
                self._secret("keyfile", lambda: base64.b64encode(os.urandom(256)).decode())
                port = self._port = self._port or self._remembered_port()
                # Before the set is made: one whose start was cut could not be given another name.
                (self._data_dir / "port").write_text(str(port))
            on_progress(f"starting mongod on 127.0.0.1:{port}")
            self._process = self._spawn(mongod, port)
            if not primary.await_primary(port, password, self._data_dir, self.check_alive):
                raise EmbeddedServerError(
                    f"mongod took no writes for {primary.START_SECONDS:g} s; {self._hint()}"
                )
            self.uri = primary.uri(port, password)
            with self._folder_needed():
                self._publish()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Shut the server down cleanly; kill it when it does not end in time."""
        if self._lock is not None:
            # One that cannot be removed (a disk that is read-only by now) is seen to be stale.
            with suppress(OSError):
                (self._data_dir / "uri").unlink()
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def restart(self, on_progress: Callable[[str], None] = lambda _: None) -> None:
        """Start one again that has ended, at the address it had. Raises EmbeddedServerError."""
        self.stop()
        self.start(on_progress)

    def check_alive(self) -> None:
        """Raise EmbeddedServerError that says where to look, once it has ended by itself."""
        if self.exit_code is not None:
            raise EmbeddedServerError(
                f"mongod ended with exit code {self.exit_code}; {self._hint()}"
            )

    @property
    def exit_code(self) -> int | None:
        """The code it ended with, or None while it runs."""
        return self._process.poll() if self._process else None

    @property
    def pid(self) -> int | None:
        """The server's process, while it runs."""
        return self._process.pid if self._process else None

    @contextmanager
    def _folder_needed(self) -> Iterator[None]:
        """Say what is wrong with the data folder. Raises EmbeddedServerError."""
        try:
            yield
        except OSError as error:
            raise EmbeddedServerError(
                f"The data folder {self._data_dir} cannot be used: {error.strerror}."
            ) from None

    def _take_folder(self) -> None:
        """Make the data folder, and hold it for this process alone. Raises OSError."""
        # One that is there may be others' too, so it stays as it is: what is in ``db`` and
        # the secrets are for this user alone by themselves.
        self._data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self._data_dir / "db").mkdir(mode=0o700, exist_ok=True)
        (self._data_dir / "db").chmod(0o700)
        lock = (self._data_dir / "lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise EmbeddedServerError(
                f"Another `taskyard up` is running on {self._data_dir}. "
                "Stop it first, or give this one another --data-dir."
            ) from None
        self._lock = lock

    def _await_one_before(self, on_progress: Callable[[str], None]) -> None:
        """Wait for a mongod whose owner was killed, and which is on its way to its end: its data
        can be had no sooner. Raises EmbeddedServerError, OSError.
        """
        path = self._data_dir / "db" / "mongod.lock"
        if _is_locked(path):
            on_progress("waiting for the mongod before this one to end")
        until = time.monotonic() + STOP_SECONDS
        while _is_locked(path):
            if time.monotonic() >= until:
                raise EmbeddedServerError(
                    f"A mongod that nobody stopped still runs on {self._data_dir}; end it first."
                )
            time.sleep(_LOOK_SECONDS)

    def _secret(self, name: str, make: Callable[[], str]) -> str:
        """A secret of this data folder, made on first use, for this user's eyes only."""
        path = self._data_dir / name
        # An empty one is what a start left that was cut: it has never been in use.
        if not path.exists() or not path.stat().st_size:
            draft = self._data_dir / f"{name}.draft"
            draft.unlink(missing_ok=True)
            with open(draft, "x", opener=lambda p, f: os.open(p, f, 0o400)) as kept:
                kept.write(make())
            draft.replace(path)
        return path.read_text()

    def _remembered_port(self) -> int:
        """The port of the last run when it is free, so that the set keeps its member's name."""
        try:
            port = int((self._data_dir / "port").read_text())
        except (OSError, ValueError):
            return free_port()
        return port if _is_free(port) else free_port()

    def _spawn(self, mongod: Path, port: int) -> subprocess.Popen[bytes]:
        log = self._data_dir / "mongod.log"
        if log.exists() and log.stat().st_size > LOG_CAP_BYTES:
            log.replace(log.with_suffix(".log.1"))
        options = {
            "dbpath": self._data_dir / "db",
            "port": port,
            "bind_ip": "127.0.0.1",
            "replSet": primary.REPLICA_SET,
            "keyFile": self._data_dir / "keyfile",
            "logpath": log,
            "wiredTigerCacheSizeGB": CACHE_GB,
            "networkMessageCompressors": "snappy,zstd",
        }
        flags = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        return subprocess.Popen(
            [
                *dies_with_us(),
                str(mongod),
                *flags,
                "--logappend",
                "--noscripting",
                "--nounixsocket",
                # Without other members there is nobody to wait for when it steps down.
                *("--setParameter", "shutdownTimeoutMillisForSignaledShutdown=100"),
                *("--setParameter", "diagnosticDataCollectionEnabled=false"),
                # What is acknowledged by a majority waits for the journal by itself; hints and
                # locks are all that this is for, and idle it is most of what mongod does.
                *("--journalCommitInterval", "500"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _hint(self) -> str:
        return f"see {self._data_dir / 'mongod.log'}"

    def _publish(self) -> None:
        """Leave the URI for this user's other commands, for as long as the server runs."""
        assert self._process is not None
        path = self._data_dir / "uri"
        path.unlink(missing_ok=True)
        with open(path, "x", opener=lambda p, f: os.open(p, f, 0o600)) as kept:
            kept.write(f"{self._process.pid}\n{self.uri}\n")


def _is_locked(path: Path) -> bool:
    """Whether a process holds this file for itself."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def dies_with_us() -> list[str]:
    """A launcher that has the kernel end the server when our process dies, however it dies."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "TERM", "--"] if setpriv else []


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            return False
    return True
