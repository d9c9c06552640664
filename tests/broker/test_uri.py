"""Broker URIs as people write them, and as Celery shows them."""

from __future__ import annotations

import pytest
from pymongo import ReadPreference

from taskyard.broker.connection import Address, _open
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


def test_a_uri_that_would_read_from_secondaries_reads_from_the_primary_all_the_same() -> None:
    """What was just published must be found."""
    uri = "mongodb://127.0.0.1:1/?readPreference=secondary"
    for purpose in ("work", "watch"):
        with _open(Address(uri, "celery", "broker"), purpose) as client:
            assert client.read_preference == ReadPreference.PRIMARY
