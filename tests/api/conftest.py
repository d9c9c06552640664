"""A client for the application over a real store, one per role."""

from __future__ import annotations

from typing import Protocol

import pytest
from flask.testing import FlaskClient

from taskyard.api.app import create_app
from taskyard.context import Platform


class As(Protocol):
    """Makes a client with a token of the role, bound to a worker or not."""

    def __call__(self, role: str, worker_id: str | None = None, /) -> FlaskClient: ...


@pytest.fixture
def as_role(platform: Platform) -> As:
    """A client whose every request carries a token of the role."""
    app = create_app(platform)

    def make(role: str, worker_id: str | None = None) -> FlaskClient:
        token = platform.store.tokens.create(role=role, name=f"a {role}", worker_id=worker_id)
        client = app.test_client()
        client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {token}"
        return client

    return make


@pytest.fixture
def api(as_role: As) -> FlaskClient:
    """An operator's client."""
    return as_role("operator")


@pytest.fixture
def anonymous(platform: Platform) -> FlaskClient:
    """A client without a token."""
    return create_app(platform).test_client()
