"""The platform as real processes, with a supervisor that restarts those that have died."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pymongo.database import Database

from taskyard.addresses import free_port
from taskyard.embedded import dies_with_us
from taskyard.up.processes import COMMANDS
from tests.chaos import skew
from tests.chaos.disk import SmallDisk
from tests.chaos.proxy import Proxy
from tests.helpers import answers, eventually, waiting_step
from tests.processes.conftest import user_environment
from tests.replica_set import ReplicaSet

DATABASE = "chaos"

#: How long the supervisor waits before it restarts a process.
RESTART_SECONDS = 1.0

#: A process that ends sooner has not begun: one that finds no primary to register with exits and
#: relies on its supervisor.
BEGUN_SECONDS = 15.0

_READY_SECONDS = 90.0


@dataclass(frozen=True, kw_only=True)
class Topology:
    """How many processes of each role there are, and the agents' lease."""

    webs: int = 2
    beats: int = 2
    schedulers: int = 2
    agents: int = 3
    members: int = 1
    lease: float = 15.0
    #: CPUs that each agent offers: more than this machine has, because the jobs mostly wait.
    cpus: int = 32
    #: How wrong the clocks of web, beat, scheduler and agent hosts are, in seconds: processes with
    #: odd numbers are that much ahead, those with even numbers that much behind.
    skew: float = 0.0

    def settings(self) -> dict[str, str]:
        """Return settings that scale the platform's timing to the lease; none if it is 15 s."""
        if self.lease == 15:
            return {}
        tick = max(0.5, self.lease / 7.5)
        seconds = {
            "LEASE": self.lease,
            "RENEWAL": self.lease / 3,
            "HTTP_LEASE": self.lease,
            "START_DEADLINE": self.lease,
            "OFFLINE": self.lease * 2,
            "COOLDOWN": self.lease,
            "TIMEOUTS_TICK": tick,
            "HEALTH_TICK": tick * 2,
            "ASSIGNMENT_TICK": tick * 2,
            "KILL_GRACE": min(5.0, self.lease / 3),
        }
        return {f"TASKYARD_{name}_SECONDS": f"{value:g}" for name, value in seconds.items()}

    @property
    def kill_grace(self) -> float:
        """Return the seconds between SIGTERM and SIGKILL."""
        return float(self.settings().get("TASKYARD_KILL_GRACE_SECONDS", 5))


