"""Commands on API tokens. They use MongoDB and not the API: the first token needs no token."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from taskyard.cli import show
from taskyard.client import config
from taskyard.clock import epoch_ms
from taskyard.errors import NotFound
from taskyard.store.client import Store


@click.group("tokens")
def tokens_command() -> None:
    """Make, list and revoke API tokens, in the database that MONGODB_URI names."""


@tokens_command.command("create")
@click.option("--role", type=click.Choice(["viewer", "operator", "agent"]), required=True)
@click.option("--name", required=True, help="Who it is for; shown beside what it does.")
@click.option("--worker", help="The one worker that an agent token speaks for.")
@show.output_option
def create(role: str, name: str, worker: str | None, output: str) -> None:
    """Make a token and print it, for the only time."""
    if worker is not None and (role != "agent" or not worker):
        # Without a worker to bind it to, the token could do more than its maker meant.
        raise click.BadParameter("names one worker, for role agent alone", param_hint="--worker")
    with _store() as store:
        token = store.tokens.create(role=role, name=name, worker_id=worker)
    if output == "json":
        show.as_json({"token": token, "role": role, "name": name, "workerId": worker})
    else:
        print(token)


@tokens_command.command("show")
def show_token() -> None:
    """Print the token that this command line uses, for curl and the like."""
    token = config.load().token
    if not token:
        raise click.ClickException("No token is saved; set TASKYARD_TOKEN.")
    print(token)


@tokens_command.command("list")
@show.output_option
def list_tokens(output: str) -> None:
    """List tokens, without their secrets."""
    with _store() as store:
        rows = [
            {
                "id": token.id,
                "role": str(token.role),
                "name": token.name,
                "workerId": token.worker_id,
                "createdAt": epoch_ms(token.created_at),
                "lastUsedAt": epoch_ms(token.last_used_at),
            }
            for token in store.tokens.list()
        ]
    if output == "json":
        show.as_json(rows)
    else:
        names = ["id", "role", "name", "workerId"]
        show.table([name.upper() for name in names], [[row[n] for n in names] for row in rows])


@tokens_command.command("revoke")
@click.argument("token_id")
@show.output_option
def revoke(token_id: str, output: str) -> None:
    """Take a token back by its id, the part between the underscores."""
    with _store() as store:
        if not store.tokens.revoke(token_id):
            raise NotFound("token", token_id)
    if output == "json":
        show.as_json({"id": token_id, "revoked": True})
    else:
        print(f"revoked {token_id}")


@contextmanager
def _store() -> Iterator[Store]:
    from taskyard import logs, settings
    from taskyard.store.client import connect

    logs.configure("WARNING")
    store = connect(settings.load())
    try:
        yield store
    finally:
        store.close()
