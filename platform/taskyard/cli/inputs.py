"""What a job is made of on the command line: its command, and a ZIP or a folder."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from taskyard import packing
from taskyard.settings import Settings

#: A newline in a word of the shell. IFS starts as space, tab and newline whatever the environment
#: says, and ``$(…)`` would take newlines off the end.
_NEWLINE = '"${IFS#??}"'


def join_command(words: Sequence[str]) -> str:
    """One argument is shell lines as they are; several are one command, quoted on one line."""
    return words[0] if len(words) == 1 else " ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    """A word for the shell without a newline in it, at which a job's command is parted."""
    if "\n" not in word:
        return shlex.quote(word)
    return _NEWLINE.join(shlex.quote(part) if part else "" for part in word.split("\n"))


@contextmanager
def collect(file: Path | None) -> Iterator[Path | None]:
    """The ZIP to upload; a folder is packed into one for the while."""
    if file is None or not file.is_dir():
        yield file
        return
    limits = Settings()
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / f"{file.resolve().name}.zip"
        with target.open("w+b") as packed:
            report = packing.pack(
                file,
                packed,
                cap_bytes=limits.upload_cap_bytes,
                cap_entries=limits.archive_cap_entries,
            )
        if report.cut:
            raise click.ClickException(f"{file} is larger than an upload may be.")
        yield target
