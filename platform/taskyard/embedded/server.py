"""A ``mongod`` on loopback with a data folder of its own, for as long as its owner runs."""

from __future__ import annotations

import base64
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from taskyard.embedded import primary
from taskyard.embedded.binary import check_runs, find_mongod
from taskyard.embedded.folder import DataFolder
from taskyard.errors import EmbeddedServerError

STOP_SECONDS = 8.0
_LOOK_SECONDS = 0.1

#: Size of the storage engine's cache: enough for one host's work, beside everything else on it.
CACHE_GB = "0.5"


class EmbeddedServer:
    """One ``mongod`` on one data folder; a second one on the same folder is refused."""

    def __init__(self, data_dir: Path, *, port: int | None = None) -> None:
        self._folder = DataFolder(data_dir)
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None
        self.uri = ""

    def __enter__(self) -> EmbeddedServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, on_progress: Callable[[str], None] = lambda _: None) -> None:
        """Start the server and wait until it takes writes. Raises EmbeddedServerError."""
        folder, mongod = self._folder, find_mongod()
        check_runs(mongod)
        try:
            with folder.needed():
                folder.take()
                self._await_one_before(on_progress)
                password = folder.secret("password", lambda: secrets.token_urlsafe(24))
                folder.secret("keyfile", lambda: base64.b64encode(os.urandom(256)).decode())
                port = self._port = self._port or folder.remembered_port()
                # Before the set is made: an interrupted start leaves a set without a user, whose
                # member could not be given another port.
                folder.remember_port(port)
            on_progress(f"starting mongod on 127.0.0.1:{port}")
            self._process = self._spawn(mongod, port)
            if not primary.await_primary(port, password, folder.path, self.check_alive):
                raise EmbeddedServerError(
                    f"mongod took no writes for {primary.START_SECONDS:g} s; {self._hint()}"
                )
            self.uri = primary.uri(port, password)
            with folder.needed():
                folder.publish(self._process.pid, self.uri)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Shut the server down cleanly; kill it when it does not end in time."""
        self._folder.withdraw()
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        self._folder.let_go()

    def restart(self, on_progress: Callable[[str], None] = lambda _: None) -> None:
        """Start the server again after it has ended, at its old address. Raises
        EmbeddedServerError.
        """
        self.stop()
        self.start(on_progress)

    def check_alive(self) -> None:
        """Raise EmbeddedServerError, which says where to look, if the server has ended."""
        if self.exit_code is not None:
            raise EmbeddedServerError(
                f"mongod ended with exit code {self.exit_code}; {self._hint()}"
            )

    @property
    def exit_code(self) -> int | None:
        """The exit code of a server that has ended by itself, or None."""
        return self._process.poll() if self._process else None

    @property
    def pid(self) -> int | None:
        """The server's process id, or None before the start and after the stop."""
        return self._process.pid if self._process else None

    def _await_one_before(self, on_progress: Callable[[str], None]) -> None:
        """Wait for the end of a mongod whose owner was killed: until it has shut down it holds the
        data. Raises EmbeddedServerError, OSError.
        """
        if self._folder.has_server:
            on_progress("waiting for the mongod before this one to end")
        until = time.monotonic() + STOP_SECONDS
        while self._folder.has_server:
            if time.monotonic() >= until:
                raise EmbeddedServerError(
                    f"A mongod that nobody stopped still runs on {self._folder.path}; end it first."
                )
            time.sleep(_LOOK_SECONDS)

    def _spawn(self, mongod: Path, port: int) -> subprocess.Popen[bytes]:
        folder = self._folder
        folder.turn_log()
        options = {
            "dbpath": folder.db,
            "port": port,
            "bind_ip": "127.0.0.1",
            "replSet": primary.REPLICA_SET,
            "keyFile": folder.path / "keyfile",
            "logpath": folder.log,
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
                # Majority writes wait for the journal by themselves, so this interval is for hints
                # and locks alone. With the default it is most of what an idle mongod does.
                *("--journalCommitInterval", "500"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _hint(self) -> str:
        return f"see {self._folder.log}"


def dies_with_us() -> list[str]:
    """Return the command prefix by which the kernel ends a child when our process dies, however
    it dies; empty where there is no ``setpriv``.
    """
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "TERM", "--"] if setpriv else []
