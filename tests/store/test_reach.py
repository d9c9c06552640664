"""Whether a process reaches a primary, from what the driver's monitors know of the members."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from taskyard.store.client import Store
from taskyard.store.reach import Reach, reach_of

HERE, GONE = ("db1", 27017), ("db9", 27017)


@dataclass
class Member:
    """A replica set member as the driver's monitor describes it."""

    is_server_type_known: bool = True
    is_writable: bool = False
    primary: tuple[str, int | None] | None = None
    last_write_date: float | None = None
    last_update_time: float = 0.0


PRIMARY = Member(is_writable=True, primary=HERE)
SECONDARY = Member(primary=HERE)
FOLLOWS_WHO_IS_GONE = Member(primary=GONE)
LEADERLESS = Member()
SILENT = Member(is_server_type_known=False)
#: The set's clock is 1,000 s ahead of ours; at our second 10, these members reported their last
#: writes.
HAS_ALL = Member(primary=GONE, last_write_date=1009.0, last_update_time=10.0)
HAS_NOTHING_NEW = Member(primary=GONE, last_write_date=1003.0, last_update_time=10.0)


def reach_now(members: list[Member], *, whole_set: bool = True) -> Reach:
    return reach_of(members, clock_offset=1000.0, silence_seconds=6.0, whole_set=whole_set)


@pytest.mark.parametrize(
    ("members", "reach"),
    [
        ([PRIMARY, SECONDARY, SECONDARY], Reach.PRIMARY),
        ([PRIMARY, SILENT, SILENT], Reach.PRIMARY),
        ([PRIMARY], Reach.PRIMARY),
        ([LEADERLESS, LEADERLESS, LEADERLESS], Reach.ELECTION),
        ([LEADERLESS, LEADERLESS, SILENT], Reach.ELECTION),
        ([LEADERLESS], Reach.ELECTION),
        ([LEADERLESS, SILENT, SILENT], Reach.CUT_OFF),
        ([LEADERLESS, LEADERLESS, SILENT, SILENT], Reach.CUT_OFF),
        ([LEADERLESS, FOLLOWS_WHO_IS_GONE, SILENT], Reach.CUT_OFF),
        ([SECONDARY, SECONDARY, SILENT], Reach.CUT_OFF),
        ([SILENT, SILENT, SILENT], Reach.CUT_OFF),
        ([], Reach.CUT_OFF),
        ([HAS_NOTHING_NEW, HAS_NOTHING_NEW, SILENT], Reach.ELECTION),
        ([HAS_NOTHING_NEW, HAS_ALL, SILENT], Reach.CUT_OFF),
        ([HAS_NOTHING_NEW, FOLLOWS_WHO_IS_GONE, SILENT], Reach.CUT_OFF),
        ([HAS_NOTHING_NEW, SILENT, SILENT], Reach.CUT_OFF),
    ],
)
def test_reach_is_told_from_what_the_members_say(members: list[Member], reach: Reach) -> None:
    assert reach_now(members) is reach


def test_from_one_server_alone_no_majority_is_told() -> None:
    assert reach_now([LEADERLESS], whole_set=False) is Reach.CUT_OFF
    assert reach_now([PRIMARY], whole_set=False) is Reach.PRIMARY


def test_a_direct_connection_reaches_its_primary(store: Store) -> None:
    store.client.admin.command("ping")
    assert store.reach(silence_seconds=6) is Reach.PRIMARY
