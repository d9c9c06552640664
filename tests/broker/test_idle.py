"""What an idle worker asks of MongoDB: a count of commands, not a time."""

from __future__ import annotations

from typing import Any

import pytest

from taskyard.broker.leases import KEEP_SECONDS
from taskyard.broker.transport import LOOK_SECONDS
from tests.broker.conftest import OpenSite
from tests.broker.site import Site, wait

#: Seconds of the server's clock that are counted.
WINDOW_SECONDS = 5


@pytest.mark.parametrize(("pool", "blocking"), [("prefork", False), ("threads", True)])
def test_an_idle_worker_asks_little(open_site: OpenSite, pool: str, blocking: bool) -> None:
    site = open_site()
    worker = site.start(pool=pool, blocking=blocking).await_ready()
    site.send("note", "warm")
    site.await_empty()
    profile = site.database["system.profile"]
    site.database.command("profile", 2)
    wait(lambda: window(site) >= WINDOW_SECONDS, lambda: worker.log)
    site.database.command("profile", 0)
    asked = profile.count_documents({"appName": {"$regex": "^taskyard-broker"}})
    queues = 2  # its own, and that of remote control
    looks = queues / LOOK_SECONDS
    stream = 1
    keeping = 2 / KEEP_SECONDS
    # Twice that, for the edges of the window.
    assert asked / window(site) <= 2 * (looks + stream + keeping)
    worker.kill()


def window(site: Site) -> float:
    """Seconds between the first command that was counted and the last."""
    group: list[dict[str, Any]] = [
        {"$group": {"_id": None, "from": {"$min": "$ts"}, "to": {"$max": "$ts"}}}
    ]
    for found in site.database["system.profile"].aggregate(group):
        return float((found["to"] - found["from"]).total_seconds())
    return 0.0
