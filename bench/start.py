"""Measure how long a user waits for the first commands: ``python bench/start.py``.

The commands are ``taskyard --help``, ``taskyard up`` until it is ready, and
``taskyard run -- true`` on the running platform.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.common import print_table, quantile, timed_ms
from bench.ours import environment, taskyard

PROGRAM = Path(sys.executable).with_name("taskyard")


def main() -> None:
    """Measure and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=10, help="of each command")
    arguments.add_argument("--starts", type=int, default=3)
    wanted = arguments.parse_args()
    times: dict[str, list[float]] = {
        "taskyard --help": [_ran(["--help"], dict(os.environ)) for _ in range(wanted.rounds)],
        "taskyard up, to ready": [],
        "taskyard run -- true": [],
    }
    for _ in range(wanted.starts):
        with tempfile.TemporaryDirectory() as folder:
            _start(Path(folder), wanted.rounds, times)
    rows = [
        [name, min(taken), quantile(taken, 0.5), max(taken)]
        for name, taken in ((name, [ms / 1000 for ms in taken]) for name, taken in times.items())
    ]
    print_table(["seconds", "best", "p50", "worst"], rows)


def _start(folder: Path, rounds: int, times: dict[str, list[float]]) -> None:
    up = taskyard(folder)
    times["taskyard up, to ready"].append(timed_ms(up.__enter__))
    try:
        env = environment(folder)
        _ran(["run", "--", "true"], env)
        times["taskyard run -- true"] += [_ran(["run", "--", "true"], env) for _ in range(rounds)]
    finally:
        up.__exit__(None, None, None)


def _ran(arguments: list[str], env: dict[str, str]) -> float:
    """Run the command and return its milliseconds."""
    command = [str(PROGRAM), *arguments]
    return timed_ms(
        lambda: subprocess.run(command, env=env, check=True, capture_output=True, timeout=60)
    )


if __name__ == "__main__":
    main()
