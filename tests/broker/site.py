"""A broker for tests, the workers that use it, and the events that their tasks recorded."""

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
        """Kill the workers, then drop the database."""
        for worker in self.workers:
            worker.kill()
        self.app.close()
        self._client.drop_database(self.database_name)
        self._client.close()

    def environment(self, **settings: Any) -> dict[str, str]:
        """Return the environment of a Celery process that uses this broker."""
        return {
            **os.environ,
            worker_app.SETTINGS: json.dumps({**self.settings, **settings}),
            worker_app.RECORD: str(self.record),
            worker_app.GATES: str(self.gates),
            "PYTHONPATH": str(ROOT),
        }

    def start(self, *arguments: str, pool: str = "prefork", **options: Any) -> Worker:
        """Start a worker without waiting until it is ready: several may start at once."""
        worker = Worker(self, f"w{len(self.workers)}", pool, *arguments, **options)
        self.workers.append(worker)
        return worker

    def celery(self, *arguments: str, timeout: float = PATIENCE_SECONDS) -> str:
        """Run Celery's own command, which must succeed, and return what it prints."""
        command = [str(BIN / "celery"), "-A", worker_app.__name__, *arguments]
        environment = self.environment()
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=timeout
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def send(self, name: str, *args: Any, **options: Any) -> str:
        """Publish a task and return its id."""
        return str(self.app.send_task(name, args=args, **options).id)

    def told(self, event: str = "start") -> list[str]:
        """Return the keys of the tasks that recorded this event, in order."""
        return [line["key"] for line in self.lines() if line["event"] == event]

    def lines(self) -> list[Document]:
        """Return all events that tasks recorded."""
        if not self.record.exists():
            return []
        return [json.loads(line) for line in self.record.read_text().splitlines()]

    def runs(self, prefix: str) -> Counter[str]:
        """Count how often each task whose key has this prefix was started."""
        return Counter(key for key in self.told() if key.startswith(prefix))

    def open(self, key: str) -> None:
        """Let the holding task with this key end."""
        (self.gates / key).touch()

    def messages(self) -> list[Document]:
        """Return the task messages that are left: waiting, held, or expired and not yet deleted."""
        tasks = {"queue": {"$not": {"$regex": "pidbox|celeryev"}}}
        return list(self.database["broker.messages"].find(tasks))

    def await_expiry(self) -> None:
        """Wait until every message that can expire has done so by the server's clock.

        Such a message may be gone: the server deletes those once a minute.
        """
        alive = {"$expr": {"$gte": ["$notAfter", "$$NOW"]}, "notAfter": {"$exists": True}}
        messages = self.database["broker.messages"]
        wait(lambda: not messages.count_documents(alive), self.messages)

    def dead_letters(self) -> list[Document]:
        return list(self.database["broker.dead_letters"].find())

    def await_empty(self) -> None:
        """Wait until every message was acknowledged."""
        wait(lambda: not self.messages(), self.messages)


class Worker(CeleryProcess):
    """A worker with a given pool and loop."""

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
    """Deliver messages until none has come for ``seconds``."""
    with contextlib.suppress(TimeoutError):
        while True:
            connection.drain_events(timeout=seconds)
