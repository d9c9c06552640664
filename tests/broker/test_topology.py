"""Queues and bindings as they are stored."""

from __future__ import annotations

import pytest

from taskyard.broker.messages import Messages
from taskyard.broker.topology import Binding, QueueOptions, Topology
from taskyard.store.client import Store

#: Beyond the year 9999, which is the last one that a driver can read.
TOO_LATE_MS = 400_000 * 365 * 24 * 3600 * 1000


@pytest.fixture
def topology(store: Store) -> Topology:
    return Topology(store.database, "broker")


def test_bindings_whose_names_run_together_are_two(topology: Topology) -> None:
    topology.bind(Binding("a|b", "c", None, "direct"), "q", QueueOptions())
    topology.bind(Binding("a", "b|c", None, "direct"), "q", QueueOptions())
    assert topology.bound("a|b") == {("c", None, "q")}
    topology.unbind("a|b", "c", "q")
    assert (topology.bound("a|b"), topology.bound("a")) == (set(), {("b|c", None, "q")})


@pytest.mark.parametrize("again", [False, True])
def test_a_binding_of_an_earlier_version_is_one_until_it_is_taken_back(
    store: Store, topology: Topology, again: bool
) -> None:
    binding = {"exchange": "e", "routingKey": "k", "pattern": None, "queue": "q"}
    store.database["broker.bindings"].insert_one({"_id": "e|k|q", **binding})
    if again:
        topology.bind(Binding("e", "k", None, "direct"), "q", QueueOptions())
    assert topology.bound("e") == {("k", None, "q")}
    topology.unbind("e", "k", "q")
    assert topology.bound("e") == set()


def test_what_is_to_end_beyond_all_calendars_can_be_read(store: Store, topology: Topology) -> None:
    """A client that could not read it could read nothing that is claimed or listed with it."""
    topology.declare("q", QueueOptions(TOO_LATE_MS, 10**30))
    topology.bind(Binding("e", "k", None, "direct"), "q", QueueOptions(TOO_LATE_MS))
    messages = Messages(store.database, "broker")
    messages.publish("q", "lasts", ttl_ms=topology.message_ttl_ms("q"))
    messages.publish("q", "lasts, too", ttl_ms=TOO_LATE_MS)
    messages.publish("q", "never due", delay_ms=TOO_LATE_MS)
    assert len(messages.claim("q", 3, 1000)) == 2
    assert topology.bound("e")
    assert all(list(store.database[name].find()) for name in ("broker.queues", "broker.messages"))
