"""Helpers that the benchmarks share: servers, process costs, an HTTP client, and tables."""

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

from taskyard.addresses import free_port
from taskyard.embedded import dies_with_us

ROOT = Path(__file__).parents[1]

#: A connection that was idle for longer is opened anew: the servers close idle ones after 30 s.
_KEPT_SECONDS = 10.0

#: How long to wait for anything before the benchmark gives up.
PATIENCE_SECONDS = 300.0


@contextlib.contextmanager
def redis_server(folder: Path) -> Iterator[tuple[int, int]]:
    """Run a Redis that persists its data (append-only file); yields its port and process id."""
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
    """Run a process that ends with the block, or when this process dies."""
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
    """Wait for a condition; end the benchmark when it does not come true in time."""
    until = time.monotonic() + PATIENCE_SECONDS
    while not check():
        if time.monotonic() > until:
            raise SystemExit(f"never came true: {what}")
        time.sleep(pause_seconds)


class Caller:
    """A client of an HTTP API that keeps one connection."""

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
        """Send a request and return the response's JSON."""
        return json.loads(self.read(method, path, body))

    def read(self, method: str, path: str, body: Any = None) -> bytes:
        """Send a request and return the response's body; an error ends the benchmark."""
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
        """Close the connection."""
        self._connection.close()


def family(pid: int) -> list[psutil.Process]:
    """Return a process with all its descendants; nothing if the process has ended."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def cpu_seconds(processes: Iterable[psutil.Process]) -> float:
    """Return the CPU time that the processes and their ended children have used."""
    return sum(sum(process.cpu_times()[:4]) for process in processes)


def peak_mb(processes: Iterable[psutil.Process]) -> float:
    """Return the sum of the processes' peak memory (VmHWM)."""
    total_kb = 0
    for process in processes:
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{process.pid}/status").read_text()
            total_kb += int(status.partition("VmHWM:")[2].split()[0])
    return total_kb / 1024


def timed_ms(act: Callable[[], Any]) -> float:
    """Return how long the call takes."""
    began = time.perf_counter()
    act()
    return (time.perf_counter() - began) * 1000


def quantile(values: Iterable[float], part: float) -> float:
    """Return a quantile of the values (part 0.99: the p99); NaN when there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else float("nan")


def median(values: Iterable[float]) -> float:
    """Return the median of the values; NaN when there are none."""
    known = list(values)
    return statistics.median(known) if known else float("nan")


def print_table(titles: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table: the first column left-aligned, the others right-aligned."""
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
    if value != value:  # NaN: not measured
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _listens(port: int) -> bool:
    import socket

    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
