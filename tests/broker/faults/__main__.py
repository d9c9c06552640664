"""``python -m tests.broker.faults``: random faults for a minute, and what became of the load."""

from __future__ import annotations

import argparse
import dataclasses
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.broker.faults.bench import Bench, Worker
from tests.broker.faults.load import Account, Load
from tests.replica_set import ReplicaSet, fail_command, heal_commands

#: The app name of the workers' clients, by which the server knows whose commands are to fail.
APP = "broken-workers"

LEASE_SECONDS = 10
COMMANDS = ["findAndModify", "find", "update", "delete", "getMore", "aggregate"]
WRITES = ["findAndModify", "update", "delete"]
CODES = [10107, 189, 11600, 50, 262]


class Faults:
    """The faults that may happen. After each of them the load goes on before the next one."""

    def __init__(self, replica_set: ReplicaSet, bench: Bench, choose: random.Random) -> None:
        self._set = replica_set
        self._bench = bench
        self._choose = choose
        #: How many tasks may run twice: as many as workers held messages when a fault struck them.
        self.excused = 0

    def step_down(self) -> None:
        self._set.step_down()

    def kill_primary(self) -> None:
        killed = self._set.await_primary()
        killed.signal(signal.SIGKILL)
        self._set.await_primary()
        killed.start()

    def fail_commands(self) -> None:
        error = self._choose.choice(CODES)
        self._fail(self._choose.sample(COMMANDS, 3), errorCode=error)

    def cut_connections(self) -> None:
        self._fail(self._choose.sample(COMMANDS, 3), closeConnection=True)

    def lose_answers(self) -> None:
        self._fail(WRITES, writeConcernError={"code": 64, "errmsg": "no majority"})

    def kill_worker(self) -> None:
        """Kill all processes of a worker, and start a new one in its place."""
        worker = self._victim()
        self.excused += self._held()
        worker.kill()
        self.start_worker()

    def stop_worker(self) -> None:
        """Stop a worker for longer than a lease."""
        worker = self._victim()
        self.excused += self._held()
        worker.signal_all(signal.SIGSTOP)
        time.sleep(1.5 * LEASE_SECONDS)  # the fault lasts so long
        worker.signal_all(signal.SIGCONT)

    def start_worker(self) -> None:
        self._bench.start(self._set.uri, client_options={"appname": APP})

    def _victim(self) -> Worker:
        return self._choose.choice([w for w in self._bench.workers if w.process.poll() is None])

    def _held(self) -> int:
        return sum(message.get("lease") is not None for message in self._bench.messages())

    def _fail(self, commands: list[str], **data: object) -> None:
        with self._set.client() as admin:
            fail_command(admin, commands=commands, times=10, appName=APP, **data)
            time.sleep(1)  # the fault lasts so long, unless it is used up before
            self._set.await_primary()
            heal_commands(admin)


def main() -> int:
    """Run and print; return 1 if anything was lost or restarted, or ran twice without excuse."""
    parser = argparse.ArgumentParser(prog="python -m tests.broker.faults", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--workers-too", action="store_true", help="kill and stop workers as well")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}")
    happened: Counter[str] = Counter()
    with (
        tempfile.TemporaryDirectory() as folder,
        ReplicaSet(Path(folder) / "set") as replica_set,
        Bench(Path(folder), replica_set.uri, lease_seconds=LEASE_SECONDS) as bench,
    ):
        choose = random.Random(arguments.seed)
        faults = Faults(replica_set, bench, choose)
        for _ in range(2):
            faults.start_worker()
        table = choices(faults, workers_too=arguments.workers_too)
        with Load(bench) as load:
            ends = time.monotonic() + arguments.seconds
            while time.monotonic() < ends:
                load.await_more()
                fault = choose.choice(table)
                happened[fault.__name__] += 1
                fault()
            load.await_more()
        account = Account.of(load, bench)
        restarted = [
            w for w in bench.workers if w.process.poll() is None and not w.never_restarted()
        ]
    for name, count in happened.most_common():
        print(f"{name:>16} {count:6}")
    print()
    for name, value in dataclasses.asdict(account).items():
        print(f"{name:>16} {value:6}")
    print(f"{'excused':>16} {faults.excused:6}")
    print(f"{'restarted':>16} {len(restarted):6}")
    sound = not (account.lost or account.dead or account.left or restarted)
    return 0 if sound and account.twice <= faults.excused + account.refused else 1


def choices(faults: Faults, *, workers_too: bool) -> list[Callable[[], None]]:
    """Return the faults to choose from."""
    database = [
        faults.step_down,
        faults.kill_primary,
        faults.fail_commands,
        faults.cut_connections,
        faults.lose_answers,
    ]
    return [*database, faults.kill_worker, faults.stop_worker] if workers_too else database


if __name__ == "__main__":
    sys.exit(main())
