"""``taskyard up`` as a new user meets it."""

from __future__ import annotations

import json
import re
import signal
import stat
import zipfile
from pathlib import Path

import psutil

from tests.helpers import eventually
from tests.processes.conftest import Up


def test_it_shows_its_progress_and_ends_with_a_job_and_lines_to_copy(up: Up) -> None:
    steps = ["starting mongod", "mongod is ready", "web is ready", "scheduler is ready"]
    assert [step for step in [*steps, "agent is ready"] if step not in up.err] == []
    assert re.search(r"it printed 'hello from \S+' and took \d+ ms", up.err)
    for name in ("Taskyard is up", "operator token", "run a command", "or over HTTP"):
        assert name in up.out


def test_the_run_line_works_as_shown(up: Up) -> None:
    line = re.search(r"run a command +(.+)", up.out)
    assert line
    ran = up.run("sh", "-c", line[1])
    assert ran.returncode == 0, ran.stderr
    assert re.fullmatch(r"hello\nPython 3\.\d+\.\d+\n", ran.stdout)


def test_the_curl_line_works_as_shown(up: Up) -> None:
    line = re.search(r"or over HTTP +(.+)", up.out)
    assert line
    answered = up.run("sh", "-c", f"{line[1]} -sS")
    assert json.loads(answered.stdout)["success"] is True, answered.stderr


def test_the_token_is_left_for_this_users_eyes_only_and_the_database_has_its_hash(up: Up) -> None:
    token = re.search(r"operator token +(tyk_\S+)", up.out)
    assert token
    kept = up.home / ".config" / "taskyard" / "config.toml"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert token[1] in kept.read_text()
    assert token[1] not in up.err


def test_a_project_in_a_zip_is_installed_and_tested_on_an_agent(up: Up) -> None:
    archive = _project(up.home / "project.zip")
    script = "pip install -q -e . && python -m pytest -q && echo done > report.txt"
    ran = up.run(
        *("taskyard", "run", "--timeout", "3m", "--file", str(archive), "--result", "left.zip"),
        *("--", script),
        timeout_seconds=170,
    )
    assert ran.returncode == 0, ran.stderr
    assert "1 passed" in ran.stdout
    with zipfile.ZipFile(up.home / "left.zip") as left:
        assert left.read("report.txt") == b"done\n"
        assert "pyproject.toml" in left.namelist()


def test_a_failing_project_ends_run_with_its_exit_code(up: Up) -> None:
    ran = up.taskyard("run", "--", "echo out; echo err >&2; exit 7")
    assert (ran.returncode, ran.stdout) == (7, "out\n")
    assert "err\n" in ran.stderr


def test_a_job_that_times_out_ends_run_with_124(up: Up) -> None:
    ran = up.taskyard("run", "--timeout", "500ms", "--retries", "0", "--", "sleep 60")
    assert ran.returncode == 124
    assert "timed out after 0.5 s" in ran.stderr


def test_jobs_see_neither_settings_nor_secrets(up: Up) -> None:
    ran = up.taskyard("run", "--", "env")
    names = {line.partition("=")[0] for line in ran.stdout.splitlines()}
    assert "MONGODB_URI" not in names
    assert {name for name in names if name.startswith("TASKYARD_")} == {
        "TASKYARD_JOB_ID",
        "TASKYARD_ATTEMPT",
    }
    assert "tyk_" not in ran.stdout


def test_a_process_that_dies_is_started_again(up: Up) -> None:
    def gunicorns() -> list[int]:
        return [p.pid for p in up.everything()[1:] if "gunicorn" in " ".join(p.cmdline())]

    for pid in gunicorns():
        psutil.Process(pid).send_signal(signal.SIGKILL)
    eventually(lambda: "web ended with exit code -9; starting it again" in up.err, 15)
    eventually(lambda: up.taskyard("list").returncode == 0, 20)


def test_a_mongod_that_dies_is_started_again(up: Up) -> None:
    (mongod,) = [p for p in up.everything()[1:] if p.name() == "mongod"]
    before = up.taskyard("run", "--", "true")
    assert before.returncode == 0, before.stderr
    mongod.kill()
    eventually(lambda: "mongod ended with exit code -9; starting it again" in up.err, 15)
    ran = up.taskyard("run", "--", "echo again")
    assert (ran.returncode, ran.stdout) == (0, "again\n"), ran.stderr


def test_doctor_finds_nothing_to_complain_of(up: Up) -> None:
    found = up.taskyard("doctor")
    assert found.returncode == 0, found.stdout


def _project(target: Path) -> Path:
    """Write a small project with a test as a ZIP file."""
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr(
            "pyproject.toml",
            "[build-system]\nrequires = ['setuptools']\n"
            "build-backend = 'setuptools.build_meta'\n"
            "[project]\nname = 'somebodys'\nversion = '1'\ndependencies = ['pytest']\n"
            "[tool.setuptools]\npy-modules = ['somebodys']\n",
        )
        archive.writestr("somebodys.py", "def answer():\n    return 42\n")
        archive.writestr(
            "test_somebodys.py",
            "import somebodys\n\ndef test_it():\n    assert somebodys.answer() == 42\n",
        )
    return target
