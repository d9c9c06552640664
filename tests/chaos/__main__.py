"""``python -m tests.chaos``: start a platform, inject faults, and check that nothing was lost.

Without a name, the mixed run: every kind of job under every kind of fault.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace

from tests.chaos import mixed, plan, scoreboard, skew
from tests.chaos.checker import Violation
from tests.chaos.cluster import Topology
from tests.chaos.experiments import EXPERIMENTS
from tests.chaos.run import arena, judge
from tests.chaos.scoreboard import Row


def main() -> int:
    """Run what the arguments name; return 1 if a rule was broken or a row failed."""
    wanted = _parser().parse_args()
    # On SIGTERM too, end the processes and unmount the disk.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print(f"{wanted.name}, seed {wanted.seed}", flush=True)
    if wanted.name in EXPERIMENTS:
        rows, violations = _experiment(wanted)
    else:
        rows, violations = _mixed(wanted)
    for violation in violations:
        print(violation)
    print(scoreboard.table(rows))
    print(f"{wanted.name}, seed {wanted.seed}: {len(violations)} violations")
    return int(bool(violations) or not all(row.passed for row in rows))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("name", nargs="?", default="mixed", choices=(*mixed.MIXES, *EXPERIMENTS))
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--lease", type=float, default=15, help="seconds; 15 as in production")
    parser.add_argument("--rounds", type=int, help="of an experiment")
    mix = parser.add_argument_group("of a mixed run")
    mix.add_argument("--minutes", type=float, default=1)
    mix.add_argument("--rate", type=float, default=4, help="submissions a second")
    mix.add_argument("--fault-every", type=float, help="seconds")
    mix.add_argument("--faults", help=f"comma-separated, of: {', '.join(plan.KINDS)}")
    mix.add_argument("--members", type=int, choices=(1, 3), help="mongods")
    mix.add_argument("--agents", type=int, default=3)
    return parser


def _experiment(wanted: argparse.Namespace) -> tuple[Sequence[Row], Sequence[Violation]]:
    experiment = EXPERIMENTS[wanted.name]
    with arena(replace(experiment.topology, lease=wanted.lease)) as running:
        rounds = wanted.rounds or experiment.rounds
        rows = experiment.run(running, rounds, random.Random(wanted.seed))
        found, violations = judge(running)
    checked = scoreboard.checked(violations, n=len(found.accepted), lease=wanted.lease)
    return [*rows, *checked], violations


def _mixed(wanted: argparse.Namespace) -> tuple[Sequence[Row], Sequence[Violation]]:
    mix = mixed.MIXES[wanted.name]
    planned = plan.make(
        wanted.seed,
        seconds=wanted.minutes * 60,
        jobs_per_second=wanted.rate,
        kinds=tuple(wanted.faults.split(",")) if wanted.faults else mix.kinds,
        fault_every=wanted.fault_every or mix.fault_every,
        lease=wanted.lease,
        output_bytes=mix.output_bytes,
    )
    print(f"{len(planned.submissions)} submissions, {len(planned.faults)} faults", flush=True)
    topology = Topology(
        agents=wanted.agents,
        members=wanted.members or mix.members,
        lease=wanted.lease,
        skew=mix.skew,
    )
    if mix.skew and skew.library() is None:
        sys.exit("libfaketime is missing: pip install libfaketime")
    with arena(topology) as running:
        return mixed.mixed(running, planned)


if __name__ == "__main__":
    sys.exit(main())
