"""Decides which queued job goes to which worker: one pure function, ``place``."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import inf

from taskyard.jobs.model import Job
from taskyard.workers.model import Requirement
from taskyard.workers.places import Place, could_never, too_full


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one pass decided."""

    #: ``(job, worker id)`` in queue order.
    placements: Sequence[tuple[Job, str]] = ()
    #: Worker id -> job id that its freed places are kept for; all reservations from now on.
    reservations: Mapping[str, str] = field(default_factory=dict)


def place(
    queue: Sequence[Job],
    available: Sequence[Place],
    *,
    now: datetime,
    reserve_after: timedelta,
    still_queued: Collection[str] = (),
) -> Plan:
    """Place as much of ``queue`` (in its order) on ``available`` as fits.

    A job that fits nowhere does not hold back the ones behind it. Once it has waited for
    ``reserve_after`` it reserves a worker that could hold it, if smaller jobs are queued that could
    take every place before it. ``still_queued`` are the ids of the jobs whose earlier reservation
    stays valid.
    """
    late = now - reserve_after
    least = Requirement(
        cpu=min((job.required_cpu for job in queue), default=0),
        ram_mb=min((job.required_ram_mb for job in queue), default=0),
    )
    floor = _Floor(available, still_queued, least)
    placements: list[tuple[Job, str]] = []
    for job in queue:
        position = floor.find(job)
        if position is not None:
            floor.give(position, job)
            placements.append((job, available[position].worker.worker_id))
        elif job.queued_at < late and (
            job.required_cpu > least.cpu or job.required_ram_mb > least.ram_mb
        ):
            floor.reserve(job)
    reservations = {available[n].worker.worker_id: job_id for job_id, n in floor.kept.items()}
    return Plan(placements=placements, reservations=reservations)


_Judge = Callable[[Place, Requirement], bool]

#: What a job needs, and the judge by which a place is searched for it.
_Kind = tuple[float, int, tuple[str, ...], _Judge]

_FIRST, _BEHIND_ALL = (-inf, 0), (inf, 0)


@dataclass(slots=True)
class _Look:
    """What a kind of job needs, and where in the order the next search for it begins."""

    needed: Requirement
    begin: tuple[float, int] = _FIRST


class _Floor:
    """All places of a pass in the order of their scores, each named by its index in ``available``.

    While a pass fills places their scores only rise, and a place that does not suit a kind of job
    never suits it again. So the next search for that kind begins where the last one ended: it need
    not look at the places before that again. A place that is too full for the ``least`` that any
    job needs suits no kind: it is taken out, so that the searches of many kinds do not each have
    to pass over it.
    """

    def __init__(
        self, available: Sequence[Place], still_queued: Collection[str], least: Requirement
    ) -> None:
        self._places = available
        self._least: Requirement | None = least
        #: Job id -> position of the place that is kept for it.
        self.kept: dict[str, int] = {}
        for position, spot in enumerate(available):
            job_id, spot.reserved_for = spot.worker.reserved_for, None
            if job_id and job_id in still_queued and job_id not in self.kept:
                self._keep(position, job_id)
        self._most_kept = max(1, len(available) // 2)
        self._order = sorted((spot.score, position) for position, spot in enumerate(available))
        self._taken_out: list[tuple[float, int]] = []
        self._looks: dict[_Kind, _Look] = {}

    def find(self, job: Job) -> int | None:
        """Return the place that is kept for the job if that has room, else the best that has."""
        judge = _has_room_for_suspect if job.is_suspect else _has_room
        own = self.kept.get(job.job_id)
        if own is not None and judge(self._places[own], job.requirement):
            return own
        return self._best(job, judge)

    def give(self, position: int, job: Job) -> None:
        """Put the job in a place; a place that was kept for it is free for all again."""
        spot = self._places[position]
        was_at = bisect_left(self._order, (spot.score, position))
        del self._order[was_at]
        spot.take(job)
        insort(self._order, (spot.score, position), lo=was_at)
        if (own := self.kept.pop(job.job_id, None)) is not None:
            self._places[own].reserved_for = None
            self._looks.clear()

    def reserve(self, job: Job) -> None:
        """Keep the best place that could ever hold the job; at most half of all places are kept."""
        if job.job_id in self.kept or len(self.kept) >= self._most_kept:
            return
        if job.is_suspect and self._best(job, _has_room) is not None:
            return  # A place is large enough: the job waits for another suspect to end.
        self._put_back()
        if (position := self._best(job, _could_hold)) is not None:
            self._keep(position, job.job_id)

    def _keep(self, position: int, job_id: str) -> None:
        self._places[position].reserved_for = job_id
        self.kept[job_id] = position

    def _best(self, job: Job, judge: _Judge) -> int | None:
        """Return the first place that is kept for no job and that the judge accepts."""
        kind = (job.required_cpu, job.required_ram_mb, job.labels, judge)
        look = self._looks.get(kind)
        if look is None:
            look = self._looks[kind] = _Look(job.requirement)
        index = bisect_left(self._order, look.begin)
        while index < len(self._order):
            position = self._order[index][1]
            spot = self._places[position]
            if spot.reserved_for is None and judge(spot, look.needed):
                look.begin = self._order[index]
                return position
            if self._least and too_full(spot, self._least):
                self._taken_out.append(self._order.pop(index))
            else:
                index += 1
        look.begin = _BEHIND_ALL
        return None

    def _put_back(self) -> None:
        """Search the full places too from now on: they are the ones to keep."""
        self._order = sorted([*self._order, *self._taken_out])
        self._taken_out, self._least = [], None


def _has_room(spot: Place, needed: Requirement) -> bool:
    return not (could_never(spot.worker, needed) or too_full(spot, needed))


def _has_room_for_suspect(spot: Place, needed: Requirement) -> bool:
    return not spot.suspects and _has_room(spot, needed)


def _could_hold(spot: Place, needed: Requirement) -> bool:
    return not could_never(spot.worker, needed)
