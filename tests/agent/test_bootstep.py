"""The agent as part of its Celery worker."""

from __future__ import annotations

import errno
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import signals
from pymongo.errors import AutoReconnect

from taskyard.agent import bootstep
from taskyard.agent.bootstep import AgentStep
from taskyard.context import Platform
from taskyard.store.workers import WorkerStore


def _worker(platform: Platform) -> tuple[SimpleNamespace, AgentStep]:
    """Return as much of a Celery worker as the agent needs, and the step that starts the agent."""
    queues = SimpleNamespace(select_add=lambda _: None)
    app = SimpleNamespace(platform=lambda: platform, amqp=SimpleNamespace(queues=queues))
    worker = SimpleNamespace(app=app, hostname="w1")
    return worker, AgentStep(worker)


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
    worker, step = _worker(platform)
    try:
        step.start(worker)
        assert platform.store.workers.get("w1").health == "OK"
    finally:
        step.terminate(worker)


@pytest.mark.parametrize(
    ("owner", "begins", "refusal"),
    [
        (subprocess.Popen, "__init__", BlockingIOError(errno.EAGAIN, "no process")),
        (threading.Thread, "start", RuntimeError("can't start new thread")),
    ],
)
def test_an_agent_that_the_host_does_not_let_start_says_so_and_is_given_no_job(
    with_settings: Callable[..., Platform],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    owner: type,
    begins: str,
    refusal: Exception,
) -> None:
    """It used to stay listed as healthy; jobs assigned to it waited out their start deadlines."""
    platform = with_settings(workspace_dir=tmp_path)

    def refuse(*_arguments: Any, **_options: Any) -> None:
        raise refusal

    monkeypatch.setattr(owner, begins, refuse)
    worker, step = _worker(platform)
    with pytest.raises(SystemExit) as ended:
        step.start(worker)
    assert ended.value.code == 2
    assert f"left for an agent: {refusal}" in capsys.readouterr().err
    assert platform.store.workers.get("w1").health == "OFFLINE"


def test_an_agent_is_drained_on_a_host_that_has_no_thread_left(
    with_settings: Callable[..., Platform], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = with_settings(workspace_dir=tmp_path)
    worker, step = _worker(platform)
    step.start(worker)

    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "drain":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    signals.worker_shutting_down.send(sender=None)
    step.stop(worker)
    assert platform.store.workers.get("w1").health == "OFFLINE"
