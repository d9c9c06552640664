"""The scoreboard: one row for each promise, with what was measured."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tests.chaos.checker import Violation


@dataclass(frozen=True, kw_only=True)
class Row:
    """One promise: its number in the scoreboard, what was measured, and whether it holds."""

    number: str
    check: str
    measured: str
    wanted: str
    n: int
    lease: float
    passed: bool


def table(rows: Iterable[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = ["| # | check | measured | wanted | n | lease | |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        verdict = "pass" if row.passed else "**FAIL**"
        lines.append(
            f"| {row.number} | {row.check} | {row.measured} | {row.wanted} | {row.n} "
            f"| {row.lease:g} s | {verdict} |"
        )
    return "\n".join(lines)


def counted(
    number: str, check: str, breaches: int, *, n: int, lease: float, wanted: str = "0"
) -> Row:
    """Return a row that passes if there were no breaches among ``n`` > 0 cases."""
    return Row(
        number=number,
        check=check,
        measured=str(breaches),
        wanted=wanted,
        n=n,
        lease=lease,
        passed=not breaches and n > 0,
    )


def timed(
    number: str,
    check: str,
    seconds: Sequence[float],
    *,
    lease: float,
    p50: float | None = None,
    p99: float,
) -> Row:
    """Return a row that passes if the times' median and 99th percentile are within bounds."""
    measured = [percentile(seconds, 50), percentile(seconds, 99)] if seconds else []
    bounds = [p50 if p50 is not None else p99, p99]
    shown = f"p50 {_spoken(measured[0])}, p99 {_spoken(measured[1])}" if measured else "nothing"
    return Row(
        number=number,
        check=check,
        measured=shown,
        wanted=(f"p50 ≤ {_spoken(p50)}, " if p50 is not None else "") + f"p99 ≤ {_spoken(p99)}",
        n=len(seconds),
        lease=lease,
        passed=bool(measured) and all(m <= b for m, b in zip(measured, bounds, strict=True)),
    )


def _spoken(seconds: float) -> str:
    """Format seconds for people."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.4g} s"


def percentile(values: Sequence[float], percent: int) -> float:
    """Return the percentile by nearest rank; the 50th is the ordinary median."""
    if len(values) == 1:
        return values[0]
    if percent == 50:
        return statistics.median(values)
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, -(-len(ordered) * percent // 100) - 1)]


#: The rows that the checker alone decides: number, check, rules.
_CHECKED = (
    ("1", "no accepted job lost", ("ended", "served")),
    ("2", "one recorded result per job, of the highest attempt", ("result", "history", "answer")),
    ("4", "no two live leases", ("overlap", "leased")),
    ("9", "what workers have in use returns to zero", ("in-use", "queues")),
    ("13", "no worker overcommitted", ("capacity",)),
    ("10", "0 starts after a cancel", ("cancelled",)),
    ("10", "no process outlives its job, its agent or its lease", ("afterlife", "survivor")),
    ("12", "output complete and ordered", ("output",)),
    ("-", "an Idempotency-Key gives one job", ("idempotency",)),
    ("-", "nothing needs a restart that was not killed", ("process",)),
)


def checked(
    violations: Sequence[Violation], *, n: int, lease: float, only: Sequence[str] = ()
) -> list[Row]:
    """Return the rows that the checker decides: all, or those with the numbers in ``only``."""
    found = Counter(violation.rule for violation in violations)
    return [
        counted(number, check, sum(found[rule] for rule in rules), n=n, lease=lease)
        for number, check, rules in _CHECKED
        if not only or number in only
    ]
