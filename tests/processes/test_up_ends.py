"""How ``taskyard up`` ends, and how it refuses to begin."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from taskyard.addresses import free_port
from taskyard.errors import EmbeddedServerError
from taskyard.settings import Settings
from taskyard.up import signals, supervisor
from tests.helpers import eventually
from tests.processes.conftest import BIN, Up, alive, user_environment

#: What the README promises for Ctrl-C.
STOP_SECONDS = 10


def _has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


NEEDS_IPV6 = pytest.mark.skipif(not _has_ipv6(), reason="this host has no IPv6 loopback")


def test_ctrl_c_stops_all_of_it_and_the_next_up_finds_the_same_jobs(
    start_up: Callable[..., Up], tmp_path: Path
) -> None:
    first = start_up(home=tmp_path).await_ready()
    stubborn = first.taskyard("submit", "--", "trap '' TERM; sleep 300").stdout.strip()
    # The job is RUNNING a little before its processes exist.
    eventually(lambda: "sleep 300" in alive(first.everything()))
    processes = first.everything()

    began = time.monotonic()
    code = first.stop(signal.SIGINT)
    assert time.monotonic() - began < STOP_SECONDS, first.err
    assert code == 0
    assert alive(processes) == []

    second = start_up(home=tmp_path).await_ready()
    assert stubborn in second.taskyard("list").stdout
    assert "operator token" not in second.out
    assert second.taskyard("cancel", stubborn).returncode == 0


def test_a_terminal_that_is_closed_ends_it_unless_it_was_started_with_nohup() -> None:
    before = signal.getsignal(signal.SIGHUP)
    try:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with pytest.raises(signals.Stopped), signals.stoppable():
            signal.raise_signal(signal.SIGHUP)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with signals.stoppable() as asked_to_stop:
            signal.raise_signal(signal.SIGHUP)
            assert not asked_to_stop.is_set()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_another_ctrl_c_stops_the_stop_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing to a stopped terminal may block until an impatient user presses Ctrl-C again."""
    stopped: list[str] = []

    class Impatient:
        def step(self, text: str) -> None:
            if text.startswith("stopping"):
                signal.raise_signal(signal.SIGINT)

        def logs(self, *_: object) -> None:
            pass

    class Started:
        def __init__(self, *_: object) -> None:
            pass

        def start(self) -> None:
            signal.raise_signal(signal.SIGINT)

        def stop(self, _grace_seconds: float) -> None:
            stopped.append("children")

    monkeypatch.setattr(supervisor, "_access", lambda _: None)
    monkeypatch.setattr(supervisor, "Children", Started)
    with pytest.raises(signals.Stopped), signals.stoppable() as asked:
        supervisor._run_on(Settings(), None, Impatient(), asked)  # type: ignore[arg-type]
    assert stopped == ["children"]


def test_what_was_started_ends_even_when_up_itself_is_killed(
    start_up: Callable[..., Up],
) -> None:
    up = start_up("--ephemeral").await_ready()
    processes = up.everything()
    up.stop(signal.SIGKILL)
    # MongoDB ends too, and each process retries it a few times before it gives up.
    eventually(lambda: not alive(processes), 60)


def test_ephemeral_leaves_nothing_behind(start_up: Callable[..., Up], tmp_path: Path) -> None:
    up = start_up("--ephemeral", TMPDIR=str(tmp_path)).await_ready()
    left = ("taskyard-*/db", "taskyard-*/*/job-*")
    eventually(lambda: all(list(tmp_path.glob(each)) for each in left))
    assert up.stop() == 0
    assert [each for each in left if list(tmp_path.glob(each))] == []


