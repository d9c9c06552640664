"""Broker URIs as people write them and as Celery shows them, and what their options do."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
from kombu import Connection
from pymongo import ReadPreference, WriteConcern

from taskyard.broker import SCHEME
from taskyard.broker.connection import CONNECT_TIMEOUT_MS, Address, Clients
from taskyard.broker.transport import Transport
from tests.broker.site import Site

HOSTS = "db1:27017,db2:27018,db3:27019"


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("mongodb://localhost/", "mongodb://localhost/"),
        ("mongodb://localhost:27017/?x=1", "mongodb://localhost:27017/?x=1"),
        ("mongodb://u:secret@db1/", "mongodb://u:**@db1/"),
        (f"mongodb://{HOSTS}/?replicaSet=rs", f"mongodb://{HOSTS}/?replicaSet=rs"),
        (
            "mongodb://db1/?authMechanismProperties=AWS_SESSION_TOKEN:secret"
            "&TLSCertificateKeyFilePassword=secret&tls=true",
            "mongodb://db1/?authMechanismProperties=**&TLSCertificateKeyFilePassword=**&tls=true",
        ),
        (f"mongodb://u:se%40cret@{HOSTS}/d?a=b", f"mongodb://u:**@{HOSTS}/d?a=b"),
    ],
)
def test_a_uri_is_shown_with_all_its_hosts_and_no_password(uri: str, shown: str) -> None:
    assert Transport.as_uri(uri) == f"taskyard+{shown}"
    assert Transport.as_uri(uri, include_password=True) == f"taskyard+{uri}"


def test_what_a_uri_says_goes_but_for_what_is_promised() -> None:
    said = "timeoutMS=60000&appName=mine&readPreference=secondary&w=1&journal=false"
    address = Address(f"mongodb://db1/?{said}", "d", "broker")
    database = Clients().database(address)
    options = database.client.options
    assert (options.timeout, options.pool_options.appname) == (60, "mine")
    assert options.pool_options.connect_timeout == CONNECT_TIMEOUT_MS / 1000
    assert database.read_preference == ReadPreference.PRIMARY
    assert database.write_concern == WriteConcern("majority")
    database.client.close()


@pytest.mark.parametrize(
    "options", [{}, {"compressors": ["zlib"]}, {"authMechanismProperties": {"SERVICE_NAME": "x"}}]
)
def test_connections_share_one_broker_however_many_are_opened_at_once(
    site: Site, options: dict[str, Any]
) -> None:
    together = Barrier(8)
    transport_options = {"database": site.database_name, "client_options": options}

    def broker_of_one(_: int) -> object:
        connection = Connection(f"{SCHEME}+{site.mongodb_uri}", transport_options=transport_options)
        transport = connection.get_transport_cls()(connection)
        together.wait()
        return transport.broker

    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(broker_of_one, range(8)))) == 1


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("lease_seconds", 0),
        ("lease_seconds", "30"),
        ("max_deliveries", 0),
        ("max_deliveries", True),
        ("publish_seconds", float("nan")),
        ("publish_seconds", None),
        ("lease_seconds", 1e11),  # used to end the thread that renews and acknowledges
        ("publish_seconds", 3e6),
        ("max_deliveries", 10**7),
        ("database", 5),
        ("prefix", None),
        ("client_options", "tls=true"),
        ("client_options", ["tls"]),
    ],
)
def test_an_option_that_would_lose_messages_is_refused_by_its_name(
    option: str, value: object
) -> None:
    options = {option: value}
    connection = Connection(f"{SCHEME}+mongodb://db1/", transport_options=options)
    with pytest.raises(ValueError, match=f"broker_transport_options: {option} must"):
        connection.connect()
