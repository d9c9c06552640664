"""A broker to be broken: its database, its publisher, its real workers, what its tasks did."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from celery import Celery
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from taskyard.broker import SCHEME
from tests.broker.faults import fault_app
from tests.helpers import eventually

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[3]

#: A loaded laptop is slow, and an election takes a while; nothing here is judged by its time.
PATIENCE_SECONDS = 60.0

Document = dict[str, Any]


class Bench:
    """One broker over the given MongoDB, which a test may reach by another way than its workers."""

    def __init__(self, folder: Path, uri: str, *, lease_seconds: float = 10) -> None:
        self.folder = folder
        self.database_name = f"broker_{uuid.uuid4().hex[:12]}"
        self.options = {"database": self.database_name, "lease_seconds": lease_seconds}
        self._client: MongoClient[Document] = MongoClient(uri, tz_aware=True, appname="seen")
        self.database = self._client[self.database_name]
        self.app = Celery("publisher", set_as_current=False, broker=f"{SCHEME}+{uri}")
        self.app.conf.update(task_ignore_result=True, broker_transport_options=self.options)
        self.workers: list[Worker] = []

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            worker.kill()
        self.app.close()
        self._client.drop_database(self.database_name)
        self._client.close()

    def start(self, uri: str, *, concurrency: int = 2, **options: Any) -> Worker:
        """A real prefork worker, awaited. ``options`` are added to the transport's."""
        worker = Worker(self, f"w{len(self.workers)}", uri, concurrency, options)
        self.workers.append(worker)
        return worker.await_ready()

    def send(self, key: str, seconds: float = 0, *, task: str = "work", **options: Any) -> None:
        """Publish as any app does."""
        args = [key] if task == "hold" else [key, seconds]
        self.app.send_task(task, args=args, **options)

    def open(self, key: str) -> None:
        """Let a holding task end; ``task.w0`` is that of the first worker only."""
        (self.folder / key).touch()

    def runs(self, event: str = "start") -> Counter[str]:
        """How often each task did so."""
        journal = self.folder / "journal"
        lines = journal.read_text().splitlines() if journal.exists() else []
        return Counter(key for did, key in (line.split() for line in lines) if did == event)

    def messages(self) -> list[Document]:
        """What is left of tasks: it waits, is held, or is not yet acknowledged."""
        with suppress(PyMongoError):
            return list(self.database["broker.messages"].find({"queue": "celery"}))
        return [{"unknown": "MongoDB is away"}]

    def dead_letters(self) -> list[Document]:
        return list(self.database["broker.dead_letters"].find())

    def await_runs(self, keys: set[str], event: str = "end") -> None:
        """Each of them did so at least once."""
        self.wait(lambda: keys <= set(self.runs(event)))

    def await_empty(self) -> None:
        """Every message was acknowledged."""
        self.wait(lambda: not self.messages())

    def wait(self, check: Callable[[], Any]) -> None:
        """``eventually``; when it does not come, the end of each worker's log is told."""
        try:
            eventually(check, PATIENCE_SECONDS)
        except AssertionError:
            logs = "\n".join(worker.log[-3000:] for worker in self.workers)
            raise AssertionError(f"{self.messages()[:5]}\n{self.runs()}\n{logs}") from None


class Worker:
    """A real ``celery worker`` in a process group of its own, that nobody starts again."""

    def __init__(
        self, bench: Bench, name: str, uri: str, concurrency: int, options: Document
    ) -> None:
        self._bench = bench
        self._log = bench.folder / f"{name}.log"
        settings = {
            "broker_url": f"{SCHEME}+{uri}",
            "broker_transport_options": {**bench.options, **options},
        }
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            fault_app.SETTINGS: json.dumps(settings),
            fault_app.FOLDER: str(bench.folder),
            fault_app.NAME: name,
        }
        command = [str(BIN / "celery"), "-A", fault_app.__name__, "worker", "-n", f"{name}@faults"]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "-c", str(concurrency), "-l", "INFO"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def await_ready(self) -> Worker:
        def ready() -> bool:
            assert self.process.poll() is None, self.log
            return " ready." in self.log

        self._bench.wait(ready)
        return self

    def signal(self, number: int) -> None:
        """To all its processes at once."""
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """``kill -9`` of all its processes."""
        with suppress(ProcessLookupError):
            self.signal(signal.SIGKILL)
        self.process.wait()

    def await_log(self, part: str) -> None:
        self._bench.wait(lambda: part in self.log)

    def never_restarted(self) -> bool:
        """The same process, and one start of its consumer."""
        return self.process.poll() is None and self.log.count(" ready.") == 1
