"""Ticks: a tick notes its mark once it has run to its end."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

import pytest

from taskyard.context import Platform
from taskyard.nudges import Act
from taskyard.scheduler import assignment, health, ticks
from taskyard.scheduler.schedule import TICKS
from tests import factories


@pytest.mark.parametrize("name", TICKS)
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


def test_one_that_fails_does_not_keep_the_others_from_their_turn(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ConnectionError("MongoDB is away")

    monkeypatch.setattr(health, "tick", fail)
    with pytest.raises(ConnectionError):
        ticks.run_all(platform, ["timeouts", "health", "assignment"])
    assert set(platform.store.locks.ticks()) == {"timeouts", "assignment"}


def test_without_anything_to_place_no_pass_is_run(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("a pass was run")

    monkeypatch.setattr(assignment, "tick", fail)
    ticks.run(platform, "assignment")
    assert "assignment" in platform.store.locks.ticks()


def test_the_sweep_waits_for_one_pass_whoever_asks_for_another_meanwhile(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """During each long pass, another pass is requested."""
    soon: list[Act] = []
    here = dataclasses.replace(platform, soon=soon.append)
    store, decide, passes = here.store, assignment.decide, []

    def decide_and_be_asked(*given: object, reserving: bool) -> assignment.Decision:
        passes.append(reserving)
        assert len(passes) < 5, "it goes on and on"
        decision = decide(store, here.settings, reserving=reserving)
        now = store.clock.now()
        if len(passes) < 3:
            hold = timedelta(seconds=10)
            assert not store.locks.acquire("another", now=now, hold=hold)
        return decision

    monkeypatch.setattr(assignment, "decide", decide_and_be_asked)
    store.jobs.submit([factories.queued_job()])
    ticks.run(here, "assignment")
    assert len(passes) == len(soon) == 1
    soon.pop()()
    assert passes == [True, False, False]
