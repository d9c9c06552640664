"""Durations counted in buckets, so that percentiles of any span follow from its parts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

#: Buckets to a doubling: a percentile is at most 9 % off.
BUCKETS = 4

#: Counts by bucket: bucket b is from 2^(b/4) to 2^((b+1)/4) milliseconds.
Histogram = Mapping[int, int]


@dataclass(frozen=True, kw_only=True)
class Percentiles:
    """Durations that half, 95 % and 99 % of the jobs stayed below."""

    p50_ms: float
    p95_ms: float
    p99_ms: float


def bucket(milliseconds: float) -> int:
    """The bucket of a duration; the store counts by the same formula."""
    return math.floor(BUCKETS * math.log2(max(1, milliseconds)))


def merged(parts: Iterable[Histogram]) -> Histogram:
    """All counts together."""
    total: Counter[int] = Counter()
    for part in parts:
        total.update(part)
    return total


def percentiles(histogram: Histogram) -> Percentiles | None:
    """The percentiles; None of nothing."""
    if not any(histogram.values()):
        return None
    p50, p95, p99 = (_at(histogram, share) for share in (0.50, 0.95, 0.99))
    return Percentiles(p50_ms=p50, p95_ms=p95, p99_ms=p99)


def _at(histogram: Histogram, share: float) -> float:
    wanted, seen, last = share * sum(histogram.values()), 0, 0
    for last in sorted(histogram):
        seen += histogram[last]
        if seen >= wanted:
            break
    return round(float(2 ** ((last + 0.5) / BUCKETS)), 1)
