"""Broker URIs as people write them, and as Celery shows them."""

from __future__ import annotations

import pytest

from taskyard.broker.transport import Transport

HOSTS = "db1:27017,db2:27018,db3:27019"


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("mongodb://localhost/", "mongodb://localhost/"),
        ("mongodb://localhost:27017/?x=1", "mongodb://localhost:27017/?x=1"),
        ("mongodb://u:secret@db1/", "mongodb://u:**@db1/"),
        (f"mongodb://{HOSTS}/?replicaSet=rs", f"mongodb://{HOSTS}/?replicaSet=rs"),
        (f"mongodb://u:se%40cret@{HOSTS}/d?a=b", f"mongodb://u:**@{HOSTS}/d?a=b"),
    ],
)
def test_a_uri_is_shown_with_all_its_hosts_and_no_password(uri: str, shown: str) -> None:
    assert Transport.as_uri(uri) == f"taskyard+{shown}"
    assert Transport.as_uri(uri, include_password=True) == f"taskyard+{uri}"
