"""Hosts whose clocks are wrong: libfaketime in front of a process's wall clock."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def library() -> Path | None:
    """The library that the ``test`` extra brings, or None where it has none."""
    package = importlib.util.find_spec("libfaketime")
    for folder in package.submodule_search_locations or () if package else ():
        if found := next(Path(folder).rglob("libfaketime.so.1"), None):
            return found
    return None


def environment(seconds: float) -> dict[str, str]:
    """What makes a process see its wall clock so many seconds ahead; durations stay true."""
    found = library()
    if found is None or not seconds:
        return {}
    return {
        "LD_PRELOAD": str(found),
        "FAKETIME": f"{seconds:+g}s",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
