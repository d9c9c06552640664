"""Publishers that go on through faults, and the account of what became of their tasks."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from tests.broker.faults.bench import Bench


class Load:
    """Threads that publish short tasks with Celery's own retries, as an app does."""

    def __init__(self, bench: Bench, *, publishers: int = 2, every_seconds: float = 0.05) -> None:
        self._bench = bench
        self._every_seconds = every_seconds
        self.published: set[str] = set()
        #: Tasks whose publish raised an error, with that: their messages may exist or not.
        self.refused: dict[str, str] = {}
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(f"p{number}",)) for number in range(publishers)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _run(self, name: str) -> None:
        number = 0
        while not self._stopped.wait(self._every_seconds):
            number += 1
            key = f"{name}-{number}"
            try:
                self._bench.send(key, 0.02)
            except Exception as error:
                self.refused[key] = repr(error)
            else:
                self.published.add(key)

    def await_more(self, count: int = 20) -> None:
        """Wait until ``count`` of the tasks that are published from now on were started."""
        before = set(self.published)
        self._bench.wait(lambda: len((self.published - before) & set(self._bench.runs())) >= count)


@dataclass(frozen=True)
class Account:
    """What became of a load, in numbers of tasks."""

    published: int
    refused: int
    run: int
    twice: int
    lost: int
    dead: int
    left: int

    @classmethod
    def of(cls, load: Load, bench: Bench) -> Account:
        """Wait until no message is left, then count."""
        bench.await_empty()
        runs = bench.runs("end")
        dead = len(bench.dead_letters())
        return cls(
            published=len(load.published),
            refused=len(load.refused),
            run=len(runs),
            twice=sum(count > 1 for count in bench.runs().values()),
            lost=len(load.published - set(runs)),
            dead=dead,
            left=len(bench.messages()),
        )
