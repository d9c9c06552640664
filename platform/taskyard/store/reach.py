"""How far this process reaches into the set, from what the driver's monitors know; no I/O.

An agent asks this when it cannot renew: may it go on running jobs (design, "self-fencing")?
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


class Reach(StrEnum):
    """What can be reached."""

    #: A primary answers.
    PRIMARY = "primary"
    #: A majority answers and none of it knows a primary: nobody can write, so nobody expires a
    #: lease either, and after the election everybody gets a full one.
    ELECTION = "election"
    #: No majority answers, or it knows a primary that does not answer here: others may write.
    CUT_OFF = "cut_off"


def reach_of(members: Collection[Member], *, whole_set: bool = True) -> Reach:
    """The reach, given what is known of each member.

    Not of the ``whole_set`` is a direct connection: from one server nothing can be told of a
    majority, so there it is a primary or nothing.
    """
    answering = [member for member in members if member.is_server_type_known]
    if any(member.is_writable for member in answering):
        return Reach.PRIMARY
    majority = whole_set and len(answering) * 2 > len(members)
    if majority and not any(member.primary for member in answering):
        return Reach.ELECTION
    return Reach.CUT_OFF
