"""Test clients for the application with a real store, one for each role."""

from __future__ import annotations

from typing import Protocol

import pytest
from flask.testing import FlaskClient

from taskyard.api.app import create_app
from taskyard.context import Platform
from tests.api.agents import HttpAgent, registered


class As(Protocol):
    """A function that returns a client with a token of a role, which may be bound to a worker."""

    def __call__(self, role: str, worker_id: str | None = None, /) -> FlaskClient: ...


@pytest.fixture
def as_role(platform: Platform) -> As:
    """A function that returns a client of a role, with its token in every request."""
    app = create_app(platform)

    def make(role: str, worker_id: str | None = None) -> FlaskClient:
        token = platform.store.tokens.create(role=role, name=f"a {role}", worker_id=worker_id)
        client = app.test_client()
        client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {token}"
        return client

    return make


@pytest.fixture
def api(as_role: As) -> FlaskClient:
    """A client with an operator's token."""
    return as_role("operator")


@pytest.fixture
def agent(api: FlaskClient) -> HttpAgent:
    """A registered agent that sends no leases."""
    return registered(api)


@pytest.fixture
def anonymous(platform: Platform) -> FlaskClient:
    """A client without a token."""
    return create_app(platform).test_client()
