"""A broker to strike with faults: its database, its publisher, real workers, a journal of tasks."""

from __future__ import annotations

import json
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
from tests.broker.celery_process import PATIENCE_SECONDS, CeleryProcess
from tests.broker.faults import fault_app
from tests.helpers import eventually

Document = dict[str, Any]


class Bench:
    """A broker over the given MongoDB, which workers may reach by another URI than the test."""

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
        """Start a real prefork worker and wait for it; ``options`` are added to the transport's."""
        worker = Worker(self, f"w{len(self.workers)}", uri, concurrency, options)
        self.workers.append(worker)
        return worker.await_ready()

    def send(self, key: str, seconds: float = 0, *, task: str = "work", **options: Any) -> None:
        """Publish a task as any app does."""
        args = [key] if task == "hold" else [key, seconds]
        self.app.send_task(task, args=args, **options)

    def open(self, key: str) -> None:
        """Let a holding task end; with ``task.w0`` only where the first worker runs it."""
        (self.folder / key).touch()

    def runs(self, event: str = "start") -> Counter[str]:
        """Count how often each task noted this event."""
        journal = self.folder / "journal"
        lines = journal.read_text().splitlines() if journal.exists() else []
        return Counter(key for did, key in (line.split() for line in lines) if did == event)

    def messages(self) -> list[Document]:
        """Return the task messages that are left: waiting, held, or not yet acknowledged."""
        with suppress(PyMongoError):
            return list(self.database["broker.messages"].find({"queue": "celery"}))
        return [{"unknown": "MongoDB is away"}]

    def dead_letters(self) -> list[Document]:
        return list(self.database["broker.dead_letters"].find())

    def await_runs(self, keys: set[str], event: str = "end") -> None:
        """Wait until each of these tasks has noted the event at least once."""
        self.wait(lambda: keys <= set(self.runs(event)))

    def await_empty(self) -> None:
        """Wait until every message was acknowledged."""
        self.wait(lambda: not self.messages())

    def wait(self, check: Callable[[], Any]) -> None:
        """Wait as ``eventually`` does; if nothing comes, fail with the end of each worker's log."""
        try:
            eventually(check, PATIENCE_SECONDS)
        except AssertionError:
            logs = "\n".join(worker.log[-3000:] for worker in self.workers)
            raise AssertionError(f"{self.messages()[:5]}\n{self.runs()}\n{logs}") from None


class Worker(CeleryProcess):
    """A prefork worker for faults to strike."""

    def __init__(
        self, bench: Bench, name: str, uri: str, concurrency: int, options: Document
    ) -> None:
        settings = {
            "broker_url": f"{SCHEME}+{uri}",
            "broker_transport_options": {**bench.options, **options},
        }
        super().__init__(
            fault_app.__name__,
            f"{name}@faults",
            *("-c", str(concurrency)),
            log=bench.folder / f"{name}.log",
            environment={
                fault_app.SETTINGS: json.dumps(settings),
                fault_app.FOLDER: str(bench.folder),
                fault_app.NAME: name,
            },
        )
