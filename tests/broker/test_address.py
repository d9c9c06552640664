"""The broker's address may name several hosts, as a replica set's does."""

from __future__ import annotations

import pytest

from taskyard.broker.transport import Transport


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("mongodb://h1:1/", "mongodb://h1:1/"),
        ("mongodb://h1:1,h2:2,h3:3/?replicaSet=rs", "mongodb://h1:1,h2:2,h3:3/?replicaSet=rs"),
        ("mongodb://me:secret@h1:1,h2:2/db", "mongodb://me:**@h1:1,h2:2/db"),
    ],
)
def test_an_address_is_shown_without_its_password(uri: str, shown: str) -> None:
    """Celery shows it when it starts; kombu itself took the list of hosts for a port."""
    assert Transport.as_uri(uri) == f"taskyard+{shown}"
    assert Transport.as_uri(uri, include_password=True) == f"taskyard+{uri}"
