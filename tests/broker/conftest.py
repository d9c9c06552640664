"""Brokers and workers for the tests of a module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from taskyard.embedded import EmbeddedServer
from tests.broker.site import Site

OpenSite = Callable[..., Site]


@pytest.fixture(scope="module")
def open_site(
    mongod: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OpenSite]:
    """Makes brokers that end with the module."""
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
    """One broker for the tests of a module."""
    return open_site()
