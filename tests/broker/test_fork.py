"""Processes that fork: each makes clients of its own, and nothing hangs or warns."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.broker import worker_app
from tests.broker.celery_process import PATIENCE_SECONDS, wait
from tests.broker.site import Site

#: All warnings are shown but one: from 3.12 on, Python warns of every fork of a process that has
#: threads, which is what is tested here.
WARNINGS = ("-W", "default", "-W", "ignore:This process:DeprecationWarning")


def complaints(text: str) -> list[str]:
    """Return the warnings of PyMongo and Python about forks, however they are worded."""
    return [line for line in text.splitlines() if "fork" in line.lower() and "Warning" in line]


@pytest.mark.parametrize("blocking", [False, True])
def test_children_that_live_for_one_task_publish_tasks(site: Site, blocking: bool) -> None:
    """Each is forked from a worker whose threads and connections are in use."""
    worker = site.start("--max-tasks-per-child", "1", blocking=blocking).await_ready()
    prefix = f"child{blocking}"
    for number in range(5):
        site.send("publish", f"{prefix}.{number}", 3)
    wait(lambda: len(site.runs(f"{prefix}.")) == 20, lambda: worker.log)
    site.await_empty()
    assert set(site.runs(f"{prefix}.").values()) == {1}
    assert len({line["pid"] for line in site.lines() if line["key"].startswith(prefix)}) == 20
    assert not complaints(worker.log)
    worker.kill()


#: A child of ``multiprocessing`` whose last act is to acknowledge: three messages, one by one.
ANSWERING = f"""
import multiprocessing, sys
from {worker_app.__name__} import app
def answer():
    connection = app.connection_for_read()
    queue = connection.SimpleQueue("answered")
    for _ in range(3):
        queue.get(timeout=30).ack()
    if sys.argv[1] == "closes":
        connection.close()
with app.connection_for_write() as connection:
    queue = connection.SimpleQueue("answered")
    for number in range(3):
        queue.put(number)
child = multiprocessing.get_context("fork").Process(target=answer)
child.start()
child.join()
sys.exit(child.exitcode)
"""


@pytest.mark.parametrize("end", ["closes", "leaves"])
def test_what_a_child_answers_last_is_written(site: Site, end: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ANSWERING, end],
        env=site.environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    assert not [one for one in site.messages() if one["queue"] == "answered"]


#: A parent that publishes, consumes and holds a message, then forks; parent and child go on.
FORKING = f"""
import os, sys
from {worker_app.__name__} import app, note
connection = app.connection_for_read()
queue = connection.SimpleQueue("forked")
queue.put("held")
held = queue.get(timeout=30)
note.apply_async(["parent before"], queue="elsewhere")
child = os.fork()
if child == 0:
    connection.transport.broker.leases.flush(600)  # the parent's affair
    note.apply_async(["child"], queue="elsewhere")
    sys.exit(0)
_, status = os.waitpid(child, 0)
note.apply_async(["parent after"], queue="elsewhere")
held.ack()
queue.close()
sys.exit(os.waitstatus_to_exitcode(status))
"""


def test_a_parent_that_was_connected_before_the_fork_goes_on(site: Site) -> None:
    done = subprocess.run(
        [sys.executable, *WARNINGS, "-c", FORKING],
        env=site.environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    assert not complaints(done.stderr)
    messages = site.messages()
    assert len([one for one in messages if one["queue"] == "elsewhere"]) == 3
    assert not [one for one in messages if one["queue"] == "forked"]


#: A parent that publishes and consumes, as a web server does before it forks its workers. Then
#: parent and child both go on with the same connection.
CONSUMING = f"""
import os, sys, time
from {worker_app.__name__} import app
connection = app.connection_for_read()
queue = connection.SimpleQueue("forked")
queue.put("first")
queue.get(timeout=30).ack()
connection.transport.broker.leases.flush(30)
child = os.fork()
if child == 0:
    reading = connection.SimpleQueue("of the child") if sys.argv[1] == "another" else queue
    for number in range(3):
        reading.put(number)
        reading.get(timeout=30).ack()
    sys.exit(0)
_, status = os.waitpid(child, 0)
queue.put("last")
queue.get(timeout=30).ack()
connection.close()
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.parametrize("queue", ["the same", "another"])
def test_a_child_consumes_with_the_connection_that_it_inherited(site: Site, queue: str) -> None:
    done = subprocess.run(
        [sys.executable, *WARNINGS, "-c", CONSUMING, queue],
        env=site.environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert not [one for one in site.messages() if one["queue"] in {"forked", "of the child"}]
