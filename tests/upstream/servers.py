"""The servers that the suites need, each on a free loopback port."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from taskyard.addresses import free_port
from taskyard.embedded import dies_with_us
from tests.helpers import eventually


@contextmanager
def redis_server() -> Iterator[int]:
    """Run a Redis without persistence; yields its port."""
    port = free_port()
    options = [f"--port {port}", "--bind 127.0.0.1", "--appendonly no", "--save"]
    arguments = [*" ".join(options).split(), ""]
    with subprocess.Popen(
        [*dies_with_us(), "redis-server", *arguments], stdout=subprocess.DEVNULL
    ) as process:
        try:
            eventually(lambda: _answers(port), timeout_seconds=30)
            yield port
        finally:
            process.terminate()


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
