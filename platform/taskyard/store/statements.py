"""Transitions as few MongoDB statements, and the guard of other writes on a running job."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from pymongo import UpdateMany, UpdateOne

from taskyard.jobs.model import Job
from taskyard.jobs.states import JobStatus
from taskyard.jobs.transition import HISTORY_KEPT, Transition

Statement = UpdateOne | UpdateMany


def of(transitions: Sequence[Transition]) -> list[Statement]:
    """One statement for all transitions with the same guard and the same fields: a statement for
    each costs MongoDB two to three times as much (``docs/performance.md``).
    """
    groups: dict[Any, list[list[Transition]]] = defaultdict(list)
    for transition in transitions:
        # Most transitions that differ do so here; within a group they are compared in full.
        near = groups[transition.to, transition.entry["worker"]]
        group = next((group for group in near if _are_alike(group[0], transition)), None)
        if group is None:
            near.append([transition])
        else:
            group.append(transition)
    return [_statement(group) for group in itertools.chain.from_iterable(groups.values())]


def update(transition: Transition) -> dict[str, Any]:
    """The MongoDB update of one transition."""
    changes: dict[str, Any] = {
        "$set": dict(transition.changes),
        "$push": {"history": {"$each": [dict(transition.entry)], "$slice": -HISTORY_KEPT}},
    }
    if transition.cleared:
        changes["$unset"] = dict.fromkeys(transition.cleared, "")
    return changes


def still_running(job: Job) -> dict[str, Any]:
    """Matches the attempt that was read while it runs: the guard of what it writes meanwhile."""
    return {
        "_id": job.job_id,
        "status": str(JobStatus.RUNNING),
        "attempts": job.attempts,
        "leaseId": job.lease_id,
    }


def _are_alike(one: Transition, other: Transition) -> bool:
    return (
        one.guard == other.guard
        and one.changes.keys() == other.changes.keys()
        and one.cleared == other.cleared
    )


def _statement(group: Sequence[Transition]) -> Statement:
    first = group[0]
    if len(group) == 1:
        return UpdateOne({"_id": first.job_id, **first.guard}, update(first))
    ids = [transition.job_id for transition in group]
    are_equal = all(t.changes == first.changes and t.entry == first.entry for t in group)
    changes = update(first) if are_equal else _update_each(group)
    return UpdateMany({"_id": {"$in": ids}, **first.guard}, changes)


def _update_each(group: Sequence[Transition]) -> list[dict[str, Any]]:
    """The same as ``update`` for jobs whose values differ: each job takes its own from a list."""
    ids = [transition.job_id for transition in group]
    index = {"$indexOfArray": [{"$literal": ids}, "$_id"]}

    def own(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {name: _own([record[name] for record in records], index) for name in records[0]}

    line = own([transition.entry for transition in group])
    history = {"$slice": [{"$concatArrays": ["$history", [line]]}, -HISTORY_KEPT]}
    stages = [{"$set": {**own([t.changes for t in group]), "history": history}}]
    cleared = [{"$unset": list(group[0].cleared)}] if group[0].cleared else []
    return [*stages, *cleared]


def _own(values: list[Any], index: dict[str, Any]) -> dict[str, Any]:
    """The expression for a job's own value; literal, since a text may begin with a dollar sign."""
    if all(value == values[0] for value in values):
        return {"$literal": values[0]}
    return {"$arrayElemAt": [{"$literal": values}, index]}
