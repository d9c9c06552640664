"""Clients of the other sides."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from bench.common import Caller
from bench.side import COMMAND, Client

TIMEOUT_SECONDS = 300.0

#: Between two looks of a client that has nothing better than to look.
LOOK_SECONDS = 0.001


class FlaskClient:
    """Over HTTP; one request waits for the end and brings the output."""

    def __init__(self, url: str) -> None:
        self._caller = Caller(url)

    def submit(self, command: str = COMMAND) -> Any:
        """One job in one request."""
        return self._caller.call("POST", "/jobs", {"command": command})["jobId"]

    def output(self, job: Any) -> str:
        """Asks again when the request's own wait is over."""
        while True:
            answer = self._caller.call("GET", f"/jobs/{job}?wait=60")
            if answer["status"] in ("SUCCESS", "FAILURE"):
                return str(answer["stdout"])


class CeleryClient:
    """In this process, without HTTP."""

    def __init__(self, app: Any) -> None:
        self._app = app

    def submit(self, command: str = COMMAND) -> Any:
        """One task."""
        return self._app.send_task("peers.run", (command, TIMEOUT_SECONDS)).id

    def output(self, job: Any) -> str:
        """Looks until the result is there."""
        while (meta := self._app.backend.get_task_meta(job))["status"] != "SUCCESS":
            time.sleep(LOOK_SECONDS)
        return str(meta["result"]["stdout"])


class DramatiqClient:
    """In this process, without HTTP; Redis tells of the result."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def submit(self, command: str = COMMAND) -> Any:
        """One message."""
        return self._actor.send(command, TIMEOUT_SECONDS)

    def output(self, job: Any) -> str:
        """Waits until the result is there."""
        return str(job.get_result(block=True, timeout=60_000)["stdout"])


def counted(
    connect: Callable[[], Client],
) -> tuple[Callable[[], Client], Callable[[], int]]:
    """Clients whose submissions are counted."""
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
