"""Clients of the systems that Taskyard is compared with."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from bench.common import Caller
from bench.side import COMMAND, Client

TIMEOUT_SECONDS = 300.0

#: The polling interval of a client that can only poll for the result.
LOOK_SECONDS = 0.001


class FlaskClient:
    """A client of ``bench/peers/web.py`` over HTTP; one request waits for the output."""

    def __init__(self, url: str) -> None:
        self._caller = Caller(url)

    def submit(self, command: str = COMMAND) -> Any:
        """Submit one job with one request."""
        return self._caller.call("POST", "/jobs", {"command": command})["jobId"]

    def output(self, job: Any) -> str:
        """Ask for the output; ask again if the server's wait ran out."""
        while True:
            answer = self._caller.call("GET", f"/jobs/{job}?wait=60")
            if answer["status"] in ("SUCCESS", "FAILURE"):
                return str(answer["stdout"])


class CeleryClient:
    """A client that calls Celery directly, without HTTP."""

    def __init__(self, app: Any) -> None:
        self._app = app

    def submit(self, command: str = COMMAND) -> Any:
        """Send one task."""
        return self._app.send_task("peers.run", (command, TIMEOUT_SECONDS)).id

    def output(self, job: Any) -> str:
        """Poll until the result is stored."""
        while (meta := self._app.backend.get_task_meta(job))["status"] != "SUCCESS":
            time.sleep(LOOK_SECONDS)
        return str(meta["result"]["stdout"])


class DramatiqClient:
    """A client that calls Dramatiq directly, without HTTP, and waits for results in Redis."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def submit(self, command: str = COMMAND) -> Any:
        """Send one message."""
        return self._actor.send(command, TIMEOUT_SECONDS)

    def output(self, job: Any) -> str:
        """Block until the result is stored."""
        return str(job.get_result(block=True, timeout=60_000)["stdout"])


def counted(
    connect: Callable[[], Client],
) -> tuple[Callable[[], Client], Callable[[], int]]:
    """Wrap ``connect``: returns a maker of counting clients, and the count of all submissions."""
    made: list[_Counting] = []

    def make() -> Client:
        made.append(_Counting(connect()))
        return made[-1]

    return make, lambda: sum(client.count for client in made)


class _Counting:
    def __init__(self, client: Client) -> None:
        self.count = 0
        self._client = client
        self.output = client.output

    def submit(self, command: str = COMMAND) -> Any:
        self.count += 1
        return self._client.submit(command)
