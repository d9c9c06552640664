"""Kills workers at random moments under load, and counts lost and repeated tasks.

``python -m tests.broker.kill --rounds 20`` does so at length for every pool and loop. Each round
publishes tasks, lets two workers run some of them, kills one with ``kill -9``, starts another in
its place, and waits until every message was acknowledged.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from dataclasses import dataclass
from pathlib import Path

from taskyard.embedded import EmbeddedServer
from tests.broker.celery_process import wait
from tests.broker.site import Site, Worker

#: Short, so that a round need not wait long for the messages that the killed worker held.
LEASE_SECONDS = 2.0

SLOTS = 2
PREFETCH = 2
TASK_SECONDS = 0.02


@dataclass(frozen=True)
class Round:
    """The counts of one round."""

    published: int
    run: int
    #: Runs that the kill cut off.
    cut: int
    #: Repeated runs of tasks that had ended: their acknowledgement was not written, or came late.
    again: int
    lost: int
    dead_letters: int


class Killing:
    """Two workers with the same pool and loop; each round kills one and replaces it."""

    def __init__(self, site: Site, pool: str, *, blocking: bool = False, seed: int = 0) -> None:
        self._site = site
        self._pool = pool
        self._blocking = blocking
        self._random = random.Random(seed)
        self._number = 0
        self._workers = [self._start(), self._start()]
        for worker in self._workers:
            worker.await_ready()

    @property
    def slots(self) -> int:
        """How many tasks one worker runs at once."""
        return self._workers[0].slots

    def round(self, tasks: int) -> Round:
        """Publish ``tasks`` tasks, kill a worker while they run, and count how they ended."""
        self._number += 1
        prefix = f"round{self._number}."
        for number in range(tasks):
            self._site.send("work", f"{prefix}{number}", TASK_SECONDS)
        moment = self._random.randrange(1, tasks * 3 // 4)
        wait(lambda: len(self._site.runs(prefix)) >= moment, self._site.lines)
        self._random.shuffle(self._workers)
        self._workers.pop().kill()
        self._workers.append(self._start())
        self._site.await_empty()
        runs = self._site.runs(prefix)
        ended = [key for key in self._site.told("end") if key.startswith(prefix)]
        run = len(set(ended))
        return Round(
            published=tasks,
            run=run,
            cut=runs.total() - len(ended),
            again=len(ended) - run,
            lost=tasks - run,
            dead_letters=len(self._site.dead_letters()),
        )

    def stop(self) -> None:
        """End both workers."""
        for worker in self._workers:
            worker.kill()

    def _start(self) -> Worker:
        return self._site.start(
            pool=self._pool,
            blocking=self._blocking,
            concurrency=SLOTS,
            worker_prefetch_multiplier=PREFETCH,
        )


def main() -> None:
    """Print a table with a line for each pool and loop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print("pool     loop     rounds published      run  twice: cut off  after its end  lost  dead")
    with tempfile.TemporaryDirectory() as folder, EmbeddedServer(Path(folder) / "db") as server:
        for pool in ("prefork", "threads", "solo"):
            for blocking in (False, True):
                home = Path(folder) / f"{pool}{blocking}"
                site = Site(home, server.uri, lease_seconds=LEASE_SECONDS)
                killing = Killing(site, pool, blocking=blocking, seed=given.seed)
                rounds = [killing.round(given.tasks) for _ in range(given.rounds)]
                killing.stop()
                site.close()
                print(
                    f"{pool:8} {'blocking' if blocking else 'event':8} {len(rounds):6}"
                    f" {sum(one.published for one in rounds):9}"
                    f" {sum(one.run for one in rounds):8}"
                    f" {sum(one.cut for one in rounds):15}"
                    f" {sum(one.again for one in rounds):14}"
                    f" {sum(one.lost for one in rounds):5}"
                    f" {rounds[-1].dead_letters:5}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
