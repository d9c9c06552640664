"""Health and readiness."""

from __future__ import annotations

from collections.abc import Callable

from flask.testing import FlaskClient

from tests.conftest import TestClock


def test_healthz_answers_without_a_token(anonymous: FlaskClient) -> None:
    assert anonymous.get("/healthz").get_json()["status"] == "ok"


def test_readyz_says_which_part_is_missing(
    anonymous: FlaskClient, tick: Callable[[str], None], clock: TestClock
) -> None:
    before = anonymous.get("/readyz")
    assert before.status_code == 503
    assert before.get_json()["checks"]["tick.assignment"]["ok"] is False
    for name in ("timeouts", "health", "assignment"):
        tick(name)
    assert anonymous.get("/readyz").status_code == 200
    clock.advance(3600)
    assert anonymous.get("/readyz").status_code == 503
