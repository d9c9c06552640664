"""A process that comes too late for most messages leaves the next ones to the others, briefly."""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.database import Database

from taskyard.broker import watcher as watcher_module
from taskyard.broker.rivals import LONGEST_SECONDS, Rivals
from taskyard.broker.stored import AT_ONCE
from taskyard.broker.watcher import Watcher
from taskyard.embedded import EmbeddedServer
from tests.helpers import eventually


def after(claims: Iterable[bool]) -> Rivals:
    rivals = Rivals()
    for won in claims:
        rivals.note(won=won)
    return rivals


def pauses_of(rivals: Rivals) -> set[float]:
    return {rivals.pause_seconds() for _ in range(200)}


@pytest.mark.parametrize(
    "claims",
    [
        pytest.param([], id="it is new"),
        pytest.param([True] * 50, id="it is alone"),
        pytest.param([False, True, True] * 20, id="it wins two of three"),
        pytest.param([False, False, True, True] * 20, id="it wins two in turn"),
        pytest.param([False] * 50 + [True] * 8, id="it wins again"),
    ],
)
def test_who_finds_messages_does_not_pause(claims: list[bool]) -> None:
    assert after(claims).pause_seconds() == 0


def test_who_finds_nothing_pauses_for_a_time_that_differs_and_has_a_limit() -> None:
    pauses = pauses_of(after([False] * 200))
    assert len(pauses) > 1
    assert max(pauses) <= LONGEST_SECONDS


def test_the_more_rivals_the_longer_the_pauses() -> None:
    among = [after([True, *[False] * (count - 1)] * 50) for count in (2, 4, 8, 16)]
    longest = [max(pauses_of(rivals)) for rivals in among]
    assert longest[0] < longest[1] < longest[2] < longest[3]


@pytest.mark.parametrize(("claimed", "pauses"), [(1, False), (0, True)], ids=["wins", "is late"])
def test_the_stream_is_not_asked_while_it_pauses(
    monkeypatch: pytest.MonkeyPatch, mongod: EmbeddedServer, claimed: int, pauses: bool
) -> None:
    slept: list[float] = []
    clock = SimpleNamespace(sleep=slept.append, monotonic=time.monotonic)
    monkeypatch.setattr(watcher_module, "time", clock)
    with MongoClient[dict[str, Any]](mongod.uri) as client:
        database: Database[dict[str, Any]] = client.broker_rivals
        watcher = Watcher(lambda: database, "news")
        heard: list[str | None] = []

        def wake(queue: str | None, *_: object, **__: object) -> bool:
            watcher.claimed(claimed, all_seen=True)
            heard.append(queue)
            return True

        def has_heard(number: int) -> bool:
            return heard.count("celery") == number

        watcher.subscribe("test", wake)
        eventually(lambda: watcher.follows)
        for number in range(1, 31):
            database.news.insert_one({"queue": "celery", "visibleAt": AT_ONCE})
            eventually(partial(has_heard, number))
        paused = max(slept) > watcher_module._GATHER_SECONDS
        watcher.unsubscribe("test")
        client.drop_database(database)
    assert paused is pauses
