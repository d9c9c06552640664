"""The overview's figures as lines over time, for charts and for the table beside them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from taskyard.stats.histogram import Histogram, percentiles
from taskyard.stats.rollup import Rollup


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a chart: label, name of the colour, and a value or None for each step."""

    label: str
    colour: str
    values: Sequence[float | None]


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Lines that share a unit and the steps of time."""

    title: str
    #: ``jobs``, ``ms`` or ``percent``.
    unit: str
    lines: Sequence[Line]


def of(points: Sequence[Rollup], *, counted_at: datetime | None) -> list[Chart]:
    """Return the charts of the overview; ``counted_at`` is when statistics were last counted.

    A step that was not over then has no counts yet: those of half a step would look like a fall.
    """
    step = points[1].at - points[0].at
    over = {p.at for p in points if counted_at is not None and p.at + step <= counted_at}

    def count(value: Callable[[Rollup], int]) -> Callable[[Rollup], int | None]:
        return lambda point: value(point) if point.at in over else None

    return [
        Chart(
            title="Ended",
            unit="jobs",
            lines=[
                _line("completed", "good", points, count(lambda p: p.completed)),
                _line("failed", "bad", points, count(lambda p: p.failed)),
                _line("cancelled", "soft", points, count(lambda p: p.cancelled)),
            ],
        ),
        Chart(
            title="Queue",
            unit="jobs",
            lines=[
                _line("most queued", "wait", points, lambda p: p.queued if p.samples else None),
                _line("submitted", "accent", points, count(lambda p: p.submitted)),
            ],
        ),
        Chart(title="Wait", unit="ms", lines=_percentiles(points, lambda p: p.wait)),
        Chart(title="Run time", unit="ms", lines=_percentiles(points, lambda p: p.run)),
        Chart(
            title="Longest in the queue",
            unit="ms",
            lines=[
                _line("oldest", "wait", points, lambda p: p.oldest_wait_ms if p.samples else None)
            ],
        ),
        Chart(
            title="CPUs in use",
            unit="percent",
            lines=[_line("in use", "accent", points, _utilisation)],
        ),
    ]


def data(charts: Sequence[Chart], points: Sequence[Rollup]) -> dict[str, Any]:
    """Return the data from which the page's script draws the charts."""
    return {
        "at": [point.at.timestamp() for point in points],
        "charts": [asdict(chart) for chart in charts],
    }


def _line(
    label: str,
    colour: str,
    points: Sequence[Rollup],
    value: Callable[[Rollup], float | None],
) -> Line:
    return Line(label=label, colour=colour, values=[value(point) for point in points])


def _percentiles(points: Sequence[Rollup], durations: Callable[[Rollup], Histogram]) -> list[Line]:
    found = [percentiles(durations(point)) for point in points]
    return [
        Line(
            label=label,
            colour=colour,
            values=[getattr(each, f"{label}_ms") if each else None for each in found],
        )
        for label, colour in (("p50", "accent"), ("p95", "wait"), ("p99", "bad"))
    ]


def _utilisation(point: Rollup) -> float | None:
    return None if point.utilisation is None else round(100 * point.utilisation, 1)
