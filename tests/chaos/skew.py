"""Hosts with wrong clocks: libfaketime shifts the wall clock of a process."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def library() -> Path | None:
    """Return the libfaketime that the ``test`` extra installs, or None where it has none."""
    package = importlib.util.find_spec("libfaketime")
    for folder in package.submodule_search_locations or () if package else ():
        if found := next(Path(folder).rglob("libfaketime.so.1"), None):
            return found
    return None


def environment(seconds: float) -> dict[str, str]:
    """Return variables that put a process's wall clock ahead; its monotonic clock stays true."""
    found = library()
    if found is None or not seconds:
        return {}
    return {
        "LD_PRELOAD": str(found),
        "FAKETIME": f"{seconds:+g}s",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
