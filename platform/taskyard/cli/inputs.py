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


def join_command(words: Sequence[str]) -> str:
    """One argument is shell lines as they are; several are one command, quoted."""
    return words[0] if len(words) == 1 else shlex.join(words)


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
