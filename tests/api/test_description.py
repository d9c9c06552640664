"""The OpenAPI document tells whoever reads it alone what there is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flask.testing import FlaskClient


@pytest.fixture
def document(api: FlaskClient) -> dict[str, Any]:
    answer: dict[str, Any] = api.get("/api/openapi.json").get_json()
    return answer


def test_every_schema_is_described(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert [name for name, schema in schemas.items() if not schema.get("description")] == []


def test_every_route_has_a_summary(document: dict[str, Any]) -> None:
    routes = [route for path in document["paths"].values() for route in path.values()]
    assert [route for route in routes if isinstance(route, dict) and not route.get("summary")] == []


def test_groups_of_routes_are_told_apart(document: dict[str, Any]) -> None:
    described = [tag["description"] for tag in document["tags"]]
    assert len(described) == len(set(described)) > 1


def test_nothing_is_described_that_no_route_uses(document: dict[str, Any]) -> None:
    schemas, text = document["components"]["schemas"], json.dumps(document)
    assert [name for name in schemas if f'"#/components/schemas/{name}"' not in text] == []
    assert "PAGINATION" not in text