def test_somebodys_files_in_the_folder_are_not_taken_for_the_platforms(
    start_up: Callable[..., Up], tmp_path: Path
) -> None:
    (tmp_path / "celeryconfig.py").write_text("broker_url = 'redis://localhost:6379/0'\n")
    for name in ("celery", "queue", "types", "gunicorn", "bson", "statistics"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('somebody else')\n")
    up = start_up("--ephemeral", home=tmp_path, TASKYARD_WORKSPACE_DIR="work").await_ready()
    assert up.taskyard("run", "--", "echo hello").stdout == "hello\n"
    assert list((tmp_path / "work").iterdir())


def test_a_mongod_that_cannot_be_started_again_ends_it_and_says_where_to_look(
    start_up: Callable[..., Up],
) -> None:
    up = start_up("--data-dir", "data").await_ready()
    processes = up.everything()
    keyfile = up.home / "data" / "keyfile"
    keyfile.unlink()
    keyfile.write_text("no key")
    next(p for p in processes if p.name() == "mongod").kill()
    assert up.process.wait(30) == EmbeddedServerError.exit_code
    assert re.search(r"mongod ended with exit code 1; see \S+mongod\.log", up.err)
    assert "Traceback" not in up.err
    assert alive(processes) == []


def test_a_host_with_less_than_one_cpu_is_enough(start_up: Callable[..., Up]) -> None:
    up = start_up("--ephemeral", TASKYARD_CPU_COUNT="0.5").await_ready()
    assert "it printed 'hello from" in up.err


def refused(home: Path, *arguments: str, **env: str) -> str:
    """Run a start that must be refused, and return its message."""
    ended = subprocess.run(
        [BIN / "taskyard", "up", *arguments],
        env=user_environment(home, **env),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode in (2, 3, 4), ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stderr


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"Cannot listen on 127.0.0.1:{port}" in refused(tmp_path, "--port", str(port))


@pytest.mark.parametrize("bind", ["8630", ":8630", "unix:/tmp/taskyard.sock", "localhost", "[::1"])
def test_an_address_that_is_no_host_and_port_is_refused(tmp_path: Path, bind: str) -> None:
    said = refused(tmp_path, TASKYARD_BIND=bind)
    assert "listens on a host and a port" in said
    assert repr(bind) in said
    assert not (tmp_path / ".config").exists()


@pytest.mark.parametrize(
    ("bind", "port", "bound"),
    [
        ("localhost:{}", None, "localhost:{}"),
        ("127.0.0.1:1", "{}", "127.0.0.1:{}"),
        pytest.param("[::1]:{}", None, "[::1]:{}", marks=NEEDS_IPV6),
        pytest.param("[::1]:1", "{}", "[::1]:{}", marks=NEEDS_IPV6),
    ],
)
def test_where_it_listens_is_where_it_is_reached(
    monkeypatch: pytest.MonkeyPatch, bind: str, port: str | None, bound: str
) -> None:
    free = free_port()
    monkeypatch.setenv("TASKYARD_BIND", bind.format(free))
    wanted = None if port is None else int(port.format(free))
    assert supervisor._settings(wanted, None).bind == bound.format(free)


def test_a_second_up_on_the_same_data_is_refused(start_up: Callable[..., Up]) -> None:
    up = start_up().await_ready()
    said = refused(up.home, "--port", "0")
    assert "Another `taskyard up` is running" in said
    assert up.taskyard("list").returncode == 0


def test_a_mongodb_that_does_not_answer_is_named(tmp_path: Path) -> None:
    uri = "mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=500"
    assert "MongoDB does not answer: 127.0.0.1:1" in refused(
        tmp_path, "--port", "0", MONGODB_URI=uri
    )


@pytest.mark.parametrize("option", [["--ephemeral"], ["--data-dir", "data"]])
def test_what_is_for_a_database_of_our_own_is_refused_where_another_is_named(
    tmp_path: Path, option: list[str]
) -> None:
    said = refused(tmp_path, "--port", "0", *option, MONGODB_URI="mongodb://127.0.0.1:1/")
    assert "MONGODB_URI names one" in said


def test_a_missing_shared_library_of_mongod_is_named_with_its_package(tmp_path: Path) -> None:
    fake = tmp_path / "bin" / "mongod"
    fake.parent.mkdir()
    fake.write_text(
        "#!/bin/sh\necho 'mongod: error while loading shared libraries: libcurl.so.4: "
        "cannot open shared object file: No such file or directory' >&2\nexit 127\n"
    )
    fake.chmod(0o755)
    path = f"{fake.parent}:{Path(shutil.which('sh') or '').parent}"
    said = refused(tmp_path, "--port", "0", PATH=path)
    assert re.search(r"libcurl\.so\.4.*apt-get install libcurl4", said, re.DOTALL)


@pytest.mark.parametrize("bind", ["0.0.0.0:0", "[::]:0"])
def test_without_auth_only_loopback_is_bound(tmp_path: Path, bind: str) -> None:
    assert "loopback only" in refused(tmp_path, TASKYARD_AUTH="off", TASKYARD_BIND=bind)


@pytest.mark.parametrize("step", ["mongod is ready", "starting web"])
def test_a_mongod_that_ends_while_all_else_starts_is_what_is_told_of(
    start_up: Callable[..., Up], step: str
) -> None:
    """As on a disk that fills up: the cause is mongod, not the processes that end without it."""
    up = start_up()
    eventually(lambda: step in up.err, 60)
    next(p for p in up.everything() if p.name() == "mongod").kill()
    assert up.process.wait(60) == EmbeddedServerError.exit_code, up.err
    assert re.fullmatch(
        r"taskyard: mongod ended with exit code -9; see \S+mongod\.log", up.err.splitlines()[-1]
    )
