"""Each verb on messages while a command of it fails: nothing lost, nothing twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest
from bson import ObjectId
from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import PyMongoError

from taskyard.broker.deliveries import Claimed
from taskyard.broker.messages import MAX_DELIVERIES, Messages
from taskyard.broker.topology import Binding, QueueOptions, Topology
from tests.broker.faults.conftest import DATABASE, Document, Fail
from tests.helpers import empty, eventually

#: So long that no message comes back because its lease has ended.
LEASE_MS = 600_000

BINDING = Binding("e", "key", None, "direct")

FAULTS: dict[str, Document] = {
    "closed": {"closeConnection": True},
    "not primary": {"errorCode": 10107},
    "time limit": {"errorCode": 50},
    "exceeded": {"errorCode": 262},
    "no majority": {"writeConcernError": {"code": 64, "errmsg": "", "errInfo": {"wtimeout": True}}},
}

#: After these the driver searches for a primary anew, which is slow, so only a few verbs use them.
SLOW_FAULTS: dict[str, Document] = {
    "stepped down": {"errorCode": 189},
    "interrupted": {"errorCode": 11600},
    "shutting down, written": {"writeConcernError": {"code": 91, "errmsg": "shutting down"}},
}


@dataclass
class World:
    """The messages of one queue, and the same database seen by a client without faults."""

    messages: Messages
    topology: Topology
    seen: Database[Document]
    heal: Callable[[], None]

    def again(self, act: Callable[[], Any]) -> Any:
        """Act until it succeeds, and return the answer; an error ends the fault."""

        def done() -> Any:
            try:
                return [act()]
            except PyMongoError:
                self.heal()
                return None

        (answer,) = eventually(done, 30)
        return answer

    def there(self) -> list[Document]:
        return list(self.seen["broker.messages"].find().sort("_id"))

    def dead(self) -> list[Document]:
        return list(self.seen["broker.dead_letters"].find())

    def claimed(self, count: int = 1) -> list[Claimed]:
        """Claim as consumers do: again and again, until ``count`` messages are claimed."""
        found: list[Claimed] = []

        def all_of_them() -> bool:
            found.extend(self.again(lambda: self.messages.claim("q", count, LEASE_MS)))
            return len(found) >= count

        eventually(all_of_them, 30)
        return found

    def held(self, count: int = 1) -> list[Claimed]:
        for number in range(count):
            self.messages.publish("q", f"message {number}")
        return self.messages.claim("q", count, LEASE_MS)


Act = Callable[[World, Callable[[], None]], None]


@pytest.fixture
def world(database: Database[Document], admin: MongoClient[Document], fail: Fail) -> World:
    empty(admin[DATABASE])
    messages = Messages(database, "broker", publish_seconds=1)
    return World(
        messages,
        Topology(database, "broker"),
        admin[DATABASE],
        lambda: fail(["ping"], times=1, errorCode=2, app="nobody"),
    )


def publish(world: World, broken: Callable[[], None]) -> None:
    identity = ObjectId()
    broken()
    world.again(lambda: world.messages.publish("q", "hello", identity=identity))
    assert [found["payload"] for found in world.there()] == ["hello"]


def publish_with_end(world: World, broken: Callable[[], None]) -> None:
    identity = ObjectId()
    broken()
    world.again(
        lambda: world.messages.publish("q", "hello", identity=identity, delay_ms=1, ttl_ms=LEASE_MS)
    )
    (found,) = world.there()
    assert found["payload"] == "hello"
    assert found["expireAt"] == found["notAfter"]


def claim(world: World, broken: Callable[[], None]) -> None:
    """A claim whose answer was lost is found again, and need not wait for its lease to end."""
    world.messages.publish("q", "hello")
    broken()
    (one,) = world.claimed()
    assert (one.payload, one.deliveries) == ("hello", 1)
    assert world.again(lambda: world.messages.claim("q", 1, LEASE_MS)) == []
    assert world.again(lambda: world.messages.acknowledge([one.delivery])) == []
    assert world.there() == []


def claim_many(world: World, broken: Callable[[], None]) -> None:
    for number in range(5):
        world.messages.publish("q", str(number))
    broken()
    many = world.claimed(5)
    assert sorted(one.payload for one in many) == ["0", "1", "2", "3", "4"]
    assert {one.deliveries for one in many} == {1}
    assert world.again(lambda: world.messages.acknowledge([one.delivery for one in many])) == []
    assert world.there() == []


def renew(world: World, broken: Callable[[], None]) -> None:
    held = {one.delivery for one in world.held(3)}
    before = min(found["visibleAt"] for found in world.there())
    broken()
    assert world.again(lambda: world.messages.renew([*held], 2 * LEASE_MS)) == held
    after = min(found["visibleAt"] for found in world.there())
    assert (after - before).total_seconds() * 1000 >= LEASE_MS


def acknowledge(world: World, broken: Callable[[], None]) -> None:
    held = world.held(3)
    broken()
    assert world.again(lambda: world.messages.acknowledge([o.delivery for o in held[:2]])) == []
    assert [found["_id"] for found in world.there()] == [held[2].delivery.id]


def release(world: World, broken: Callable[[], None]) -> None:
    held = world.held(2)
    broken()
    deliveries = [one.delivery for one in held]
    world.again(lambda: world.messages.release(deliveries, undo_count=True))
    assert [(found["lease"], found["deliveries"]) for found in world.there()] == [(None, 0)] * 2


def bury(world: World, broken: Callable[[], None]) -> None:
    (one,) = world.held()
    broken()
    world.again(lambda: world.messages.bury(one.delivery, "rejected"))
    assert [(found["payload"], found["reason"]) for found in world.dead()] == [
        ("message 0", "rejected")
    ]
    assert world.there() == []


def bury_at_claim(world: World, broken: Callable[[], None]) -> None:
    """The other messages of a claim are not lost with one that cannot be buried now."""
    for number in range(3):
        world.messages.publish("q", str(number))
    world.seen["broker.messages"].update_one({"payload": "1"}, {"$set": {"deliveries": 9}})
    broken()
    many = world.claimed(2)
    assert sorted(one.payload for one in many) == ["0", "2"]
    world.again(lambda: world.messages.claim("q", 2, LEASE_MS))
    assert [found["payload"] for found in world.dead()] == ["1"]
    assert len(world.there()) == 2


def count_and_purge(world: World, broken: Callable[[], None]) -> None:
    world.held()
    world.messages.publish("q", "waits")
    broken()
    assert world.again(lambda: world.messages.count("q")) == 1
    world.again(lambda: world.messages.purge("q"))
    assert len(world.there()) == 1
    world.again(lambda: world.messages.drop("q"))
    assert world.there() == []


def make_indexes(world: World, broken: Callable[[], None]) -> None:
    broken()
    world.again(world.messages.ensure_indexes)
    world.again(world.topology.ensure_indexes)
    assert len(world.seen["broker.messages"].index_information()) == 3


def bind(world: World, broken: Callable[[], None]) -> None:
    options = QueueOptions(expires_ms=LEASE_MS)
    broken()
    world.again(lambda: world.topology.declare("q", options))
    world.again(lambda: world.topology.bind(BINDING, "q", options))
    world.again(lambda: world.topology.keep("q", options, [BINDING]))
    assert world.again(lambda: world.topology.exists("q"))
    assert world.again(lambda: world.topology.bound("e")) == {("key", None, "q")}
    world.again(lambda: world.topology.drop("q"))
    assert world.again(lambda: world.topology.bound("e")) == set()


TABLE: list[tuple[Act, str]] = [
    (publish, "insert"),
    (publish_with_end, "update"),
    (claim, "findAndModify"),
    (claim, "find"),
    (claim, "update"),
    (claim_many, "find"),
    (claim_many, "update"),
    (renew, "update"),
    (renew, "find"),
    (acknowledge, "delete"),
    (release, "update"),
    (bury, "find"),
    (bury, "update"),
    (bury, "delete"),
    (bury_at_claim, "update"),
    (bury_at_claim, "delete"),
    (count_and_purge, "aggregate"),
    (count_and_purge, "find"),
    (count_and_purge, "delete"),
    (make_indexes, "createIndexes"),
    (bind, "update"),
    (bind, "find"),
    (bind, "delete"),
]

READS = ("find", "aggregate")


def rows(faults: dict[str, Document]) -> list[tuple[Act, str, str]]:
    """Return all rows that make sense: a command that writes nothing waits for no majority."""
    return [
        (act, command, fault)
        for (act, command), fault in product(TABLE, faults)
        if not (command in READS and "writeConcernError" in faults[fault])
    ]


def name(part: Any) -> str:
    return str(getattr(part, "__name__", part))


@pytest.mark.parametrize(("act", "command", "fault"), rows(FAULTS), ids=name)
def test_a_command_that_fails_once_costs_nothing(
    world: World, fail: Fail, act: Act, command: str, fault: str
) -> None:
    act(world, lambda: fail([command], **FAULTS[fault]))


@pytest.mark.parametrize(
    ("act", "command", "fault"),
    [row for row in rows(FAULTS) if row[2] in ("closed", "time limit", "no majority")],
    ids=name,
)
def test_a_command_that_goes_on_failing_costs_nothing(
    world: World, fail: Fail, act: Act, command: str, fault: str
) -> None:
    """The fault lasts until the caller gets the error and tries again."""
    act(world, lambda: fail([command], times=10**6, **FAULTS[fault]))


@pytest.mark.parametrize(
    ("act", "command", "fault"),
    [row for row in rows(SLOW_FAULTS) if row[0] in (publish, claim, claim_many, acknowledge)],
    ids=name,
)
def test_a_primary_that_leaves_costs_nothing(
    world: World, fail: Fail, act: Act, command: str, fault: str
) -> None:
    act(world, lambda: fail([command], **SLOW_FAULTS[fault]))


def test_answers_that_are_lost_are_no_deliveries(world: World, fail: Fail) -> None:
    """A message is not buried because the network was bad: no consumer has seen it."""
    world.messages.publish("q", "hello")
    for _ in range(2 * MAX_DELIVERIES):
        fail(["findAndModify", "update"], **FAULTS["no majority"])
        with pytest.raises(PyMongoError):
            world.messages.claim("q", 1, LEASE_MS)
    (one,) = world.claimed()
    assert one.deliveries == 1
