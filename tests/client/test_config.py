"""Which address and which token the client uses."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from taskyard.client import Client, config
from taskyard.client.config import DEFAULT_URL, Connection
from taskyard.errors import ConfigurationError

SAVED = Connection(url="http://127.0.0.1:9", token='tyk_"a\\b"')


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {"TASKYARD_CONFIG_DIR": str(tmp_path / "config")}


def test_without_anything_it_is_loopback_without_a_token(env: dict[str, str]) -> None:
    assert config.load(env) == Connection(url=DEFAULT_URL, token="")


def test_what_is_saved_is_found_and_is_this_users_alone(env: dict[str, str]) -> None:
    path = config.save(SAVED, env)
    assert config.load(env) == SAVED
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    config.save(Connection(url="http://other", token="t"), env)
    assert config.load(env).token == "t"


def test_the_environment_goes_first(env: dict[str, str]) -> None:
    config.save(SAVED, env)
    named = {**env, "TASKYARD_URL": "http://elsewhere/", "TASKYARD_TOKEN": "mine"}
    assert config.load(named) == Connection(url="http://elsewhere", token="mine")


def test_the_saved_token_goes_to_no_other_address(env: dict[str, str]) -> None:
    config.save(SAVED, env)
    assert config.load({**env, "TASKYARD_URL": "http://elsewhere"}).token == ""


@pytest.mark.parametrize(
    ("saved", "more", "said"),
    [
        (False, {}, "address: the default; token: none"),
        (False, {"TASKYARD_TOKEN": "t"}, "address: the default; token: TASKYARD_TOKEN"),
        (True, {}, "address: FILE; token: FILE"),
        (True, {"TASKYARD_TOKEN": "t"}, "address: FILE; token: TASKYARD_TOKEN"),
        (True, {"TASKYARD_URL": "http://elsewhere"}, "address: TASKYARD_URL; token: none"),
        (True, {"TASKYARD_URL": SAVED.url}, "address: TASKYARD_URL; token: FILE"),
    ],
)
def test_it_can_be_told_where_address_and_token_come_from(
    env: dict[str, str], saved: bool, more: dict[str, str], said: str
) -> None:
    if saved:
        config.save(SAVED, env)
    assert config.origin({**env, **more}) == said.replace("FILE", str(config.path(env)))


def test_a_folder_that_cannot_be_written_is_named(env: dict[str, str]) -> None:
    config.path(env).parent.parent.joinpath("config").write_text("a file")
    with pytest.raises(ConfigurationError, match=r"config\.toml cannot be written"):
        config.save(SAVED, env)


GIVEN = {"TASKYARD_URL": "http://elsewhere", "TASKYARD_TOKEN": "mine"}


def _has_no_home(monkeypatch: pytest.MonkeyPatch, env: dict[str, str]) -> None:
    def fails(_: str) -> str:
        raise RuntimeError("could not determine the home directory")

    env.clear()
    monkeypatch.setattr("platformdirs.user_config_dir", fails)


def _cannot_read(_: pytest.MonkeyPatch, env: dict[str, str]) -> None:
    # A folder in place of the file, because not even root can read that.
    config.path(env).mkdir(parents=True)


@pytest.mark.parametrize("lacks_file", [_has_no_home, _cannot_read])
def test_no_file_is_needed_by_who_is_told_address_and_token(
    env: dict[str, str], monkeypatch: pytest.MonkeyPatch, lacks_file: Callable[..., None]
) -> None:
    lacks_file(monkeypatch, env)
    assert config.load({**env, **GIVEN}) == Connection(url="http://elsewhere", token="mine")
    assert config.origin({**env, **GIVEN}) == "address: TASKYARD_URL; token: TASKYARD_TOKEN"
    for read in (config.load, config.origin):
        with pytest.raises(ConfigurationError, match=r"no home|config\.toml cannot be read"):
            read(env)
    monkeypatch.setattr(config, "load", lambda: pytest.fail("it was told both"))
    Client("http://elsewhere", "mine").close()


@pytest.mark.parametrize("content", [b"url = ", b"url = 5", b"token = []", b'token = "\xff"'])
def test_a_file_that_makes_no_sense_is_named(env: dict[str, str], content: bytes) -> None:
    path = config.path(env)
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"config\.toml"):
        config.load(env)
