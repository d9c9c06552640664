"""A broker to be broken: its database, its publisher, its real workers, what its tasks did."""

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


class Worker(CeleryProcess):
    """A prefork worker that a fault befalls."""

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
