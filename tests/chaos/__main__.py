"""``python -m tests.chaos``: start a platform, do it harm, and check that nothing was lost."""

from __future__ import annotations

import argparse
import random
import sys

from tests.chaos import plan as planning
from tests.chaos import scoreboard
from tests.chaos.cluster import Topology
from tests.chaos.mixed import mixed
from tests.chaos.run import arena


def main() -> int:
    """Run what the arguments name; 1 when a rule was broken or a row failed."""
    wanted = _parser().parse_args()
    plan = planning.make(
        wanted.seed,
        seconds=wanted.seconds,
        jobs_per_second=wanted.rate,
        kinds=_kinds(wanted),
        fault_every=wanted.fault_every,
        lease=wanted.lease,
        output_bytes=wanted.output_bytes,
    )
    print(f"seed {plan.seed}: {len(plan.submissions)} submissions, {len(plan.faults)} faults")
    with arena(_topology(wanted)) as running:
        rows, violations = mixed(running, plan)
    for violation in violations:
        print(violation)
    print(scoreboard.table(rows))
    print(f"seed {plan.seed}: {len(violations)} violations")
    return int(bool(violations) or not all(row.passed for row in rows))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--lease", type=float, default=15)
    parser.add_argument("--members", type=int, default=1, choices=(1, 3))
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rate", type=float, default=4, help="submissions a second")
    parser.add_argument("--fault-every", type=float, default=5, help="seconds")
    parser.add_argument("--output-bytes", type=int, default=4000, help="of a job, at most")
    parser.add_argument(
        "--faults", help="comma-separated; default all: " + ", ".join(planning.KINDS)
    )
    for role, count in (("webs", 2), ("beats", 2), ("schedulers", 2), ("agents", 3)):
        parser.add_argument(f"--{role}", type=int, default=count)
    return parser


def _kinds(wanted: argparse.Namespace) -> tuple[str, ...]:
    if wanted.faults is None:
        return planning.KINDS
    return tuple(kind for kind in wanted.faults.split(",") if kind)


def _topology(wanted: argparse.Namespace) -> Topology:
    return Topology(
        webs=wanted.webs,
        beats=wanted.beats,
        schedulers=wanted.schedulers,
        agents=wanted.agents,
        members=wanted.members,
        lease=wanted.lease,
    )


if __name__ == "__main__":
    sys.exit(main())
