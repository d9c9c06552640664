"""A broker of a test's own, the workers on it, and what their tasks told."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

from celery import Celery
from kombu import Connection
from pymongo import MongoClient

from taskyard.broker import SCHEME
from tests.broker import worker_app
from tests.broker.celery_process import BIN, PATIENCE_SECONDS, ROOT, CeleryProcess, wait

Document = dict[str, Any]


class Site:
    """One database as a broker, with a folder for the workers that use it."""

    def __init__(self, folder: Path, mongodb_uri: str, **transport_options: Any) -> None:
        self.folder = folder
        self.mongodb_uri = mongodb_uri
        self.database_name = f"broker_{uuid.uuid4().hex[:12]}"
        self.settings: Document = {
            "broker_url": f"{SCHEME}+{mongodb_uri}",
            "broker_transport_options": {
                "database": self.database_name,
                "lease_seconds": 10,
                **transport_options,
            },
        }
        self._client: MongoClient[Document] = MongoClient(mongodb_uri, tz_aware=True)
        self.database = self._client[self.database_name]
        self.record = folder / "record"
        self.gates = folder / "gates"
        self.gates.mkdir(parents=True)
        self.workers: list[Worker] = []
        self.app = Celery("broker_tests", set_as_current=False)
        self.app.conf.update(task_ignore_result=True, **self.settings)

    def close(self) -> None:
        """End the workers, then the database."""
        for worker in self.workers:
            worker.kill()
        self.app.close()
        self._client.drop_database(self.database_name)
        self._client.close()

    def environment(self, **settings: Any) -> dict[str, str]:
        """What a process of Celery on this broker needs."""
        return {
            **os.environ,
            worker_app.SETTINGS: json.dumps({**self.settings, **settings}),
            worker_app.RECORD: str(self.record),
            worker_app.GATES: str(self.gates),
            "PYTHONPATH": str(ROOT),
        }

    def start(self, *arguments: str, pool: str = "prefork", **options: Any) -> Worker:
        """A worker, not awaited: several may start at once."""
        worker = Worker(self, f"w{len(self.workers)}", pool, *arguments, **options)
        self.workers.append(worker)
        return worker

    def celery(self, *arguments: str, timeout: float = PATIENCE_SECONDS) -> str:
        """What Celery's own command prints. It must succeed."""
        command = [str(BIN / "celery"), "-A", worker_app.__name__, *arguments]
        environment = self.environment()
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=timeout
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def send(self, name: str, *args: Any, **options: Any) -> str:
        """Publish a task; returns its id."""
        return str(self.app.send_task(name, args=args, **options).id)

    def told(self, event: str = "start") -> list[str]:
        """Keys of the tasks that told so, in order."""
        return [line["key"] for line in self.lines() if line["event"] == event]

    def lines(self) -> list[Document]:
        """Everything that tasks told."""
        if not self.record.exists():
            return []
        return [json.loads(line) for line in self.record.read_text().splitlines()]

    def runs(self, prefix: str) -> Counter[str]:
        """How often each task whose key begins so was started."""
        return Counter(key for key in self.told() if key.startswith(prefix))

    def open(self, key: str) -> None:
        """Let the holding task end."""
        (self.gates / key).touch()

    def messages(self) -> list[Document]:
        """Task messages that are left: waiting, held, or not yet collected."""
        tasks = {"queue": {"$not": {"$regex": "pidbox|celeryev"}}}
        return list(self.database["broker.messages"].find(tasks))

    def has_expired(self) -> bool:
        """Whether the server's clock has passed some message's time."""
        past = {"$expr": {"$lt": ["$notAfter", "$$NOW"]}, "notAfter": {"$exists": True}}
        return self.database["broker.messages"].count_documents(past) > 0

    def dead_letters(self) -> list[Document]:
        return list(self.database["broker.dead_letters"].find())

    def await_empty(self) -> None:
        """Every message was acknowledged."""
        wait(lambda: not self.messages(), self.messages)


class Worker(CeleryProcess):
    """A worker of some pool and loop."""

    def __init__(
        self,
        site: Site,
        name: str,
        pool: str,
        *arguments: str,
        concurrency: int = 2,
        blocking: bool = False,
        queues: str = "celery",
        **settings: Any,
    ) -> None:
        self.site = site
        self.hostname = f"{name}@test"
        self.pool = pool
        self.blocking = blocking
        self.slots = 1 if pool == "solo" else concurrency
        environment = site.environment(**settings)
        if blocking:
            environment[worker_app.BLOCKING] = "1"
        shape = ("-P", pool, "-c", str(self.slots), "-Q", queues)
        super().__init__(
            worker_app.__name__,
            self.hostname,
            *shape,
            *arguments,
            log=site.folder / f"{name}.log",
            environment=environment,
        )


def drain(connection: Connection, seconds: float = 0.2) -> None:
    """Deliver until nothing comes for so long."""
    with contextlib.suppress(TimeoutError):
        while True:
            connection.drain_events(timeout=seconds)
