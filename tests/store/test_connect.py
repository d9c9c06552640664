"""What a user is told whose MongoDB cannot be used: one line, and what to put right."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from pymongo import MongoClient, ReadPreference, WriteConcern
from pymongo.errors import PyMongoError

from taskyard.addresses import free_port
from taskyard.embedded import EmbeddedServer, dies_with_us, find_mongod
from taskyard.errors import ConfigurationError, StoreUnavailable
from taskyard.settings import Settings
from taskyard.store import client as store_client
from taskyard.store import passes
from taskyard.store.indexes import ensure_indexes
from tests.conftest import Racing
from tests.helpers import eventually


@pytest.fixture
def start_mongod(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Starts a mongod as somebody might by hand, and returns its URI."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*flags: str) -> str:
        port, folder = free_port(), tmp_path / f"db{len(started)}"
        folder.mkdir()
        command = [str(find_mongod()), "--dbpath", str(folder), "--port", str(port), *flags]
        started.append(
            subprocess.Popen(
                [*dies_with_us(), *command, "--nounixsocket"], stdout=subprocess.DEVNULL
            )
        )
        uri = f"mongodb://127.0.0.1:{port}/?directConnection=true"
        eventually(lambda: _answers(uri), 30)
        return uri

    yield start
    for process in started:
        process.kill()
        process.wait()


def _answers(uri: str) -> bool:
    client: MongoClient[dict[str, object]]
    with MongoClient(uri, serverSelectionTimeoutMS=200) as client:
        try:
            return bool(client.admin.command("ping")["ok"])
        except PyMongoError:
            return False


@pytest.mark.parametrize("user", ["", "nobody:wrong@", "stranger:secret@"])
def test_a_user_who_may_not_is_a_setting_that_is_wrong(
    mongod: EmbeddedServer, store: store_client.Store, user: str
) -> None:
    """No user, an unknown user, and a user with rights on another database only."""
    admin = store.client.admin
    if not admin.command("usersInfo", "stranger")["users"]:
        roles = [{"role": "readWrite", "db": "elsewhere"}]
        admin.command("createUser", "stranger", pwd="secret", roles=roles)
    uri = re.sub("//.*@", f"//{user}", mongod.uri)
    with pytest.raises(ConfigurationError, match="does not let the user of MONGODB_URI in") as told:
        store_client.connect(Settings(mongodb_uri=uri, database="tests"))
    assert "secret" not in str(told.value)


@pytest.mark.parametrize("name", ["newest", "by_hand"])
def test_an_index_that_somebody_made_is_named(
    mongod: EmbeddedServer, store: store_client.Store, name: str
) -> None:
    """The same keys under another name, as MongoDB's advisers create them, or the same name with
    other keys.
    """
    database = store.client["tests_other_index"]
    keys = [("createdAt", -1), ("_id", -1)] if name == "by_hand" else [("createdAt", 1)]
    database["jobs"].create_index(keys, name=name)
    try:
        with pytest.raises(ConfigurationError, match=f"drop it: .*{name}"):
            store_client.connect(Settings(mongodb_uri=mongod.uri, database=database.name))
    finally:
        store.client.drop_database(database)


def test_a_server_that_is_no_set_is_told_from_one_that_is_none_yet(
    start_mongod: Callable[..., str],
) -> None:
    with pytest.raises(ConfigurationError, match="--replSet"):
        store_client.connect(Settings(mongodb_uri=start_mongod()))
    with pytest.raises(StoreUnavailable, match=r"rs\.initiate"):
        store_client.connect(Settings(mongodb_uri=start_mongod("--replSet", "rs0")))


def test_a_uri_that_would_read_from_secondaries_reads_from_the_primary_all_the_same(
    mongod: EmbeddedServer,
) -> None:
    uri = f"{mongod.uri}&readPreference=secondary"
    with closing(store_client.connect(Settings(mongodb_uri=uri, database="tests"))) as store:
        assert store.database.read_preference == ReadPreference.PRIMARY
        store.locks.note_scheduler(now=store.clock.now())
        assert store.locks.scheduler_seen_at()


def test_what_a_uri_says_of_writes_changes_none(
    mongod: EmbeddedServer,
) -> None:
    uri = f"{mongod.uri}&w=1&journal=false"
    with closing(store_client.connect(Settings(mongodb_uri=uri, database="tests"))) as store:
        assert store.database["jobs"].write_concern == WriteConcern("majority")


@pytest.mark.parametrize("held_by_an_earlier_version", [False, True])
def test_processes_that_start_at_once_prepare_the_database_together(
    store: store_client.Store, racing: Racing, held_by_an_earlier_version: bool
) -> None:
    """A new database, and one of an earlier version: the slower find the work already done."""
    database = store.client["tests_started_at_once"]
    for _ in range(4):
        if held_by_an_earlier_version:
            database["jobs"].create_index("assignedAgentId", name="held")
        else:
            store.client.drop_database(database)
        racing(lambda: ensure_indexes(database), 4)
    names = set(database["jobs"].index_information())
    assert names & {"held", "held_by"} == {"held_by"}
    assert database[passes.COLLECTION].options()["capped"]
    store.client.drop_database(database)


def test_a_server_that_is_not_there_is_told_soon() -> None:
    uri = "mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=300"
    with pytest.raises(StoreUnavailable, match="MongoDB does not answer"):
        store_client.connect(Settings(mongodb_uri=uri))


@pytest.mark.parametrize(
    "uri", ["http://x", "localhost:8650", "mongodb://", "mongodb://a:b@:c/", "mongodb://u:p@ss@h/"]
)
def test_a_uri_that_makes_no_sense_is_a_setting_that_is_wrong(uri: str) -> None:
    with pytest.raises(ConfigurationError, match="MONGODB_URI cannot be used"):
        store_client.connect(Settings(mongodb_uri=uri))
