"""The program that a chaos job runs; it keeps a log of its own, outside of the platform.

It uses the standard library only, since it runs alone; the checker imports it for ``expected``.
Each log line is ``event job attempt pid wall-clock [code]``; ``alive`` and ``child`` are signs of
life.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable

#: The time between two signs of life.
STEP_SECONDS = 0.1

#: A child that nobody kills ends after this time, so that a failed run leaves no processes behind.
CHILD_SECONDS = 120.0


def expected(job_id: str, attempt: int, stream: str, size: int) -> str:
    """Return what this attempt prints on the stream: ``size`` ASCII characters, numbered lines."""
    line = f"{job_id}.{attempt} {stream} "
    count = size // (len(line) + 8) + 1
    return "".join(f"{line}{number:07d}\n" for number in range(count))[:size]


def main(arguments: list[str]) -> int:
    """Log, print and live as the arguments say; returns the exit code."""
    wanted = _parser().parse_args(arguments)
    job_id, attempt = os.environ["TASKYARD_JOB_ID"], int(os.environ["TASKYARD_ATTEMPT"])
    log = os.open(wanted.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    run = os.getpid()

    def note(event: str, *more: object) -> None:
        words = (event, job_id, attempt, run, f"{time.time():.3f}", *more)
        os.write(log, (" ".join(map(str, words)) + "\n").encode())

    note("start")
    if wanted.ignore_term:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if wanted.setsid_child:
        _leave_child(note)
    seconds = wanted.seconds[min(attempt, len(wanted.seconds)) - 1]
    texts = {
        1: expected(job_id, attempt, "stdout", wanted.stdout_bytes),
        2: expected(job_id, attempt, "stderr", wanted.stderr_bytes),
    }
    _live(seconds, texts, note)
    note("end", wanted.exit_code)
    return int(wanted.exit_code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("log")
    parser.add_argument("--seconds", type=_seconds, default=(0.0,), help="of attempt 1, 2, ...")
    parser.add_argument("--exit-code", type=int, default=0)
    parser.add_argument("--stdout-bytes", type=int, default=0)
    parser.add_argument("--stderr-bytes", type=int, default=0)
    parser.add_argument("--ignore-term", action="store_true")
    parser.add_argument("--setsid-child", action="store_true")
    return parser


def _seconds(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


def _leave_child(note: Callable[..., None]) -> None:
    """Leave a child in a session of its own, which no signal to the job's group reaches."""
    if os.fork():
        return
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(nothing, fd)
    until = time.monotonic() + CHILD_SECONDS
    while time.monotonic() < until:
        note("child")
        time.sleep(STEP_SECONDS)
    os._exit(0)


def _live(seconds: float, texts: dict[int, str], note: Callable[..., None]) -> None:
    """Print the texts in equal pieces over the time, and log a sign of life after each piece."""
    steps = max(1, round(seconds / STEP_SECONDS))
    began = time.monotonic()
    for step in range(steps):
        for fd, text in texts.items():
            _write_all(fd, text[len(text) * step // steps : len(text) * (step + 1) // steps])
        time.sleep(max(0.0, began + seconds * (step + 1) / steps - time.monotonic()))
        note("alive")


def _write_all(fd: int, text: str) -> None:
    left = text.encode()
    while left:
        left = left[os.write(fd, left) :]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
