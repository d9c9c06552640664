"""What the benchmarks share: servers, processes with what they cost, HTTP, and tables."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
from tests.helpers import free_port

from taskyard.embedded import dies_with_us

ROOT = Path(__file__).parents[1]

#: A connection that was idle for longer is made anew: servers close theirs after 30 s.
_KEPT_SECONDS = 10.0

#: Nothing that is measured takes longer than this.
PATIENCE_SECONDS = 300.0


@contextlib.contextmanager
def redis_server(folder: Path) -> Iterator[tuple[int, int]]:
    """A Redis of our own that keeps what it is told: its port and its process."""
    program = shutil.which("redis-server")
    if program is None:
        raise SystemExit("redis-server is not installed: apt-get install redis-server")
    port = free_port()
    options = {"port": port, "bind": "127.0.0.1", "dir": folder, "appendonly": "yes", "save": ""}
    flags = [part for option, value in options.items() for part in (f"--{option}", str(value))]
    process = subprocess.Popen([program, *flags], stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: _listens(port), "redis-server listens")
        yield port, process.pid
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def started(
    command: Sequence[str], env: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the block, or with us."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*dies_with_us(), *command],
            cwd=ROOT,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                for one in family(process.pid):
                    one.kill()
                process.wait()


def wait_until(check: Callable[[], Any], what: str, pause_seconds: float = 0.02) -> None:
    """Wait for a condition; ends the benchmark when it never comes true."""
    until = time.monotonic() + PATIENCE_SECONDS
    while not check():
        if time.monotonic() > until:
            raise SystemExit(f"never came true: {what}")
        time.sleep(pause_seconds)


class Caller:
    """One client of an HTTP API, on one connection."""

    def __init__(self, url: str, token: str = "") -> None:
        address = urlsplit(url)
        assert address.hostname is not None
        self._connection = http.client.HTTPConnection(
            address.hostname, address.port, timeout=PATIENCE_SECONDS
        )
        self._headers = {"Content-Type": "application/json"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._used_at = 0.0

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """The answer's JSON."""
        return json.loads(self.read(method, path, body))

    def read(self, method: str, path: str, body: Any = None) -> bytes:
        """The answer's body; anything but a success ends the benchmark."""
        if time.monotonic() > self._used_at + _KEPT_SECONDS:
            self._connection.close()
        sent = None if body is None else json.dumps(body).encode()
        self._connection.request(method, path, sent, self._headers)
        answer = self._connection.getresponse()
        text = answer.read()
        self._used_at = time.monotonic()
        if answer.status >= 300:
            raise SystemExit(f"{method} {path}: {answer.status} {text[:500]!r}")
        return text

    def close(self) -> None:
        """Give the connection back."""
        self._connection.close()


def family(pid: int) -> list[psutil.Process]:
    """A process and all below it."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def cpu_seconds(processes: Iterable[psutil.Process]) -> float:
    """What they have used, with their children that have ended."""
    return sum(sum(process.cpu_times()[:4]) for process in processes)


def peak_mb(processes: Iterable[psutil.Process]) -> float:
    """The most memory that each of them ever had, added up."""
    total_kb = 0
    for process in processes:
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{process.pid}/status").read_text()
            total_kb += int(status.partition("VmHWM:")[2].split()[0])
    return total_kb / 1024


def timed_ms(act: Callable[[], Any]) -> float:
    """How long it takes."""
    began = time.perf_counter()
    act()
    return (time.perf_counter() - began) * 1000


def quantile(values: Iterable[float], part: float) -> float:
    """The value that so large a part of them does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else float("nan")


def median(values: Iterable[float]) -> float:
    """The middle of them, or not a number when there is none."""
    known = list(values)
    return statistics.median(known) if known else float("nan")


def print_table(titles: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Columns as wide as what is in them; numbers are right-aligned."""
    cells = [list(titles), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(titles))]
    for row in cells:
        first, *others = (
            (cell.ljust(width) if column == 0 else cell.rjust(width))
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join([first, *others]).rstrip())


def _cell(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    if value != value:  # not a number: it was not measured
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _listens(port: int) -> bool:
    import socket

    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
