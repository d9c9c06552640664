"""Celery's own commands in a checkout, as a Celery user expects them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pymongo.uri_parser import parse_uri

from tests.helpers import eventually
from tests.processes.conftest import BIN, ROOT, Up, user_environment

Celery = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.mark.parametrize("command", [["status"], ["inspect", "ping"]])
def test_status_and_inspect_find_scheduler_and_agent(celery: Celery, command: list[str]) -> None:
    def both_are_found() -> bool:
        """Whether both nodes have answered within the second for which the command waits."""
        answered = celery(*command)
        words = ("scheduler@", "agent@", "2 nodes online")
        return answered.returncode == 0 and all(word in answered.stdout for word in words)

    eventually(both_are_found, 60)


def test_settings_of_another_project_in_this_folder_are_not_taken(up: Up, tmp_path: Path) -> None:
    (tmp_path / "celeryconfig.py").write_text("broker_url = 'redis://localhost:1/0'\n")

    def both_are_found() -> bool:
        answered = subprocess.run(
            [BIN / "celery", "-A", "taskyard.celery_app", "status"],
            cwd=tmp_path,
            env=up.env,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return "2 nodes online" in answered.stdout

    eventually(both_are_found, 60)


def test_result_answers_from_the_job_document(up: Up, celery: Celery) -> None:
    job_id = up.taskyard("submit", "--", "exit 0").stdout.strip()
    assert up.taskyard("status", "--wait", job_id).returncode == 0
    answered = celery("result", job_id)
    assert answered.returncode == 0, answered.stderr


def refused(home: Path, *command: str, **env: str) -> str:
    """Run a command that must be refused, and return its message."""
    ended = subprocess.run(
        [BIN / "celery", "-A", "taskyard.celery_app", *command],
        cwd=ROOT,
        env=user_environment(home, **env),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    return ended.stderr


@pytest.mark.parametrize(
    "command", [["status"], ["inspect", "ping"], ["result", "x"], ["worker"], ["beat"]]
)
def test_without_a_database_each_says_so_in_one_line(tmp_path: Path, command: list[str]) -> None:
    assert "MONGODB_URI is not set" in refused(tmp_path, *command)


@pytest.mark.parametrize("command", [["worker"], ["worker", "-Q", "scheduler"], ["beat"]])
@pytest.mark.parametrize(
    "uri", ["localhost:8650", "http://localhost:8650", "mongodb://localhost/?foo=bar"]
)
def test_a_uri_that_is_none_is_refused_in_one_line(
    tmp_path: Path, command: list[str], uri: str
) -> None:
    assert "MONGODB_URI cannot be used" in refused(tmp_path, *command, MONGODB_URI=uri)


def test_a_semicolon_in_a_uri_begins_no_second_broker(tmp_path: Path) -> None:
    """Kombu splits URLs at semicolons; MongoDB allows them in passwords and between options."""
    uri = "mongodb://me:pa;ss@db1:1,db2:2/?replicaSet=rs;authSource=mine"
    show = "from taskyard.celery_app import app; print(app.connection_for_write().hostname)"
    shown = subprocess.run(
        [sys.executable, "-c", show],
        env=user_environment(tmp_path, MONGODB_URI=uri),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert parse_uri(shown.stdout.strip()) == parse_uri(uri)
