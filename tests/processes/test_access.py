"""The address and token that ``up`` leaves for the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from taskyard.client import config
from taskyard.context import Platform
from taskyard.store.tokens import Role
from taskyard.up.access import operator_access
from tests.serving import served

ANOTHER = "http://127.0.0.1:1"


@pytest.mark.parametrize("same_database", [True, False])
def test_commands_go_on_to_the_platform_that_was_up_first_for_as_long_as_it_is(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same_database: bool
) -> None:
    monkeypatch.setenv("TASKYARD_CONFIG_DIR", str(tmp_path))
    with served(platform) as url:
        first = operator_access(platform.store, url)
        assert first.saved_to
        assert config.load() == first.connection
        if not same_database:
            platform.store.database.tokens.delete_many({})
            platform.store.tokens._known.clear()
        second = operator_access(platform.store, ANOTHER)
        assert second.saved_to is None
        assert config.load() == first.connection
        known = platform.store.tokens.verify(second.connection.token)
        assert known is not None
        assert known.role is Role.OPERATOR
    third = operator_access(platform.store, ANOTHER)
    assert third.saved_to
    assert config.load() == third.connection
    assert third.connection.url == ANOTHER


def test_commands_do_not_go_on_to_something_else_at_that_address(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASKYARD_CONFIG_DIR", str(tmp_path))
    with served(platform) as url:
        # The server answers at that address, but has no such route.
        config.save(config.Connection(url=f"{url}/elsewhere", token="tyk_a_b"))
        granted = operator_access(platform.store, ANOTHER)
    assert granted.is_new
    assert config.load() == granted.connection
