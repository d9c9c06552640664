"""Events as log lines: JSON for machines, text for people."""

from __future__ import annotations

import contextlib
import json
import os
import select
import sys
import termios
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from taskyard import events, logs

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_threshold", "_render", "_patience_ms"):
        monkeypatch.setattr(logs, name, getattr(logs, name))


def test_an_event_is_one_json_line_with_its_facts(capsys: Capture) -> None:
    logs.configure("INFO", "json")
    events.emit("job.assigned", job="job-1", attempt=2, worker=None)
    (line,) = capsys.readouterr().err.splitlines()
    told = json.loads(line)
    assert told.pop("timestamp").endswith("Z")
    assert told == {
        "event": "job.assigned",
        "level": "info",
        "job": "job-1",
        "attempt": 2,
        "worker": None,
    }


def test_a_fact_that_json_does_not_know_is_told_all_the_same(capsys: Capture) -> None:
    logs.configure("INFO", "json")
    events.warn("odd", what={1, 2}, why=ValueError("x"))
    told = json.loads(capsys.readouterr().err)
    assert (told["what"], told["why"], told["level"]) == ("{1, 2}", "ValueError('x')", "warning")


def test_text_has_the_same_in_columns(capsys: Capture) -> None:
    logs.configure("INFO", "text")
    events.emit("job.started", verb="start", job="job-1")
    line = capsys.readouterr().err
    assert line.endswith("Z [info     ] job.started                    job=job-1 verb=start\n")


@pytest.mark.parametrize("hostile", ["a b", "a=b", "a\nb", "\x1b[2J", "\x9b2J", '"'])
def test_a_fact_can_neither_forge_a_line_nor_steer_a_terminal(
    capsys: Capture, hostile: str
) -> None:
    logs.configure("INFO", "text")
    events.emit("job.started", job=hostile)
    line = capsys.readouterr().err
    assert line.rstrip("\n").endswith(f"job={hostile!r}")
    assert line.rstrip("\n").isprintable()


def test_a_defect_comes_with_its_traceback(capsys: Capture) -> None:
    for line_format in ("json", "text"):
        logs.configure("INFO", line_format)
        try:
            raise RuntimeError("a defect")
        except RuntimeError as cause:
            events.error("agent.failed", cause, job="job-1")
        told = capsys.readouterr().err
        assert "Traceback" in told
        assert "RuntimeError: a defect" in told


def test_what_is_below_the_level_is_not_written(capsys: Capture) -> None:
    logs.configure("WARNING", "text")
    events.emit("quiet")
    events.warn("loud")
    assert "quiet" not in (told := capsys.readouterr().err)
    assert "loud" in told


def test_lines_are_json_and_without_colours_where_nobody_looks(capsys: Capture) -> None:
    logs.configure()
    events.emit("job.started")
    assert json.loads(capsys.readouterr().err)["event"] == "job.started"
    logs.configure(line_format="text")
    events.emit("job.started")
    assert "\x1b" not in capsys.readouterr().err


def test_a_person_sees_colours(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    logs.configure()
    events.emit("job.started", job="job-1")
    assert "\x1b[36mjob\x1b[0m=\x1b[35mjob-1\x1b[0m" in capsys.readouterr().err


@pytest.mark.parametrize("line_format", ["json", "text"])
def test_a_log_that_cannot_be_written_undoes_nothing(
    monkeypatch: pytest.MonkeyPatch, line_format: str
) -> None:
    with Path("/dev/full").open("w", buffering=1) as full:
        monkeypatch.setattr(sys, "stderr", full)
        logs.configure("INFO", line_format)
        events.emit("job.started", job="job-1")
        with pytest.raises(OSError, match="No space"):
            full.flush()
        monkeypatch.undo()
        with contextlib.suppress(OSError):
            full.close()


def test_a_log_that_was_closed_undoes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/null").open("w") as closed:
        monkeypatch.setattr(sys, "stderr", closed)
        logs.configure("INFO", "json")
    events.emit("job.started", job="job-1")


def _stuck_pipe() -> tuple[int, int, Callable[[], object]]:
    """Return the ends of a full pipe, and a function that reads from it."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"!" * select.PIPE_BUF)
    os.set_blocking(writer, True)
    return reader, writer, lambda: os.read(reader, 2**20)


def _stopped_terminal() -> tuple[int, int, Callable[[], object]]:
    """Return the ends of a terminal whose output is stopped, and a function that resumes it."""
    reader, writer = os.openpty()
    termios.tcflow(writer, termios.TCOOFF)
    return reader, writer, lambda: termios.tcflow(writer, termios.TCOON)


@pytest.mark.parametrize("stuck", [_stuck_pipe, _stopped_terminal])
def test_a_log_that_nobody_reads_stops_nobody(
    monkeypatch: pytest.MonkeyPatch, stuck: Callable[[], tuple[int, int, Callable[[], object]]]
) -> None:
    reader, writer, go_on = stuck()
    with os.fdopen(writer, "w", buffering=1) as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        logs.configure("INFO", "json")
        says = threading.Thread(
            target=events.emit, args=["job.lost"], kwargs={"much": "x" * 5000}, daemon=True
        )
        says.start()
        says.join(10)
        stopped = says.is_alive()
        go_on()
        says.join()
        events.emit("job.started")
        said = os.read(reader, 2**20)
        monkeypatch.undo()
    os.close(reader)
    assert not stopped
    assert b"job.lost" not in said
    assert b"job.started" in said
