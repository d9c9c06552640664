"""``taskyard up``: reads its options and runs the supervisor."""

from __future__ import annotations

import os
from pathlib import Path

import click


@click.command("up")
@click.option("--port", type=click.IntRange(0, 65535), help="Default 8000; 0 takes a free one.")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the embedded MongoDB keeps its data.",
)
@click.option("--ephemeral", is_flag=True, help="Keep nothing: a fresh database, thrown away.")
def up_command(port: int | None, data_dir: Path | None, ephemeral: bool) -> None:
    """Start MongoDB, web, beat, scheduler and one agent on this machine.

    With MONGODB_URI set, that MongoDB is used and none is started.
    """
    from taskyard import logs
    from taskyard.up import supervisor
    from taskyard.up.screen import Screen

    if ephemeral and data_dir:
        raise click.UsageError("--ephemeral and --data-dir exclude each other.")
    if (ephemeral or data_dir) and os.environ.get("MONGODB_URI"):
        raise click.UsageError(
            "--ephemeral and --data-dir are for an embedded MongoDB, but MONGODB_URI names one."
        )
    logs.configure("WARNING", "text")
    supervisor.run(port=port, data_dir=data_dir, ephemeral=ephemeral, screen=Screen())
