"""The embedded mongod, started on folders in every state that earlier starts may leave."""

from __future__ import annotations

import os
import signal
import stat
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from pymongo import MongoClient

from taskyard.embedded import EmbeddedServer, primary
from taskyard.embedded import server as server_module
from taskyard.embedded.folder import DataFolder
from taskyard.errors import EmbeddedServerError
from tests.helpers import eventually


def test_a_start_that_was_cut_before_the_user_was_made_is_made_good_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(primary, "_ensure_user", cut)
        with pytest.raises(KeyboardInterrupt):
            EmbeddedServer(tmp_path).start()
    with EmbeddedServer(tmp_path) as server, MongoClient[dict[str, Any]](server.uri) as client:
        assert client.admin.command("ping")["ok"] == 1


def test_a_password_that_is_not_that_of_the_data_is_said_to_be_so(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path):
        pass
    (tmp_path / "password").chmod(0o600)
    (tmp_path / "password").write_text("another")
    with pytest.raises(EmbeddedServerError, match="is not that of its data"):
        EmbeddedServer(tmp_path).start()


def test_one_that_died_is_started_again_where_it_was_with_what_it_held(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as server:
        uri, pid = server.uri, server.pid
        with MongoClient[dict[str, Any]](uri) as client:
            client.taskyard.jobs.insert_one({"_id": "kept"})
            assert server.exit_code is None
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            eventually(lambda: server.exit_code == -signal.SIGKILL)
            server.restart()
            assert (server.uri, server.exit_code) == (uri, None)
            assert client.taskyard.jobs.find_one() == {"_id": "kept"}


@pytest.mark.parametrize("name", ["password", "keyfile"])
def test_a_start_that_was_cut_while_it_wrote_a_secret_is_made_good_by_the_next(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / name).touch(0o400)
    (tmp_path / f"{name}.draft").touch(0o400)
    with EmbeddedServer(tmp_path) as server, MongoClient[dict[str, Any]](server.uri) as client:
        assert client.admin.command("ping")["ok"] == 1
    assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o400
    assert not list(tmp_path.glob("*.draft"))


@pytest.mark.parametrize("remembered", ["", "no port", "99999999", "-1"])
def test_a_remembered_port_that_is_none_is_forgotten(tmp_path: Path, remembered: str) -> None:
    (tmp_path / "port").write_text(remembered)
    assert 0 < DataFolder(tmp_path).remembered_port() < 65_536


def test_a_folder_that_others_use_too_stays_open_to_them(tmp_path: Path) -> None:
    shared, own = tmp_path / "shared", tmp_path / "shared" / "own"
    shared.mkdir(mode=0o755)
    for folder in (shared, own):
        with EmbeddedServer(folder):
            pass
    modes = [stat.S_IMODE(folder.stat().st_mode) for folder in (shared, shared / "db", own)]
    assert modes == [0o755, 0o700, 0o700]
    secret = ("password", "keyfile", "mongod.log")
    assert [n for n in secret if (shared / n).stat().st_mode & 0o077] == []


def test_one_that_ends_while_it_starts_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "keyfile").write_text("no key")
    began = time.monotonic()
    with pytest.raises(EmbeddedServerError, match=r"mongod ended with exit code 1; see \S+\.log"):
        EmbeddedServer(tmp_path).start()
    assert time.monotonic() - began < primary.START_SECONDS / 4


@pytest.mark.parametrize("name", ["lock", "password.draft", "keyfile.draft", "port", "uri"])
def test_a_folder_that_takes_no_more_is_named_and_nothing_is_left_running(
    tmp_path: Path, name: str
) -> None:
    """This simulates a full disk: a folder in the file's place cannot be written to either."""
    (tmp_path / name).mkdir()
    server = EmbeddedServer(tmp_path)
    with pytest.raises(EmbeddedServerError, match=rf"{tmp_path} cannot be used: Is a directory"):
        server.start()
    assert server.pid is None


def test_one_whose_disk_has_become_read_only_is_stopped_all_the_same(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path)
    server.start()
    process = psutil.Process(server.pid)
    (tmp_path / "uri").unlink()
    (tmp_path / "uri").mkdir()  # like a file on a read-only disk, it cannot be unlinked
    server.stop()
    assert not process.is_running()


def test_a_start_waits_for_the_mongod_of_one_that_was_killed_a_moment_ago(tmp_path: Path) -> None:
    before = EmbeddedServer(tmp_path)
    before.start()
    _kill_owner(before)
    said: list[str] = []

    def go_on(step: str) -> None:
        said.append(step)
        if step.startswith("waiting"):
            _end(before)

    server = EmbeddedServer(tmp_path)
    server.start(go_on)
    server.stop()
    assert [step.split()[0] for step in said] == ["waiting", "starting"]
    assert server.uri == before.uri


def test_a_mongod_that_does_not_end_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = EmbeddedServer(tmp_path)
    before.start()
    _kill_owner(before)
    monkeypatch.setattr(server_module, "STOP_SECONDS", 0)
    with pytest.raises(EmbeddedServerError, match=f"still runs on {tmp_path}"):
        EmbeddedServer(tmp_path).start()
    _end(before)


def _kill_owner(server: EmbeddedServer) -> None:
    """Simulate the death of a process: its lock is free, and its mongod runs on for a moment."""
    server._folder.let_go()


def _end(server: EmbeddedServer) -> None:
    assert server._process is not None
    server._process.terminate()
    server._process.wait()
