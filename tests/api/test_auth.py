"""Who may use which route, checked for every route that exists."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from flask.testing import FlaskClient

from taskyard.api.app import create_app
from taskyard.api.auth import OPEN, ROLES
from taskyard.context import Platform
from taskyard.dashboard import live
from tests.api.conftest import As

METHODS = ("GET", "POST", "PUT", "DELETE")


def routes(platform: Platform) -> list[tuple[str, str, str]]:
    """Return every route as (method, path, endpoint)."""
    found = []
    for rule in create_app(platform).url_map.iter_rules():
        path = rule.rule
        for argument in rule.arguments:
            path = path.replace(f"<path:{argument}>", "x").replace(f"<{argument}>", "x")
        found += [(m, path, rule.endpoint) for m in METHODS if m in (rule.methods or ())]
    return found


def test_every_route_but_health_and_sign_in_asks_for_a_token(
    platform: Platform, anonymous: FlaskClient
) -> None:
    walked = 0
    for method, path, endpoint in routes(platform):
        answer = anonymous.open(path, method=method, buffered=True)
        if endpoint in OPEN:
            assert answer.status_code != 403, (method, path)
            continue
        walked += 1
        page = answer.status_code == 302 and "/sign-in" in answer.headers["Location"]
        assert page or answer.status_code == 401, (method, path, answer.status_code)
    assert walked > 30


def test_a_token_that_is_not_known_is_told_from_none(
    platform: Platform, anonymous: FlaskClient
) -> None:
    revoked = platform.store.tokens.create(role="viewer", name="v")
    platform.store.tokens.revoke(revoked.split("_")[1])
    for sent, words in (
        (None, "Send a token"),
        ("Basic bWU6c2VjcmV0", "Send a token"),
        ("Bearer tyk_a_b", "not known"),
        (f"Bearer {revoked}", "not known"),
    ):
        answer = anonymous.get("/api/jobs/list", headers={"Authorization": sent} if sent else {})
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert words in answer.get_json()["error"], sent


def test_every_route_has_its_roles(platform: Platform) -> None:
    endpoints = {endpoint for _, _, endpoint in routes(platform)}
    assert endpoints - OPEN == set(ROLES)


@pytest.mark.parametrize("role", ["viewer", "operator", "agent"])
def test_a_role_does_what_the_table_says_and_no_more(
    platform: Platform, as_role: As, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "OPEN_SECONDS", 0)
    client = as_role(role)
    for method, path, endpoint in routes(platform):
        if endpoint in OPEN:
            continue
        answer = client.open(path, method=method, buffered=True)
        forbidden = answer.status_code == 403
        assert forbidden == (role not in ROLES[endpoint]), (method, path, answer.status_code)


def test_a_viewer_cannot_keep_an_attempt_alive(as_role: As) -> None:
    answer = as_role("viewer").get("/api/jobs/check-cancel?jobId=gone&workerId=w")
    assert answer.status_code == 403


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", "Bearer tyk_", "Bearer tyk_a_b", "Basic dXNlcjpwYXNz", "tyk_a_b"],
)
def test_a_token_that_is_none_is_401(anonymous: FlaskClient, header: str) -> None:
    answer = anonymous.get("/api/jobs/list", headers={"Authorization": header})
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_a_revoked_token_is_refused_at_once(platform: Platform, anonymous: FlaskClient) -> None:
    token = platform.store.tokens.create(role="viewer", name="v")
    headers = {"Authorization": f"Bearer {token}"}
    assert anonymous.get("/api/jobs/list", headers=headers).status_code == 200
    platform.store.tokens.revoke(token.split("_")[1])
    assert anonymous.get("/api/jobs/list", headers=headers).status_code == 401


def test_only_a_hash_of_a_token_is_kept(platform: Platform) -> None:
    token = platform.store.tokens.create(role="viewer", name="v")
    kept = str(list(platform.store.database["tokens"].find()))
    assert token.split("_")[2] not in kept


def test_a_cookie_changes_nothing_for_a_foreign_page(
    platform: Platform, anonymous: FlaskClient
) -> None:
    token = platform.store.tokens.create(role="operator", name="o")
    anonymous.set_cookie("taskyard_token", token)
    body = {"command": "true"}
    foreign = {"Origin": "http://evil.example"}
    unreadable = {"Origin": "http://["}
    own = {"Origin": "http://localhost"}
    cross = {"Sec-Fetch-Site": "cross-site", **own}
    path = "/api/jobs/create"
    assert anonymous.post(path, json=body, headers=foreign).status_code == 403
    assert anonymous.post(path, json=body, headers=unreadable).status_code == 403
    assert anonymous.post(path, json=body, headers=cross).status_code == 403
    assert anonymous.post(path, json=body).status_code == 403
    assert anonymous.post(path, json=body, headers=own).status_code == 201


def test_every_answer_carries_the_security_headers(anonymous: FlaskClient) -> None:
    headers = anonymous.get("/sign-in").headers
    assert "default-src 'self'" in headers["Content-Security-Policy"]
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["X-Request-Id"]


@pytest.fixture
def open_to_all(with_settings: Callable[..., Platform]) -> FlaskClient:
    """A client of a platform that works without tokens."""
    return create_app(with_settings(auth=False)).test_client()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 201),
        ({"Origin": "http://localhost"}, 201),
        ({"Sec-Fetch-Site": "same-origin"}, 201),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://["}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Origin": "http://localhost"}, 403),
    ],
)
def test_without_tokens_a_foreign_page_changes_nothing(
    open_to_all: FlaskClient, headers: dict[str, str], status: int
) -> None:
    answer = open_to_all.post("/api/jobs/create", json={"command": "true"}, headers=headers)
    assert answer.status_code == status


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *[(host, 200) for host in ("localhost:8600", "127.0.0.1", "[::1]:8600")],
        *[(host, 403) for host in ("evil.example", "127.evil.example:8600", "10.0.0.1", "[")],
    ],
)
def test_without_tokens_a_foreign_name_for_this_host_reads_nothing(
    open_to_all: FlaskClient, host: str, status: int
) -> None:
    answer = open_to_all.get("/api/jobs/list", headers={"Host": host})
    assert answer.status_code == status


@pytest.mark.parametrize("path", ["/sign-in", "/theme"])
def test_an_origin_that_cannot_be_read_is_foreign(anonymous: FlaskClient, path: str) -> None:
    assert anonymous.post(path, headers={"Origin": "http://["}).status_code == 403
