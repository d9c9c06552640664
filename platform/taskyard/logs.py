"""Log lines: one place renders events, as text on a terminal and as JSON elsewhere.

A job has several lines, so a line must cost next to nothing: no logging library, one write each.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import select
import stat
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

#: Level, event, its facts and its traceback, as a line.
Render = Callable[[str, str, Mapping[str, object], str], str]

_LEVELS = logging.getLevelNamesMapping()

#: Text that can stand in a line without quotes.
_PLAIN = re.compile(r"[^\s='\"\x00-\x1f\x7f-\x9f]+")

_COLOURS = {"info": "32", "warning": "33", "error": "31"}

#: A pipe that takes anything takes ``PIPE_BUF`` bytes, and a character is at most four.
_SURE_CHARACTERS = select.PIPE_BUF // 4

#: How long to wait for a reader that is late.
_PATIENCE_MS = 200

_encode = json.JSONEncoder(default=repr).encode


if sys.stderr is None:
    # Python has no stderr if it was started with a closed one; Celery's logging would fail.
    sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - for as long as we live
    sys.__stderr__ = sys.stderr  # type: ignore[misc] # where Celery logs


def configure(level: str = "INFO", line_format: str = "") -> None:
    """Send events to stderr, one line each: ``json`` or ``text``; if neither is given, text on a
    terminal and JSON elsewhere.
    """
    global _threshold, _render
    on_terminal = sys.stderr.isatty()
    _threshold = _LEVELS.get(level.upper(), logging.INFO)
    if line_format == "text" or (not line_format and on_terminal):
        _render = _as_coloured_text if on_terminal else _as_text
    else:
        _render = _as_json


def never_wait_for_readers() -> None:
    """Let lines that are not ours (Celery's, gunicorn's) be lost too where nobody reads them,
    instead of blocking their writer.

    The pipe or terminal is opened anew, so that only this process writes to it without blocking.
    """
    for stream in filter(None, (sys.__stdout__, sys.__stderr__)):
        # What cannot be opened again (a socket, a reader that has gone) stays as it is.
        with contextlib.suppress(OSError):
            end = stream.fileno()
            if stream.isatty() or stat.S_ISFIFO(os.fstat(end).st_mode):
                flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY
                again = os.open(f"/proc/self/fd/{end}", flags)
                os.dup2(again, end)
                os.close(again)


def write(
    level: str, event: str, facts: Mapping[str, object], cause: BaseException | None = None
) -> None:
    """Write the line of an event, unless its level is below the configured one."""
    if _LEVELS[level.upper()] < _threshold:
        return
    trace = "".join(traceback.format_exception(cause)).rstrip() if cause else ""
    line = _render(level, event, facts, trace) + "\n"
    # A log on a full disk, or whose reader has gone, must not undo what was done.
    with contextlib.suppress(OSError, ValueError):
        # One write, so that the lines of several threads stay whole; only a line that is longer
        # than a pipe surely takes is written in pieces.
        for start in range(0, len(line), _SURE_CHARACTERS):
            if not _is_read():
                return
            sys.stderr.write(line[start : start + _SURE_CHARACTERS])
            sys.stderr.flush()


def _is_read() -> bool:
    """Whether stderr takes more now. A terminal that somebody has stopped (Ctrl-S), or a pipe that
    nobody reads, would block the writer: the line is lost instead.
    """
    global _patience_ms
    try:
        end = sys.stderr.fileno()
    except (OSError, ValueError):
        return True  # no file at all
    poll = select.poll()
    poll.register(end, select.POLLOUT)
    taken = bool(poll.poll(_patience_ms))
    # A late reader is waited for once; after that, not until stderr has taken something again.
    _patience_ms = _PATIENCE_MS if taken else 0
    return taken


def _as_json(level: str, event: str, facts: Mapping[str, object], trace: str) -> str:
    line = {**facts, "event": event, "level": level, "timestamp": _now()}
    if trace:
        line["exception"] = trace
    return _encode(line)


def _as_text(level: str, event: str, facts: Mapping[str, object], trace: str) -> str:
    shown = " ".join([f"{name}={_shown(facts[name])}" for name in sorted(facts)])
    line = f"{_now()} [{level:<9}] {event:<30} {shown}".rstrip()
    return f"{line}\n{trace}" if trace else line


def _as_coloured_text(level: str, event: str, facts: Mapping[str, object], trace: str) -> str:
    shown = " ".join(
        [f"\x1b[36m{name}\x1b[0m=\x1b[35m{_shown(facts[name])}\x1b[0m" for name in sorted(facts)]
    )
    mark = f"\x1b[{_COLOURS[level]}m{level:<9}\x1b[0m"
    line = f"\x1b[2m{_now()}\x1b[0m [{mark}] \x1b[1m{event:<30}\x1b[0m {shown}"
    return f"{line}\n{trace}" if trace else line


def _shown(fact: object) -> str:
    """A fact as it is, or quoted if it could pass for several facts or control a terminal."""
    text = fact if isinstance(fact, str) else repr(fact)
    return text if _PLAIN.fullmatch(text) else repr(text)


def _now() -> str:
    """When the line was written, by this host's clock."""
    return datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="microseconds")[:-6] + "Z"


_patience_ms = _PATIENCE_MS
_threshold = logging.INFO
_render: Render = _as_text