class Program:
    """One process of the platform, in a session of its own."""

    def __init__(self, name: str, role: str, env: Mapping[str, str], folder: Path) -> None:
        self.name = name
        self.role = role
        self.url = f"http://{env['TASKYARD_BIND']}"
        self._env = dict(env)
        self.log = folder / f"{name}.log"
        self._cwd = folder
        self._popen: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._ended_at: float | None = None
        self._killed = False
        #: Whether the supervisor restarts it.
        self.wanted = True
        #: Exit codes with which it ended after it had begun, without having been killed by us.
        self.own_ends: list[int] = []

    @property
    def pid(self) -> int:
        """Return the id of its main process, which leads its process group."""
        assert self._popen is not None
        return self._popen.pid

    def send(self, number: int, *, group: bool = False) -> None:
        """Signal the main process alone, or its whole process group."""
        self._killed = self._killed or number == signal.SIGKILL
        with suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.pid, number)

    def tend(self, now: float) -> None:
        """Start it, or restart it RESTART_SECONDS after it has ended."""
        if self._popen is None:
            self._start()
        elif (code := self._popen.poll()) is not None:
            if self._ended_at is None:
                self._ended_at = now
                if not self._killed and now >= self._started_at + BEGUN_SECONDS:
                    self.own_ends.append(code)
            if self.wanted and now >= self._ended_at + RESTART_SECONDS:
                self._start()

    @property
    def up(self) -> bool:
        """Whether its process runs now."""
        return self._popen is not None and self._popen.poll() is None

    def end(self) -> None:
        """Kill it and its group for good."""
        if self._popen is not None:
            self.send(signal.SIGKILL, group=True)
            self._popen.wait()

    def _start(self) -> None:
        command = COMMANDS[self.role].replace(f"{self.role}@%h", f"{self.name}@%h")
        program, *arguments = shlex.split(command)
        with self.log.open("ab") as log:
            self._popen = subprocess.Popen(
                [*dies_with_us(), sys.executable, "-m", program, *arguments],
                cwd=self._cwd,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._started_at, self._ended_at, self._killed = time.monotonic(), None, False


class Cluster:
    """A replica set, and the platform's programs that use it."""

    def __init__(self, folder: Path, topology: Topology) -> None:
        self.folder = folder
        self.topology = topology
        self.job_log = folder / "jobs.log"
        self.mongods = ReplicaSet(folder / "mongod", size=topology.members)
        #: The last agent's network, which can be cut; only with a replica set of one member.
        self.proxy: Proxy | None = None
        #: The first agent's disk, which can be filled; only where we may mount one.
        self.disk: SmallDisk | None = None
        self.programs: list[Program] = []
        self._stack = ExitStack()
        self._stopped = threading.Event()
        # One thread starts all programs and outlives them: the kernel ends a program when the
        # thread that started it ends.
        self._supervisor = threading.Thread(target=self._supervise, name="supervisor")

    def __enter__(self) -> Cluster:
        with ExitStack() as stack:
            # The logs are kept; the databases take hundreds of megabytes and are removed.
            stack.callback(shutil.rmtree, self.folder / "mongod", ignore_errors=True)
            stack.enter_context(self.mongods)
            if self.topology.members == 1:
                self.proxy = stack.enter_context(Proxy(self.mongods.members[0].port))
            if SmallDisk.possible():
                self.disk = stack.enter_context(SmallDisk(self.folder / "disk"))
            stack.callback(self._stop)
            client = stack.enter_context(self.mongods.client())
            self.database: Database[dict[str, Any]] = client[DATABASE]
            self._make_programs()
            self._supervisor.start()
            self.await_ready()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def of(self, role: str) -> list[Program]:
        """Return the programs of one role, in order."""
        return [program for program in self.programs if program.role == role]

    def agent(self, worker_id: str) -> Program:
        """Return the agent with the worker id."""
        return next(p for p in self.of("agent") if p.name == worker_id)

    def urls(self) -> list[str]:
        """Return the addresses of the web processes."""
        return [web.url for web in self.of("web")]

    def own_ends(self) -> list[str]:
        """Describe the ends of programs that were not killed; there should be none."""
        return [f"{p.name} ended with code {code}" for p in self.programs for code in p.own_ends]

    def await_ready(self) -> None:
        """Wait until all webs answer, all agents send heartbeats and the ticks run."""
        eventually(lambda: all(answers(url) for url in self.urls()), _READY_SECONDS)
        eventually(self._agents_alive, _READY_SECONDS)
        eventually(self._ticking, _READY_SECONDS)

    def _make_programs(self) -> None:
        counts = {
            "web": self.topology.webs,
            "beat": self.topology.beats,
            "scheduler": self.topology.schedulers,
            "agent": self.topology.agents,
        }
        for role, count in counts.items():
            for number in range(1, count + 1):
                name = f"{role}{number}"
                env = {**self._environment(), **self._own_settings(role, name, number)}
                env |= skew.environment(self.topology.skew * (1 if number % 2 else -1))
                self.programs.append(Program(name, role, env, self.folder))

    def _environment(self) -> dict[str, str]:
        return user_environment(
            self.folder,
            MONGODB_URI=self.mongods.uri,
            TASKYARD_DATABASE=DATABASE,
            TASKYARD_AUTH="off",
            TASKYARD_BIND=f"127.0.0.1:{free_port()}",
            TASKYARD_LOG_FORMAT="json",
            **self.topology.settings(),
        )

    def _own_settings(self, role: str, name: str, number: int) -> dict[str, str]:
        """Return an agent's own settings: its id, size, disk and address of MongoDB."""
        if role != "agent":
            return {}
        base = self.folder / "work"
        if number == 1 and self.disk:
            base = self.disk.folder
        settings = {
            "TASKYARD_WORKER_ID": name,
            # A job with an agent's name as its label can run on that agent alone.
            "TASKYARD_LABELS": name,
            "TASKYARD_CPU_COUNT": str(self.topology.cpus),
            "TASKYARD_RAM_TOTAL_MB": "8192",
            "TASKYARD_WORKSPACE_DIR": str(base / "workspaces" / name),
        }
        if number == self.topology.agents and self.proxy:
            address = f"127.0.0.1:{self.proxy.port}"
            settings["MONGODB_URI"] = f"mongodb://{address}/?directConnection=true"
        return settings

    def _supervise(self) -> None:
        while not self._stopped.is_set():
            for program in self.programs:
                program.tend(time.monotonic())
            waiting_step()
        for program in self.programs:
            program.end()

    def _stop(self) -> None:
        self._stopped.set()
        if self._supervisor.is_alive():
            self._supervisor.join()

    def _agents_alive(self) -> bool:
        recent = {"health": "OK", "suspendedAt": {"$exists": False}}
        return self.database["workers"].count_documents(recent) == self.topology.agents

    def _ticking(self) -> bool:
        return self.database["locks"].count_documents({"_id": "tick.timeouts"}) == 1
