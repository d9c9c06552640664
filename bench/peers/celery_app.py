"""Jobs as Celery tasks, on the broker PEERS_BROKER and the result backend PEERS_BACKEND."""

from __future__ import annotations

import os
import subprocess
from typing import Any

from celery import Celery

app = Celery(
    "peers",
    broker=os.environ.get("PEERS_BROKER", "memory://"),
    backend=os.environ.get("PEERS_BACKEND", "cache+memory://"),
)
app.conf.update(
    task_serializer="json",
    result_serializer="json",
    accept_content=["json"],
    # The tasks that a killed worker had begun must not be lost.
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=4,
    result_expires=24 * 3600,
    broker_connection_retry_on_startup=True,
)


@app.task(name="peers.run", bind=True, max_retries=3)
def run(self: Any, command: str, timeout_seconds: float) -> dict[str, Any]:
    """Run a command in a shell; the result is its exit code and its whole output."""
    try:
        done = subprocess.run(
            ["/bin/sh", "-c", command], capture_output=True, text=True, timeout=timeout_seconds
        )
    except OSError as error:
        raise self.retry(exc=error, countdown=1) from error
    return {"exitCode": done.returncode, "stdout": done.stdout, "stderr": done.stderr}
