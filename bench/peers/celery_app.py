"""Jobs as Celery tasks; broker and results are what PEERS_BROKER and PEERS_BACKEND name."""

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
    # A worker that is killed must not lose what it had begun.
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=4,
    result_expires=24 * 3600,
    broker_connection_retry_on_startup=True,
)


@app.task(name="peers.run", bind=True, max_retries=3)
def run(self: Any, command: str, timeout_seconds: float) -> dict[str, Any]:
    """Run a command in a shell; the result is its exit code with all that it printed."""
    try:
        done = subprocess.run(
            ["/bin/sh", "-c", command], capture_output=True, text=True, timeout=timeout_seconds
        )
    except OSError as error:
        raise self.retry(exc=error, countdown=1) from error
    return {"exitCode": done.returncode, "stdout": done.stdout, "stderr": done.stderr}
