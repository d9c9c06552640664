"""The Celery app of the workers that faults strike; its settings come from the environment."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from celery import Celery
from celery.worker.control import control_command
from pymongo.errors import AutoReconnect

import taskyard.broker  # noqa: F401 - makes the scheme known to kombu

#: A JSON object of Celery's settings.
SETTINGS = "FAULT_APP_SETTINGS"
#: The folder with the journal and the gates.
FOLDER = "FAULT_APP_FOLDER"
#: The name of the worker.
NAME = "FAULT_APP_NAME"

app = Celery("faults", set_as_current=False)
app.conf.update(
    task_acks_late=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
    **json.loads(os.environ.get(SETTINGS, "{}")),
)


def _note(event: str, key: str) -> None:
    """Append a line in one write, which no other writer and no kill can break; needs no MongoDB."""
    journal = os.open(Path(os.environ[FOLDER]) / "journal", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(journal, f"{event} {key}\n".encode())
    finally:
        os.close(journal)


@app.task(name="work")
def work(key: str, seconds: float = 0) -> None:
    """Run for some seconds."""
    _note("start", key)
    time.sleep(seconds)  # the work of this task
    _note("end", key)


@app.task(name="hold")
def hold(key: str) -> None:
    """Run until the file of this name exists, or the one for this worker alone."""
    _note("start", key)
    folder = Path(os.environ[FOLDER])
    gates = (folder / key, folder / f"{key}.{os.environ[NAME]}")
    while not any(gate.exists() for gate in gates):
        time.sleep(0.01)  # waiting for a condition
    _note("end", key)


@control_command()
def lose_connection(state: Any) -> dict[str, str]:
    """Make Celery believe that its connection is lost, with an error as of its transport."""

    def lost() -> None:
        raise AutoReconnect("lost, as the test says")

    state.consumer.hub.call_soon(lost)
    return {"ok": "lost"}
