"""``kill -9`` under load: every task ends, and little runs again."""

from __future__ import annotations

import pytest

from tests.broker.conftest import OpenSite
from tests.broker.kill import LEASE_SECONDS, Killing

TASKS = 40


@pytest.mark.parametrize(
    ("pool", "blocking", "rounds"),
    [("prefork", False, 2), ("prefork", True, 1), ("threads", False, 1), ("solo", False, 1)],
)
def test_killed_workers_lose_nothing(
    open_site: OpenSite, pool: str, blocking: bool, rounds: int
) -> None:
    killing = Killing(open_site(lease_seconds=LEASE_SECONDS), pool, blocking=blocking)
    for _ in range(rounds):
        counted = killing.round(TASKS)
        assert counted.lost == 0, counted
        assert counted.dead_letters == 0, counted
        assert counted.cut <= killing.slots, counted
        # Acknowledgements are written in batches; a kill loses those of the last moment.
        assert counted.again < TASKS // 2, counted
    killing.stop()
