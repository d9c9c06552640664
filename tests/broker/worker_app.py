"""The Celery app that the workers of these tests load; its settings come from the environment."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from celery import Celery, signals
from kombu.transport import TRANSPORT_ALIASES

import taskyard.broker  # noqa: F401 - makes the scheme known to kombu
from taskyard.broker.transport import Transport

#: A JSON object of Celery settings, with the broker's URL and options.
SETTINGS = "BROKER_TEST_SETTINGS"
#: If set, the worker uses Celery's blocking loop instead of its event loop.
BLOCKING = "BROKER_TEST_BLOCKING"
#: The file in which tasks record their events, one line each.
RECORD = "BROKER_TEST_RECORD"
#: The folder of the files that holding tasks wait for.
GATES = "BROKER_TEST_GATES"


class BlockingTransport(Transport):
    """A transport without support for an event loop, so that Celery takes its blocking loop."""

    implements = Transport.implements.extend(asynchronous=False)


if os.environ.get(BLOCKING):
    TRANSPORT_ALIASES["taskyard"] = f"{__name__}:BlockingTransport"

app = Celery("broker_tests", set_as_current=False)
app.conf.update(
    {
        "task_acks_late": True,
        "task_ignore_result": True,
        "worker_prefetch_multiplier": 1,
        "broker_connection_retry_on_startup": True,
        **json.loads(os.environ.get(SETTINGS, "{}")),
    }
)


def tell(event: str, key: str) -> None:
    """Append a line to the record in one write, which no other writer and no kill can break."""
    line = json.dumps({"event": event, "key": key, "pid": os.getpid(), "at": time.time()})
    record = os.open(os.environ[RECORD], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(record, line.encode() + b"\n")
    finally:
        os.close(record)


@app.task(name="note")
def note(key: str) -> None:
    tell("start", key)


@app.task(name="work")
def work(key: str, seconds: float) -> None:
    tell("start", key)
    time.sleep(seconds)  # the work of this task
    tell("end", key)


@app.task(name="hold")
def hold(key: str) -> None:
    """Run until the file that is named as the key exists."""
    tell("start", key)
    while not (Path(os.environ[GATES]) / key).exists():
        time.sleep(0.01)  # waiting for a condition
    tell("end", key)


@app.task(name="again", bind=True, max_retries=1)
def again(self: Any, key: str, seconds: float) -> None:
    tell(f"try{self.request.retries}", key)
    if not self.request.retries:
        raise self.retry(countdown=seconds)


@app.task(name="publish")
def publish(key: str, count: int) -> None:
    """Publish ``count`` other tasks."""
    tell("start", key)
    for number in range(count):
        note.delay(f"{key}.{number}")


@app.task(name="die", reject_on_worker_lost=True)
def die(key: str) -> None:
    """Kill the process that runs this task, as the kernel does when memory is short."""
    tell("start", key)
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(name="die_once", reject_on_worker_lost=True)
def die_once(key: str) -> None:
    tell("start", key)
    marker = Path(os.environ[GATES]) / key
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    tell("end", key)


@signals.worker_ready.connect
def tell_loop(sender: Any, **_: Any) -> None:
    tell(sender.loop.__name__, sender.hostname)
