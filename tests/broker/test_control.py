"""Celery's own commands against two workers: inspect, control, status, purge, events."""

from __future__ import annotations

import os
import signal
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.broker import worker_app
from tests.broker.celery_process import BIN, PATIENCE_SECONDS, wait
from tests.broker.site import Site, Worker

#: How long a command that is meant for all workers waits for answers.
ANSWER_SECONDS = 3.0

#: For commands to named workers: they wait until those have answered, and no longer.
REPLIES: dict[str, Any] = {"reply": True, "timeout": PATIENCE_SECONDS}


@pytest.fixture(scope="module")
def names(workers: list[Worker]) -> set[str]:
    return {worker.hostname for worker in workers}


def inspect(site: Site, method: str, *arguments: Any, names: set[str]) -> dict[str, Any]:
    """Return the answers by worker, as soon as all of them have come."""
    panel = site.app.control.inspect(sorted(names), timeout=PATIENCE_SECONDS, limit=len(names))
    answers = getattr(panel, method)(*arguments)
    assert answers is not None
    assert set(answers) == names
    return dict(answers)


def test_status_on_the_command_line_finds_both(site: Site, workers: list[Worker]) -> None:
    answered = site.celery("status", "--timeout", str(ANSWER_SECONDS))
    assert "2 nodes online" in answered


@pytest.mark.parametrize(
    "method", ["ping", "registered", "stats", "active_queues", "scheduled", "reserved", "revoked"]
)
def test_every_worker_answers(site: Site, names: set[str], method: str) -> None:
    inspect(site, method, names=names)


def test_stats_and_queues_say_what_is_so(site: Site, names: set[str]) -> None:
    for stats in inspect(site, "stats", names=names).values():
        assert stats["broker"]["transport"] == "taskyard"
        assert "password" not in stats["broker"]
    for queues in inspect(site, "active_queues", names=names).values():
        assert [queue["name"] for queue in queues] == ["celery"]


def test_active_shows_what_runs_where(site: Site, names: set[str]) -> None:
    identity = site.send("hold", "active")
    wait(lambda: "active" in site.told(), site.lines)
    active = inspect(site, "active", names=names)
    assert [task["id"] for tasks in active.values() for task in tasks] == [identity]
    site.open("active")


def test_a_consumer_is_added_and_cancelled(site: Site, workers: list[Worker]) -> None:
    control, one = site.app.control, [workers[0].hostname]
    control.add_consumer("added", destination=one, **REPLIES)
    site.send("note", "to the added queue", queue="added")
    wait(lambda: "to the added queue" in site.told(), site.lines)
    control.cancel_consumer("added", destination=one, **REPLIES)
    queues = inspect(site, "active_queues", names=set(one))[one[0]]
    assert [queue["name"] for queue in queues] == ["celery"]


def test_the_only_queue_is_cancelled_and_added_again(site: Site, workers: list[Worker]) -> None:
    """A task that runs meanwhile still ends, and runs only once."""
    control, names = site.app.control, sorted(worker.hostname for worker in workers)
    site.send("hold", "meanwhile")
    wait(lambda: "meanwhile" in site.told(), site.lines)
    control.cancel_consumer("celery", destination=names, **REPLIES)
    site.send("note", "waits for a consumer")
    site.open("meanwhile")
    wait(lambda: "meanwhile" in site.told("end"), site.lines)
    wait(lambda: len(site.messages()) == 1, site.messages)
    assert "waits for a consumer" not in site.told()
    control.add_consumer("celery", destination=names, **REPLIES)
    wait(lambda: "waits for a consumer" in site.told(), site.lines)
    assert site.runs("meanwhile") == {"meanwhile": 1}


def test_rate_limit_and_pool_size_are_changed(site: Site, workers: list[Worker]) -> None:
    control, prefork = site.app.control, workers[0].hostname
    (answer,) = control.rate_limit("note", "100/s", destination=[prefork], **REPLIES)
    assert "ok" in answer[prefork]
    (answer,) = control.pool_grow(1, destination=[prefork], **REPLIES)
    assert "ok" in answer[prefork]

    def processes() -> list[int]:
        return list(inspect(site, "stats", names={prefork})[prefork]["pool"]["processes"])

    wait(lambda: len(processes()) == 3, processes)


def test_a_revoked_task_never_runs(site: Site, workers: list[Worker], names: set[str]) -> None:
    identity = str(uuid.uuid4())
    site.app.control.revoke(identity, destination=sorted(names), **REPLIES)
    site.send("note", "revoked", task_id=identity)
    site.await_empty()
    assert "revoked" not in site.told()


def test_a_running_task_is_terminated_and_its_message_is_gone(
    site: Site, workers: list[Worker]
) -> None:
    prefork, threads = workers
    site.app.control.cancel_consumer("celery", destination=[threads.hostname], **REPLIES)
    identity = site.send("hold", "terminated")
    wait(lambda: "terminated" in site.told(), site.lines)
    site.app.control.revoke(identity, terminate=True, destination=[prefork.hostname], **REPLIES)
    site.await_empty()
    assert "terminated" not in site.told("end")
    site.app.control.add_consumer("celery", destination=[threads.hostname], **REPLIES)


def test_purge_deletes_what_waits(site: Site, workers: list[Worker]) -> None:
    control, names = site.app.control, sorted(worker.hostname for worker in workers)
    control.cancel_consumer("celery", destination=names, **REPLIES)
    for number in range(7):
        site.send("note", f"purged{number}")
    assert "7 messages" in site.celery("purge", "-f")
    assert not site.messages()
    control.add_consumer("celery", destination=names, **REPLIES)


class Dump:
    """A running ``celery events --dump``."""

    def __init__(self, site: Site, path: Path) -> None:
        self._path = path
        with path.open("wb") as out:
            self.process = subprocess.Popen(
                [BIN / "celery", "-A", worker_app.__name__, "events", "--dump"],
                # By default an event expires after five seconds; a busy machine may need more.
                env={**site.environment(event_queue_ttl=600), "PYTHONUNBUFFERED": "1"},
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    @property
    def text(self) -> str:
        return self._path.read_text()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(PATIENCE_SECONDS)


@pytest.fixture
def dump(site: Site, tmp_path: Path) -> Iterator[Dump]:
    started = Dump(site, tmp_path / "events")
    yield started
    started.stop()


def test_events_tell_of_workers_and_tasks(site: Site, workers: list[Worker], dump: Dump) -> None:
    wait(lambda: "heartbeat" in dump.text, lambda: dump.text)
    site.send("note", "seen")
    events = ("task received", "task started", "task succeeded")
    wait(lambda: all(event in dump.text for event in events), lambda: dump.text)


def test_a_stopped_reader_of_events_hears_all_of_them(
    site: Site, workers: list[Worker], dump: Dump
) -> None:
    wait(lambda: "heartbeat" in dump.text, lambda: dump.text)
    os.kill(dump.process.pid, signal.SIGSTOP)
    for number in range(50):
        site.send("note", f"unseen{number}")
    site.await_empty()
    os.kill(dump.process.pid, signal.SIGCONT)
    wait(lambda: dump.text.count("task succeeded") == 50, lambda: dump.text)


def test_shutdown_ends_a_worker(site: Site) -> None:
    last = site.start(pool="solo").await_ready()
    site.app.control.shutdown(destination=[last.hostname])
    assert last.await_end() == 0
