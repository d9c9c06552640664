"""What commands print: data on stdout, as a table or JSON; progress on stderr."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, TypeVar

import click

from taskyard.cli import streams

F = TypeVar("F", bound=Callable[..., Any])

STYLES = {
    "COMPLETED": "green",
    "FAILED": "red",
    "CANCELLED": "yellow",
    "RUNNING": "cyan",
    "ASSIGNED": "cyan",
    "IDLE": "green",
    "BUSY": "cyan",
    "UNHEALTHY": "red",
    "OFFLINE": "red",
}


#: Least width of a column that bends, in characters.
_NARROWEST = 7

#: Characters between two columns.
_BETWEEN = 2


def output_option(command: F) -> F:
    """Add ``-o table|json``."""
    option = click.option(
        *("-o", "--output"),
        type=click.Choice(["table", "json"]),
        default="table",
        help="How to print the data.",
    )
    return option(command)


def as_json(data: Any) -> None:
    """Print the data as JSON on stdout."""
    print(json_text(data))


def json_text(data: Any) -> str:
    """Return the data as JSON, fit for people too: nothing in it controls a terminal."""
    text = json.dumps(data, indent=2, ensure_ascii=False)
    # JSON itself escapes only the control characters below the space.
    return re.sub(r"[\x7f-\x9f]", lambda found: f"\\u{ord(found[0]):04x}", text)


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    bends: Collection[str] = ("WHY",),
    wrap: bool = False,
) -> None:
    """Print rows on stdout: aligned on a terminal, tab-separated with a header elsewhere.

    On a narrow terminal the columns named by ``bends`` are cut, or wrapped if ``wrap``; the others
    never, though the terminal may have to break the lines.
    """
    shown = [[plain(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for row in (columns, *shown):
            print("\t".join(row))
        return
    # Loaded only to draw a table: this takes as long as all else of a short command.
    from rich.cells import cell_len
    from rich.console import Console, OverflowMethod
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, header_style="bold", pad_edge=False)
    needed = _BETWEEN * (len(columns) - 1)
    for i, name in enumerate(columns):
        whole = max(cell_len(text) for text in (name, *(row[i] for row in shown)))
        least = min(whole, _NARROWEST) if name in bends else whole
        needed += least
        # Rich narrows the columns that may wrap first, and then any.
        drawn.add_column(name, no_wrap=name not in bends, min_width=least)
    overflow: OverflowMethod = "fold" if wrap else "ellipsis"
    for row in shown:
        styled = (
            Text(cell, STYLES.get(cell, ""), overflow=overflow, no_wrap=not wrap) for cell in row
        )
        drawn.add_row(*styled)
    console = Console(highlight=False)
    console.width = max(console.width, needed)
    console.print(drawn)


def pairs(values: Iterable[tuple[str, object]]) -> None:
    """Print names and values, one a line; empty values are left out."""
    for name, value in values:
        if value not in (None, "", []):
            print(f"{name + ':':<16} {plain(value)}")


def progress(text: str, colour: str | None = None) -> None:
    """Print a line on stderr, for the person who waits."""
    styled = click.style(plain_lines(text), fg=colour, dim=colour is None)
    with streams.lossy(sys.stderr):
        # Click detects pipes by itself, but not NO_COLOR.
        click.echo(styled, err=True, color=False if os.environ.get("NO_COLOR") else None)


def plain(value: object) -> str:
    """Return the value in one line without control characters: a job's command must not control
    somebody's terminal.
    """
    text = "" if value is None else str(value)
    return "".join(c if c.isprintable() else " " for c in text)


def plain_lines(text: str) -> str:
    """Return the text with each of its lines made ``plain``."""
    return "\n".join(plain(line) for line in text.splitlines())
