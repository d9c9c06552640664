"""The Celery app that ``bench/broker.py`` runs on each broker: same tasks, same settings."""

from __future__ import annotations

import os
import struct
import time
from typing import Any

from celery import Celery

import taskyard.broker

#: (published, started): nanoseconds of the machine's monotonic clock.
RECORD = struct.Struct("qq")

_SETTINGS = {
    "task_ignore_result": True,
    "task_acks_late": True,
    "worker_prefetch_multiplier": 4,
    "worker_concurrency": 2,
    "broker_connection_retry_on_startup": True,
    "worker_enable_remote_control": True,
}


def make_app(broker: str, options: dict[str, Any]) -> Celery:
    """Return the app on the given broker; names of queues and tasks are the same on all."""
    assert taskyard.broker.SCHEME
    made = Celery("bench", broker=broker)
    made.conf.update(_SETTINGS, broker_transport_options=options)
    return made


app = make_app(
    os.environ.get("BENCH_BROKER", "memory://"),
    {"polling_interval": float(os.environ["BENCH_POLL"])} if "BENCH_POLL" in os.environ else {},
)


@app.task(name="bench.tell")  # type: ignore[untyped-decorator]
def tell(published: int) -> None:
    """Report to the benchmark when this task was published and when it started."""
    started = time.monotonic_ns()
    _report(RECORD.pack(published, started))


_pipe: list[int] = []


def _report(record: bytes) -> None:
    if not _pipe:
        _pipe.append(os.open(os.environ["BENCH_PIPE"], os.O_WRONLY))
    os.write(_pipe[0], record)
