"""A job's inputs on the command line: its command, and a ZIP or a folder."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import click

from taskyard import packing
from taskyard.cli import show
from taskyard.settings import Settings

#: A newline in a word of the shell: IFS without its first two characters. IFS starts as space, tab
#: and newline whatever the environment says, and ``$(…)`` would take newlines off the end.
_NEWLINE = '"${IFS#??}"'

#: How many names the line about left-out files shows.
_NAMED = 10


def join_command(words: Sequence[str]) -> str:
    """Return the job's command: one argument is shell lines as they are; several are one command,
    quoted on one line.
    """
    return words[0] if len(words) == 1 else " ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    """Quote a word for the shell, without newlines: a job's command is split at them."""
    if "\n" not in word:
        return shlex.quote(word)
    return _NEWLINE.join(shlex.quote(part) if part else "" for part in word.split("\n"))


@contextmanager
def collect(file: Path | None) -> Iterator[Path | None]:
    """Yield the ZIP to upload; a folder is packed into a temporary one."""
    if file is None or not file.is_dir():
        yield file
        return
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / f"{file.resolve().name}.zip"
        with target.open("w+b") as packed:
            report = _packed(file, packed, Settings())
        if report.cut:
            raise click.ClickException(f"{file} is more than an archive may hold.")
        if report.left_out:
            _tell(report.left_out, file)
        yield target


def _packed(folder: Path, target: BinaryIO, limits: Settings) -> packing.PackReport:
    try:
        return packing.pack(
            folder,
            target,
            cap_bytes=limits.archive_cap_bytes,
            cap_entries=limits.archive_cap_entries,
            whole=True,
        )
    except OSError as error:
        if error.filename is None:
            raise
        reason = f"{error.filename} cannot be read: {error.strerror}."
        raise click.BadParameter(reason, param_hint="--file") from None


def _tell(left_out: Sequence[str], folder: Path) -> None:
    some = ", ".join(left_out[:_NAMED])
    more = f" and {len(left_out) - _NAMED} more" if len(left_out) > _NAMED else ""
    show.progress(f"left out, being no files inside {folder}: {some}{more}", "yellow")
