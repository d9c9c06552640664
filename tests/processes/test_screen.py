"""What ``up`` shows of its children's logs."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from taskyard.client.config import Connection
from taskyard.up import processes
from taskyard.up.access import Access
from taskyard.up.processes import Child
from taskyard.up.screen import Screen
from tests.helpers import eventually

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def screen(capsys: Capture) -> Screen:
    """A screen that has shown its welcome, and so shows logs."""
    made = Screen()
    made.welcome(Access(connection=Connection(), sign_in_link=""))
    capsys.readouterr()
    return made


def test_lines_are_shown_with_the_name_of_who_wrote_them(screen: Screen, capsys: Capture) -> None:
    screen.logs("web", ["one", "two"])
    assert capsys.readouterr().err == "      web | one\n      web | two\n"


def test_nothing_is_shown_before_the_welcome(capsys: Capture) -> None:
    Screen().logs("web", ["one"])
    assert capsys.readouterr().err == ""


def test_a_line_cannot_steer_the_terminal(screen: Screen, capsys: Capture) -> None:
    screen.logs("agent", ["\x1b[2J\x9b2J\rgone"])
    assert capsys.readouterr().err.strip("\n").isprintable()


def test_a_name_is_coloured_on_a_terminal(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    screen = Screen()
    screen.welcome(Access(connection=Connection(), sign_in_link=""))
    screen.logs("web", ["one"])
    assert "\x1b[34m      web | \x1b[0mone\n" in capsys.readouterr().err


@pytest.mark.parametrize("columns", ["0", "1"])
def test_address_and_token_are_shown_whole_whatever_the_width(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    screen = Screen()
    connection = Connection(token="tyk_a_b")
    screen.welcome(Access(connection=connection, sign_in_link="", is_new=True))
    screen.step("ready")
    shown = capsys.readouterr()
    assert f"Taskyard is up  {connection.url}\n" in shown.out
    assert "tyk_a_b  (shown once" in shown.out
    assert "ready" in shown.err


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], list[str]]:
    """Runs a program as a child of ``up`` until it ends; returns the lines that were passed on."""

    def run(source: str) -> list[str]:
        (tmp_path / "printing.py").write_text(source)
        monkeypatch.setitem(processes.COMMANDS, "printing", "printing")
        seen: list[str] = []

        def take(_name: str, lines: Sequence[str]) -> None:
            seen.extend(lines)

        env = {**os.environ, "PYTHONPATH": str(tmp_path)}
        started = Child("printing", env, take)
        eventually(lambda: started.exit_code is not None)
        started.await_end(0)
        assert list(started.kept) == seen[-processes.KEPT_LINES :]
        return seen

    return run


def test_every_line_of_a_child_is_passed_on_whole(child: Callable[[str], list[str]]) -> None:
    lines = child("for n in range(20000): print(f'line {n} \N{SNOWMAN}')\nprint('end', end='')")
    assert lines == [f"line {n} \N{SNOWMAN}" for n in range(20_000)] + ["end"]


def test_what_is_no_text_is_shown_all_the_same(child: Callable[[str], list[str]]) -> None:
    source = "import sys; sys.stdout.buffer.write(b'a\\xffb\\n')"
    assert child(source) == ["a\N{REPLACEMENT CHARACTER}b"]
    assert sys.stdout


def test_when_nobody_reads_any_more_children_are_read_to_their_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, screen: Screen
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    source = "for n in range(20000): print(f'line {n}')"
    (tmp_path / "printing.py").write_text(source)
    monkeypatch.setitem(processes.COMMANDS, "printing", "printing")
    with os.fdopen(writer, "w", buffering=1) as gone:
        monkeypatch.setattr(sys, "stderr", gone)
        screen.step("starting")
        started = Child("printing", {**os.environ, "PYTHONPATH": str(tmp_path)}, screen.logs)
        eventually(lambda: started.exit_code == 0)
        started.await_end(0)
        screen.step("stopping")
        monkeypatch.undo()
        with contextlib.suppress(OSError):
            gone.close()
    assert started.kept[-1] == "line 19999"
