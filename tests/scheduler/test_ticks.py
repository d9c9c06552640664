"""A tick leaves its mark when it has run to its end."""

from __future__ import annotations

import pytest

from taskyard.context import Platform
from taskyard.scheduler import health, ticks


@pytest.mark.parametrize("name", ["timeouts", "assignment", "health", "retention", "statistics"])
def test_its_mark_tells_when_it_began_and_what_it_did(platform: Platform, name: str) -> None:
    began = platform.store.clock.now()
    ticks.run(platform, name)
    (mark,) = platform.store.locks.tick_marks()
    assert mark.name == name
    assert mark.at >= began
    assert mark.ms is not None
    assert mark.report


def test_one_that_fails_is_not_marked(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ConnectionError("MongoDB is away")

    monkeypatch.setattr(health, "tick", fail)
    with pytest.raises(ConnectionError):
        ticks.run(platform, "health")
    assert not platform.store.locks.tick_marks()
