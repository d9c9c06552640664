"""Followers of a job's output over HTTP, which measure how late each printed line arrives."""

from __future__ import annotations

import http.client
import json
import threading
import time
from urllib.parse import urlsplit

#: The command of a job that prints the time, in nanoseconds since the epoch, ``count`` times.
STAMPS = "i=0; while [ $i -lt {count} ]; do date +%s%N; sleep {pause}; i=$((i+1)); done"


class Follower(threading.Thread):
    """A thread that reads a job's events until the job has ended."""

    def __init__(self, url: str, token: str, job_id: str) -> None:
        super().__init__(daemon=True)
        self.delays_ms: list[float] = []
        self.ended = False
        address = urlsplit(url)
        assert address.hostname is not None
        self._connection = http.client.HTTPConnection(address.hostname, address.port, timeout=60)
        self._path = f"/api/jobs/events?jobId={job_id}"
        self._headers = {"Authorization": f"Bearer {token}"}

    def run(self) -> None:
        """Read the event stream line by line; each event is a name and its data."""
        try:
            self._connection.request("GET", self._path, headers=self._headers)
            answer, name = self._connection.getresponse(), b""
            while not self.ended and (line := answer.readline()):
                field, _, value = line.strip().partition(b": ")
                if field == b"event":
                    name = value
                elif field == b"data":
                    self._hear(name, json.loads(value))
        except (OSError, http.client.HTTPException):
            return  # not served; the benchmark counts such followers
        finally:
            self._connection.close()

    def _hear(self, name: bytes, data: dict[str, str]) -> None:
        self.ended = name == b"end"
        if name == b"stdout":
            now = time.time_ns()
            self.delays_ms += [(now - int(stamp)) / 1e6 for stamp in data["data"].split()]
