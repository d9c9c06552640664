"""Brokers with workers that all tests of a module share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kombu import Connection

from taskyard.embedded import EmbeddedServer
from tests.broker.site import Site, Worker

OpenSite = Callable[..., Site]


@pytest.fixture(scope="module")
def open_site(
    mongod: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OpenSite]:
    """A function that returns a new broker, which is closed at the end of the module."""
    opened: list[Site] = []

    def make(**transport_options: Any) -> Site:
        site = Site(tmp_path_factory.mktemp("site"), mongod.uri, **transport_options)
        opened.append(site)
        return site

    yield make
    for site in opened:
        site.close()


@pytest.fixture(scope="module")
def site(open_site: OpenSite) -> Site:
    """One broker for all tests of a module."""
    return open_site()


@pytest.fixture
def connection(site: Site) -> Iterator[Connection]:
    """A connection to the broker of this module."""
    with site.app.connection_for_read() as opened:
        yield opened


@pytest.fixture(scope="module")
def workers(site: Site) -> list[Worker]:
    """Two workers of this module, one with processes and one with threads."""
    started = [site.start("-E"), site.start("-E", pool="threads")]
    return [worker.await_ready() for worker in started]
