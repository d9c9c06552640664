"""Writes of several threads that are combined into one."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from pymongo.errors import NotPrimaryError

from taskyard.errors import StoreUnavailable
from taskyard.store import together
from taskyard.store.together import Together
from tests.helpers import eventually


class Writes:
    """A write function that records its calls; each call returns when the test releases it."""

    def __init__(self) -> None:
        self.begun: list[list[str]] = []
        self.go_on = threading.Semaphore(0)
        #: Returns the error to raise for a write, if any.
        self.refuse: Callable[[Sequence[str]], Exception | None] = lambda _: None

    def __call__(self, items: Sequence[str]) -> None:
        self.begun.append(list(items))
        assert self.go_on.acquire(timeout=20)
        if error := self.refuse(items):
            raise error

    def go_on_for_good(self) -> None:
        for _ in range(100):
            self.go_on.release()


class Callers:
    """Threads that call the combined write, and their results."""

    def __init__(self, pool: ThreadPoolExecutor, writes: Writes) -> None:
        self._pool = pool
        self.write = Together(writes)

    def bring(self, *items: str) -> list[Future[None]]:
        """Write each item on a thread of its own."""
        return [self._pool.submit(self.write, item) for item in items]


@pytest.fixture
def writes() -> Writes:
    return Writes()


@pytest.fixture
def callers(writes: Writes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callers]:
    monkeypatch.setattr(together, "PATIENCE_SECONDS", 20)
    with ThreadPoolExecutor(8) as pool:
        yield Callers(pool, writes)
        writes.go_on_for_good()


def brought_while_one_is_written(callers: Callers, writes: Writes) -> list[Future[None]]:
    """Begin a write of ``a``, and have ``b``, ``c`` and ``d`` wait for it."""
    first = callers.bring("a")
    eventually(lambda: writes.begun == [["a"]])
    others = callers.bring("b", "c", "d")
    eventually(lambda: len(callers.write._waiting) == 3)
    return [*first, *others]


def test_the_first_is_written_at_once_and_alone(callers: Callers, writes: Writes) -> None:
    (done,) = callers.bring("a")
    eventually(lambda: writes.begun == [["a"]])
    writes.go_on.release()
    done.result(20)


def test_all_who_come_meanwhile_are_written_together(callers: Callers, writes: Writes) -> None:
    done = brought_while_one_is_written(callers, writes)
    writes.go_on.release()
    eventually(lambda: len(writes.begun) == 2)
    assert sorted(writes.begun[1]) == ["b", "c", "d"]
    done[0].result(20)
    assert not any(other.done() for other in done[1:]), "answered before it was written"
    writes.go_on.release()
    for other in done[1:]:
        other.result(20)


def test_nobody_writes_once_all_is_written(callers: Callers, writes: Writes) -> None:
    writes.go_on_for_good()
    for number in range(20):
        callers.bring(f"{number}")[0].result(20)
    assert sorted(item for group in writes.begun for item in group) == sorted(map(str, range(20)))


def test_one_that_is_refused_fails_no_other(callers: Callers, writes: Writes) -> None:
    writes.refuse = lambda items: ValueError("c is refused") if "c" in items else None
    writes_done = brought_while_one_is_written(callers, writes)
    writes.go_on_for_good()
    a, b, c, d = writes_done
    for accepted in (a, b, d):
        accepted.result(20)
    with pytest.raises(ValueError, match="c is refused"):
        c.result(20)


def test_all_of_a_group_learn_that_the_store_is_away(callers: Callers, writes: Writes) -> None:
    writes.refuse = lambda items: NotPrimaryError("away") if len(items) > 1 else None
    a, *others = brought_while_one_is_written(callers, writes)
    writes.go_on_for_good()
    a.result(20)
    for other in others:
        with pytest.raises(StoreUnavailable):
            other.result(20)
    assert len(writes.begun) == 2, "tried again while nobody answers"


def test_who_has_waited_long_writes_alone(
    callers: Callers, writes: Writes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(together, "PATIENCE_SECONDS", 0.01)
    done = callers.bring("slow")
    eventually(lambda: writes.begun == [["slow"]])
    done += callers.bring("b")
    eventually(lambda: writes.begun == [["slow"], ["b"]])
    writes.go_on_for_good()
    for each in done:
        each.result(20)


class Item:
    """Something that can be watched until nothing refers to it any more."""


def test_an_item_is_not_kept_once_it_is_written() -> None:
    """Output of an agent used to be kept until the garbage collector came: 40 MB of it."""
    item = Item()
    kept = weakref.ref(item)
    gc.disable()
    try:
        Together[Item](lambda items: None)(item)
        del item
        assert kept() is None
    finally:
        gc.enable()
