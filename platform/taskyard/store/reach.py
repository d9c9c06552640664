"""How far this process reaches into the set, from what the driver's monitors know; no I/O.

An agent asks this when it cannot renew: may it go on running jobs
(``docs/lifecycle.md``, leases)?
"""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum
from typing import Protocol


class Member(Protocol):
    """What is known of a member; PyMongo's ``ServerDescription`` is one."""

    @property
    def is_server_type_known(self) -> bool:
        """Whether it answers."""

    @property
    def is_writable(self) -> bool:
        """Whether it takes writes."""

    @property
    def primary(self) -> tuple[str, int | None] | None:
        """Whom it takes for the primary."""

    @property
    def last_write_date(self) -> float | None:
        """The last write it had, in seconds of the set's own clock."""

    @property
    def last_update_time(self) -> float:
        """When it said all this, by this host's monotonic clock."""


class Reach(StrEnum):
    """What can be reached."""

    #: A primary answers.
    PRIMARY = "primary"
    #: A majority answers, and nobody can write: so nobody expires a lease either, and after the
    #: election everybody gets a full one.
    ELECTION = "election"
    #: No majority answers, or others may be writing: leases may be over without our knowing.
    CUT_OFF = "cut_off"


def reach_of(
    members: Collection[Member],
    *,
    clock_offset: float,
    silence_seconds: float,
    whole_set: bool = True,
) -> Reach:
    """The reach, given what is known of each member.

    ``clock_offset`` is the set's clock less this host's monotonic one, in seconds. Not of the
    ``whole_set`` is a direct connection: from one server nothing can be told of a majority.
    """
    answering = [member for member in members if member.is_server_type_known]
    if any(member.is_writable for member in answering):
        return Reach.PRIMARY
    if not whole_set or len(answering) * 2 <= len(members):
        return Reach.CUT_OFF
    leaderless = not any(member.primary for member in answering)
    # A primary that they still believe in, but that does not answer here, is out of our reach
    # alone, or stopped for everybody. In the second case the set is silent: its last write was
    # long before they told of it, while the sweep alone writes every two seconds.
    silent = all(
        member.last_write_date is not None
        and member.last_update_time + clock_offset - member.last_write_date > silence_seconds
        for member in answering
    )
    return Reach.ELECTION if leaderless or silent else Reach.CUT_OFF
