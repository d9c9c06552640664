"""The replica set of one member, with access control: made once, waited for at every start."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskyard.errors import EmbeddedServerError

if TYPE_CHECKING:
    from pymongo import MongoClient

REPLICA_SET = "taskyard"
USER = "taskyard"

#: How long a server that starts may take until it accepts writes.
START_SECONDS = 60.0

#: How long one try waits for the server; between two tries it is checked that its process lives.
LOOK_MS = 500

#: How long a new set may have no primary, and so no user: until then a refused sign-in does not
#: mean that the password is wrong.
FIRST_PRIMARY_SECONDS = 10.0


def uri(port: int, password: str) -> str:
    """Return the URI with which the server's only user connects."""
    return f"mongodb://{USER}:{password}@127.0.0.1:{port}/?directConnection=true&authSource=admin"


def await_primary(
    port: int, password: str, data_dir: Path, check_alive: Callable[[], None]
) -> bool:
    """Wait until the server accepts writes, and make its set and user the first time. Returns
    whether it accepts them in time.

    ``check_alive`` raises when there is nothing to wait for any more. Raises EmbeddedServerError
    when the password is not the one with which the data was made.
    """
    from pymongo import MongoClient
    from pymongo.errors import OperationFailure, PyMongoError

    began = time.monotonic()
    # MongoDB's localhost exception admits anonymous clients until there is a user.
    anonymous: MongoClient[dict[str, Any]]
    client: MongoClient[dict[str, Any]]
    with (
        MongoClient(
            f"mongodb://127.0.0.1:{port}/?directConnection=true", serverSelectionTimeoutMS=LOOK_MS
        ) as anonymous,
        MongoClient(uri(port, password), serverSelectionTimeoutMS=LOOK_MS) as client,
    ):
        while time.monotonic() < began + START_SECONDS:
            check_alive()
            # A new set has no user before it has its primary.
            has_user = time.monotonic() > began + FIRST_PRIMARY_SECONDS
            try:
                if anonymous.admin.command("hello").get("isWritablePrimary"):
                    has_user = True
                    _ensure_user(anonymous, client, password)
                    return True
                _ensure_member(anonymous, client, port)
            except OperationFailure as error:
                if error.code == 18 and has_user:  # AuthenticationFailed
                    raise EmbeddedServerError(
                        f"The password in {data_dir} is not that of its data."
                    ) from None
            except PyMongoError:
                pass  # not up yet
            time.sleep(0.05)
    return False


def _ensure_member(
    anonymous: MongoClient[dict[str, Any]], client: MongoClient[dict[str, Any]], port: int
) -> None:
    """Make the set the first time; after a change of port, give its member the new name."""
    from pymongo.errors import OperationFailure

    member = {"_id": 0, "host": f"127.0.0.1:{port}"}
    try:
        anonymous.admin.command("replSetInitiate", {"_id": REPLICA_SET, "members": [member]})
        return
    except OperationFailure as error:
        if error.code not in (13, 23):  # Unauthorized, AlreadyInitialized
            raise
    config = client.admin.command("replSetGetConfig")["config"]
    if config["members"][0]["host"] != member["host"]:
        config["members"][0]["host"] = member["host"]
        config["version"] += 1
        client.admin.command("replSetReconfig", config, force=True)


def _ensure_user(
    anonymous: MongoClient[dict[str, Any]], client: MongoClient[dict[str, Any]], password: str
) -> None:
    """Make the only user the first time; check that the password is right."""
    from pymongo.errors import OperationFailure

    try:
        anonymous.admin.command("createUser", USER, pwd=password, roles=["root"])
    except OperationFailure as error:
        if error.code not in (13, 51003):  # Unauthorized, the user exists
            raise
    client.admin.command("ping")
