"""The agent as a part of its Celery worker."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from pymongo.errors import AutoReconnect

from taskyard.agent import bootstep
from taskyard.agent.bootstep import AgentStep
from taskyard.context import Platform
from taskyard.store.workers import WorkerStore


def test_it_waits_where_mongodb_goes_away_before_the_agent_has_registered(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    register, tries = WorkerStore.register, iter([AutoReconnect("no primary")])

    def away_at_first(store: WorkerStore, *args: Any, **named: Any) -> Any:
        if error := next(tries, None):
            raise error
        return register(store, *args, **named)

    monkeypatch.setattr(WorkerStore, "register", away_at_first)
    monkeypatch.setattr(bootstep, "_RETRY_SECONDS", 0)
    queues = SimpleNamespace(select_add=lambda _: None)
    app = SimpleNamespace(platform=lambda: platform, amqp=SimpleNamespace(queues=queues))
    worker = SimpleNamespace(app=app, hostname="w1")
    step = AgentStep(worker)
    try:
        step.start(worker)
        assert platform.store.workers.get("w1").health == "OK"
    finally:
        step.terminate(worker)
