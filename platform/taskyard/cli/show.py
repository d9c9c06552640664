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


#: Characters that are left of a column that bends.
_NARROWEST = 7

#: Between two columns.
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
    """Data as JSON on stdout."""
    print(json_text(data))


def json_text(data: Any) -> str:
    """Data as JSON, for people too: nothing in it steers a terminal."""
    text = json.dumps(data, indent=2, ensure_ascii=False)
    # JSON itself escapes the control characters below the space alone.
    return re.sub(r"[\x7f-\x9f]", lambda found: f"\\u{ord(found[0]):04x}", text)


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    bends: Collection[str] = ("WHY",),
    wrap: bool = False,
) -> None:
    """Rows on stdout: aligned on a terminal, tab-separated with a header elsewhere.

    Where a terminal is narrow, the columns that bend are cut, or wrapped; the others never, though
    the terminal may have to break the lines.
    """
    shown = [[plain(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for row in (columns, *shown):
            print("\t".join(row))
        return
    # Loaded where a table is drawn alone: it takes as long as all else of a short command.
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
        # Rich takes what is missing from the columns that may wrap, and then from any.
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
    """Names and values, one a line; empty values are left out."""
    for name, value in values:
        if value not in (None, "", []):
            print(f"{name + ':':<16} {plain(value)}")


def progress(text: str, colour: str | None = None) -> None:
    """A line for the person who waits."""
    styled = click.style(plain_lines(text), fg=colour, dim=colour is None)
    with streams.lossy(sys.stderr):
        # Click sees pipes by itself; NO_COLOR is asked for here.
        click.echo(styled, err=True, color=False if os.environ.get("NO_COLOR") else None)


def plain(value: object) -> str:
    """One line without control characters: a command must not steer somebody's terminal."""
    text = "" if value is None else str(value)
    return "".join(c if c.isprintable() else " " for c in text)


def plain_lines(text: str) -> str:
    """The same of each line."""
    return "\n".join(plain(line) for line in text.splitlines())
