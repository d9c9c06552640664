"""How much of the replica set this process can reach, from what the driver's monitors know; no I/O.

An agent that cannot renew asks this, to decide whether its jobs may go on running
(``docs/lifecycle.md``, leases).
"""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum
from typing import Protocol


class Member(Protocol):
    """What is known of a member of the set; PyMongo's ``ServerDescription`` fits."""

    @property
    def is_server_type_known(self) -> bool:
        """Whether the member answers."""

    @property
    def is_writable(self) -> bool:
        """Whether the member takes writes."""

    @property
    def primary(self) -> tuple[str, int | None] | None:
        """The member that it believes to be the primary."""

    @property
    def last_write_date(self) -> float | None:
        """The time of its last write, in seconds of the set's clock."""

    @property
    def last_update_time(self) -> float:
        """When the member last answered, by this host's monotonic clock."""


class Reach(StrEnum):
    """Which part of the replica set answers."""

    #: A primary answers.
    PRIMARY = "primary"
    #: A majority answers and no member takes writes: so nobody can expire a lease either, and
    #: after the election every agent gets the time of a full lease.
    ELECTION = "election"
    #: No majority answers, or others may be writing: leases may have expired unknown to us.
    CUT_OFF = "cut_off"


def reach_of(
    members: Collection[Member],
    *,
    clock_offset: float,
    silence_seconds: float,
    whole_set: bool = True,
) -> Reach:
    """The reach, given what is known of each member.

    ``clock_offset`` is the set's clock minus this host's monotonic one, in seconds. ``whole_set``
    is False for a direct connection: a single server says nothing about a majority.
    """
    answering = [member for member in members if member.is_server_type_known]
    if any(member.is_writable for member in answering):
        return Reach.PRIMARY
    if not whole_set or len(answering) * 2 <= len(members):
        return Reach.CUT_OFF
    leaderless = not any(member.primary for member in answering)
    # A primary that the members still name but that does not answer us is either unreachable for
    # us alone, or stopped for everybody. In the second case the set is silent: each member's last
    # write was long before its answer, although the sweep alone writes every two seconds.
    silent = all(
        member.last_write_date is not None
        and member.last_update_time + clock_offset - member.last_write_date > silence_seconds
        for member in answering
    )
    return Reach.ELECTION if leaderless or silent else Reach.CUT_OFF
