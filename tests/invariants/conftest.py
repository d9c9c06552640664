"""The state machine's world: time and identifiers that are the same in every replay."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import Any

import pytest

from taskyard import clock as clock_module
from taskyard import ids
from tests.conftest import TestClock

START = datetime(2026, 11, 24, 8, 0, 0, tzinfo=UTC)


class FrozenClock(TestClock):
    """Time passes when the machine says so, and not otherwise."""

    def now(self) -> Any:
        return clock_module.to_milliseconds(START + self.ahead)


class Numbers:
    """Identifiers in the order in which they are asked for, as ``secrets`` gives random ones."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin anew, with a new example."""
        self._next = itertools.count(1)

    def token_hex(self, size: int) -> str:
        return f"{next(self._next):0{2 * size}x}"


@pytest.fixture
def clock() -> TestClock:
    return FrozenClock(lambda: START)


@pytest.fixture
def numbers(monkeypatch: pytest.MonkeyPatch) -> Numbers:
    """What jobs and leases are called; equal examples give equal names, so equal orders."""
    made = Numbers()
    monkeypatch.setattr(ids, "secrets", made)
    return made
