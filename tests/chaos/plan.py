"""The plan of a run: which jobs are submitted when, and which faults strike when.

Pure functions: one seed gives one plan, so that a run can be played again.
"""

from __future__ import annotations

import random
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

JOB = Path(__file__).with_name("job.py")

#: How long faults last: in seconds, or in leases for faults that must outlast a lease.
SECONDS = {
    "scheduler-pause": 4.0,
    "primary-kill": 2.0,
    "primary-pause": 4.0,
    "disk-full": 4.0,
    "not-primary": 2.0,
    "reset": 2.0,
    "no-majority": 2.0,
}
LEASES = {"agent-pause": 3.0, "agent-cut-off": 2.0, "agent-refused": 2.0}

#: The faults by what they strike.
DATABASE = ("step-down", "primary-kill", "primary-pause")
COMMANDS = ("not-primary", "reset", "no-majority")
PROCESSES = ("web-kill", "beat-kill", "scheduler-kill", "scheduler-pause")
AGENTS = (
    *("agent-kill", "agent-group-kill", "keeper-kill"),
    *("agent-pause", "agent-cut-off", "agent-refused"),
)
KINDS = (*PROCESSES, *AGENTS, *COMMANDS, *DATABASE, "broker-wipe", "disk-full")


@dataclass(frozen=True, kw_only=True)
class JobPlan:
    """One job: what it does, and so what the checker expects."""

    seconds: tuple[float, ...] = (0.5,)
    exit_code: int = 0
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    ignores_term: bool = False
    setsid_child: bool = False
    #: Further fields of the request, such as ``timeoutMs``.
    wanted: Mapping[str, Any] = field(default_factory=dict)

    def request(self, name: str, log: Path) -> dict[str, Any]:
        """Return the request's body; ``name`` identifies the job to the checker."""
        flags = [("--ignore-term", self.ignores_term), ("--setsid-child", self.setsid_child)]
        words = [
            *(sys.executable, "-I", "-S", str(JOB), str(log)),
            *("--seconds", ",".join(f"{second:g}" for second in self.seconds)),
            *("--exit-code", str(self.exit_code)),
            *("--stdout-bytes", str(self.stdout_bytes)),
            *("--stderr-bytes", str(self.stderr_bytes)),
            *(flag for flag, given in flags if given),
        ]
        needs = {"requiredCpu": 0.5, "requiredRamMb": 64, "maxRetries": 20}
        # ``exec``, because the shell would not ignore the SIGTERM that the job ignores.
        command = f"exec {shlex.join(words)}"
        return {"command": command, **needs, **self.wanted, "env": {"CHAOS_JOB": name}}


@dataclass(frozen=True, kw_only=True)
class Submission:
    """One request under one Idempotency-Key: a job, or a list of them."""

    key: str
    at: float
    jobs: tuple[JobPlan, ...]
    as_list: bool = False
    #: Whether it is sent again after its answer, as by a client that lost the answer.
    twice: bool = False
    #: Seconds from its acceptance to the cancel of its jobs; None means never.
    cancel_after: float | None = None


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A fault that strikes at a time and lasts a while (0: it is over at once)."""

    at: float
    kind: str
    #: Which of several targets it strikes, modulo their number.
    which: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        lasting = f" for {self.seconds:g} s" if self.seconds else ""
        return f"{self.at:7.2f} s  {self.kind} #{self.which}{lasting}"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that a seed decides."""

    seed: int
    submissions: tuple[Submission, ...]
    faults: tuple[Fault, ...]


def make(
    seed: int,
    *,
    seconds: float,
    jobs_per_second: float,
    kinds: Sequence[str] = KINDS,
    fault_every: float,
    lease: float,
    output_bytes: int = 4000,
) -> Plan:
    """Make a plan of mixed load, and of faults of these kinds, over the given seconds."""
    dice = random.Random(seed)
    submissions = tuple(_load(dice, seconds, jobs_per_second, output_bytes))
    faults = tuple(_faults(dice, seconds, kinds, fault_every, lease)) if kinds else ()
    return Plan(seed=seed, submissions=submissions, faults=faults)


def _load(
    dice: random.Random, seconds: float, jobs_per_second: float, output_bytes: int
) -> Iterator[Submission]:
    for number in range(max(1, round(seconds * jobs_per_second))):
        as_list = dice.random() < 0.05
        count = dice.randint(2, 5) if as_list else 1
        yield Submission(
            key=f"key-{number}",
            at=round(number / jobs_per_second, 3),
            jobs=tuple(_job(dice, output_bytes) for _ in range(count)),
            as_list=as_list,
            twice=dice.random() < 0.2,
            cancel_after=_cancel_after(dice),
        )


def _job(dice: random.Random, output_bytes: int) -> JobPlan:
    return JobPlan(
        seconds=(round(dice.uniform(0.0, 3.0), 2),),
        exit_code=dice.choice((0, 0, 0, 0, 3)),
        stdout_bytes=dice.choice((0, 40, output_bytes // 2, output_bytes)),
        stderr_bytes=dice.choice((0, 0, 40, output_bytes // 4)),
        ignores_term=dice.random() < 0.1,
        setsid_child=dice.random() < 0.1,
    )


def _cancel_after(dice: random.Random) -> float | None:
    """Choose a delay by which some jobs are still queued, some run and some have ended."""
    return round(dice.uniform(0.0, 2.5), 2) if dice.random() < 0.15 else None


def _faults(
    dice: random.Random, seconds: float, kinds: Sequence[str], every: float, lease: float
) -> Iterator[Fault]:
    """Yield faults of each kind in turn; each round has a newly shuffled order."""
    at, bag = every, list[str]()
    while at < seconds:
        bag = bag or dice.sample(list(kinds), len(kinds))
        kind = bag.pop()
        lasting = LEASES[kind] * lease if kind in LEASES else SECONDS.get(kind, 0.0)
        yield Fault(at=round(at, 2), kind=kind, which=dice.randrange(12), seconds=lasting)
        at += every * dice.uniform(0.7, 1.3)
