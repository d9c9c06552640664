"""A real replica set on loopback, whose primary can be stepped down, killed or stopped."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

from taskyard.addresses import free_port
from taskyard.embedded import dies_with_us, find_mongod
from tests.helpers import eventually

NAME = "failover"

#: MongoDB's defaults are 10 s; three processes on one host need not wait that long.
ELECTION_TIMEOUT_MS = 2000
HEARTBEAT_TIMEOUT_SECONDS = 2

_READY_SECONDS = 60.0


class Member:
    """One mongod of the set; it keeps its port and its data when it is restarted."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the mongod, also after a kill."""
        (self._folder / "db").mkdir(parents=True, exist_ok=True)
        options = {
            "dbpath": self._folder / "db",
            "port": self.port,
            "bind_ip": "127.0.0.1",
            "replSet": NAME,
            "logpath": self._folder / "mongod.log",
            "wiredTigerCacheSizeGB": "0.25",
            "oplogSize": "256",
            "networkMessageCompressors": "snappy",
        }
        flags = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        self.process = subprocess.Popen(
            [
                *dies_with_us(),
                str(find_mongod()),
                *flags,
                "--logappend",
                "--nounixsocket",
                *("--setParameter", "enableTestCommands=1"),
                *("--setParameter", "diagnosticDataCollectionEnabled=false"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def signal(self, number: int) -> None:
        """Send SIGKILL, SIGSTOP or SIGCONT, and wait until the process has ended or stopped.

        On a busy machine its threads run on for a moment after SIGSTOP was sent, and can still
        confirm a write.
        """
        assert self.process is not None
        self.process.send_signal(number)
        if number == signal.SIGKILL:
            self.process.wait()
        elif number == signal.SIGSTOP:
            threads = Path(f"/proc/{self.process.pid}/task")
            eventually(lambda: all(_is_stopped(thread) for thread in threads.iterdir()))

    def stop(self) -> None:
        """Kill the process, even if SIGSTOP holds it."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class ReplicaSet:
    """A replica set of three members by default, as in production."""

    def __init__(self, folder: Path, *, size: int = 3) -> None:
        self.members = [Member(folder / f"member{number}") for number in range(size)]
        addresses = ",".join(member.address for member in self.members)
        self.uri = f"mongodb://{addresses}/?replicaSet={NAME}"

    def __enter__(self) -> ReplicaSet:
        for member in self.members:
            member.start()
        config = {
            "_id": NAME,
            "members": [{"_id": n, "host": m.address} for n, m in enumerate(self.members)],
            "settings": {
                "electionTimeoutMillis": ELECTION_TIMEOUT_MS,
                "heartbeatTimeoutSecs": HEARTBEAT_TIMEOUT_SECONDS,
            },
        }
        eventually(lambda: _initiated(self.members[0], config), _READY_SECONDS)
        self.await_primary()
        return self

    def __exit__(self, *_: object) -> None:
        for member in self.members:
            member.stop()

    def primary(self) -> Member | None:
        """Return the member that accepts writes now, or None."""
        for member in self.members:
            hello = _ask(member, "hello")
            if hello and hello.get("isWritablePrimary"):
                return member
        return None

    def await_primary(self) -> Member:
        """Wait for a primary and return it."""
        return eventually(self.primary, _READY_SECONDS)

    def step_down(self) -> Member:
        """Make the primary step down; return that member."""
        was = self.await_primary()
        _ask(was, "replSetStepDown", 5, secondaryCatchUpPeriodSecs=2, force=True)
        return was

    def put_off_elections(self, seconds: int) -> None:
        """Keep all other members from becoming primary for so many seconds."""
        primary = self.await_primary()
        for member in self.members:
            if member is not primary:
                assert _ask(member, "replSetFreeze", seconds)

    def hold_back(self, held: bool = True) -> None:
        """Stop replication to all other members, or with ``held=False`` let it go on."""
        primary, mode = self.await_primary(), "alwaysOn" if held else "off"
        for member in self.members:
            if member is not primary:
                assert _ask(member, "configureFailPoint", "stopReplProducer", mode=mode)

    def client(self, **options: Any) -> MongoClient[dict[str, Any]]:
        """Return a client of the whole set."""
        return MongoClient(self.uri, tz_aware=True, **options)


def fail_command(
    client: MongoClient[dict[str, Any]], *, commands: list[str], times: int, **data: Any
) -> None:
    """Make the next ``times`` of these commands fail on the primary, in the way of ``data``.

    Always give ``appName`` in ``data``: without it, commands of any client use up the count.
    """
    client.admin.command(
        "configureFailPoint",
        "failCommand",
        mode={"times": times},
        data={"failCommands": commands, **data},
    )


def heal_commands(client: MongoClient[dict[str, Any]]) -> None:
    """Make commands succeed again."""
    client.admin.command("configureFailPoint", "failCommand", mode="off")


def _is_stopped(thread: Path) -> bool:
    """Whether the thread is stopped, or has ended since its folder was listed."""
    try:
        stat = (thread / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    # The state follows the name, which may contain anything but stands in parentheses (proc(5)).
    return stat.rpartition(") ")[2].startswith("T")


def _ask(member: Member, command: str, value: Any = 1, **more: Any) -> dict[str, Any] | None:
    """Return the answer of one member to a command; None if it does not answer or refuses."""
    try:
        with MongoClient[dict[str, Any]](
            member.address,
            directConnection=True,
            serverSelectionTimeoutMS=500,
            socketTimeoutMS=10_000 if more else 1000,
        ) as client:
            answer: dict[str, Any] = client.admin.command(command, value, **more)
            return answer
    except PyMongoError:
        return None


def _initiated(member: Member, config: dict[str, Any]) -> bool:
    try:
        with MongoClient[dict[str, Any]](
            member.address, directConnection=True, serverSelectionTimeoutMS=500
        ) as client:
            client.admin.command("replSetInitiate", config)
    except OperationFailure as error:
        return error.code == 23  # AlreadyInitialized
    except PyMongoError:
        return False
    return True
