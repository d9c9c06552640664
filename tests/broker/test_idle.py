"""What an idle worker asks of MongoDB, as a number of commands, not as a time."""

from __future__ import annotations

from functools import partial
from typing import Any

from taskyard.broker.leases import KEEP_SECONDS
from taskyard.broker.transport import LOOK_SECONDS
from tests.broker.celery_process import wait
from tests.broker.conftest import OpenSite
from tests.broker.site import Site

#: For how many seconds of the server's clock commands are counted.
WINDOW_SECONDS = 5


def test_an_idle_worker_asks_little(open_site: OpenSite) -> None:
    shapes: list[tuple[str, bool]] = [("prefork", False), ("threads", True)]
    sites = [open_site() for _ in shapes]
    workers = [
        site.start(pool=pool, blocking=blocking)
        for site, (pool, blocking) in zip(sites, shapes, strict=True)
    ]
    for site, worker in zip(sites, workers, strict=True):
        worker.await_ready()
        site.send("note", "warm")
        site.await_empty()
        site.database.command("profile", 2)
    look = 2  # for due messages and for later ones, in its own queue and that of remote control
    stream = 1
    keeping = 2 / KEEP_SECONDS
    for site, worker in zip(sites, workers, strict=True):
        wait(partial(watched_long_enough, site), partial(getattr, worker, "log"))
        site.database.command("profile", 0)
        mine = {"appName": {"$regex": "^taskyard-broker"}}
        asked = site.database["system.profile"].count_documents(mine)
        # Twice the expected rate, because of the edges of the window.
        assert asked / window(site) <= 2 * (look / LOOK_SECONDS + stream + keeping)


def watched_long_enough(site: Site) -> bool:
    return window(site) >= WINDOW_SECONDS


def window(site: Site) -> float:
    """Return the seconds between the first and the last command that was counted."""
    group: list[dict[str, Any]] = [
        {"$group": {"_id": None, "from": {"$min": "$ts"}, "to": {"$max": "$ts"}}}
    ]
    for found in site.database["system.profile"].aggregate(group):
        return float((found["to"] - found["from"]).total_seconds())
    return 0.0
