"""Time and ids for the state machine that are the same in every replay of an example."""

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
    """A clock that moves only when the state machine advances it."""

    def now(self) -> Any:
        return clock_module.to_milliseconds(START + self.ahead)


class Numbers:
    """Stands in for ``secrets``, with ascending numbers in place of random ids."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin again at 1, for a new example."""
        self._next = itertools.count(1)

    def token_hex(self, size: int) -> str:
        return f"{next(self._next):0{2 * size}x}"


@pytest.fixture
def clock() -> TestClock:
    return FrozenClock(lambda: START)


@pytest.fixture
def numbers(monkeypatch: pytest.MonkeyPatch) -> Numbers:
    """Number the ids of jobs and leases, so that equal examples have equal ids, in equal order."""
    made = Numbers()
    monkeypatch.setattr(ids, "secrets", made)
    return made
