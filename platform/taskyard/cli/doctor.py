"""``taskyard doctor``: what works and what does not, from this machine's point of view."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import click

from taskyard import __version__, embedded
from taskyard.cli import show
from taskyard.client import Client, config
from taskyard.errors import TaskyardError


@dataclass(frozen=True, kw_only=True)
class Check:
    """The result of one check."""

    name: str
    ok: bool
    detail: str


@click.command("doctor")
@show.output_option
def doctor_command(output: str) -> None:
    """Say what works and what does not; exit code 1 when something does not."""
    checks = list(_checks())
    if output == "json":
        show.as_json([vars(check) for check in checks])
    else:
        rows = [("ok" if check.ok else "FAILED", check.name, check.detail) for check in checks]
        show.table(["", "CHECK", "DETAIL"], rows, bends=["DETAIL"], wrap=True)
    raise click.exceptions.Exit(0 if all(check.ok for check in checks) else 1)


def _checks() -> Iterator[Check]:
    yield Check(name="taskyard", ok=True, detail=__version__)
    yield _embedded()
    yield from _api()


def _embedded() -> Check:
    """Check for a mongod for ``up``. None is no fault: MONGODB_URI may be used instead."""
    try:
        return Check(name="mongod for `up`", ok=True, detail=str(embedded.find_mongod()))
    except TaskyardError as error:
        return Check(name="mongod for `up`", ok=True, detail=f"none: {error}")


def _api() -> Iterator[Check]:
    try:
        yield Check(name="configuration", ok=True, detail=config.origin())
        with Client() as client:
            ready = client.ready()
            same = ready["version"] == __version__
            detail = f"{client.url}, version {ready['version']}"
            yield Check(name="API", ok=same, detail=detail)
            for name, check in ready["checks"].items():
                yield Check(name=name, ok=check["ok"], detail=check["detail"])
            workers = client.workers()
            yield Check(name="token", ok=True, detail="accepted")
            online = workers["totalWorkers"] - workers["offlineWorkers"]
            yield Check(name="workers", ok=online > 0, detail=f"{online} online")
    except TaskyardError as error:
        yield Check(name="API", ok=False, detail=str(error))
