"""Jobs as Dramatiq messages; messages and results are on the Redis that PEERS_BROKER names."""

from __future__ import annotations

import os
import subprocess
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

_url = os.environ.get("PEERS_BROKER", "redis://127.0.0.1:6379/0")

broker = RedisBroker(url=_url)
broker.add_middleware(Results(backend=RedisBackend(url=_url), store_results=True))
dramatiq.set_broker(broker)


@dramatiq.actor(max_retries=3)
def run(command: str, timeout_seconds: float) -> dict[str, Any]:
    """Run a command in a shell; the result is its exit code and its whole output."""
    done = subprocess.run(
        ["/bin/sh", "-c", command], capture_output=True, text=True, timeout=timeout_seconds
    )
    return {"exitCode": done.returncode, "stdout": done.stdout, "stderr": done.stderr}
