"""Histograms of durations; they can be added, so percentiles of a span follow from its parts."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate

#: Buckets for each doubling of a duration: with four, a percentile is at most 9 % off.
BUCKETS = 4

#: Number of durations by bucket: bucket b is from 2^(b/4) to 2^((b+1)/4) milliseconds.
Histogram = Mapping[int, int]


@dataclass(frozen=True, kw_only=True)
class Percentiles:
    """Durations that half, 95 % and 99 % of the jobs stayed below."""

    p50_ms: float
    p95_ms: float
    p99_ms: float


def bucket(milliseconds: float) -> int:
    """Return the bucket of a duration; the store counts with the same formula."""
    return math.floor(BUCKETS * math.log2(max(1, milliseconds)))


def merged(parts: Iterable[Histogram]) -> Histogram:
    """Return the sum of histograms."""
    total: Counter[int] = Counter()
    for part in parts:
        total.update(part)
    return total


def percentiles(histogram: Histogram) -> Percentiles | None:
    """Return the percentiles; None for an empty histogram."""
    if not any(histogram.values()):
        return None
    buckets = sorted(histogram)
    seen = list(accumulate(histogram[bucket] for bucket in buckets))
    p50, p95, p99 = (
        round(float(2 ** ((buckets[bisect_left(seen, share * seen[-1])] + 0.5) / BUCKETS)), 1)
        for share in (0.50, 0.95, 0.99)
    )
    return Percentiles(p50_ms=p50, p95_ms=p95, p99_ms=p99)
