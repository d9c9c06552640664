"""Where the API is and the token for it: from the environment, else from this user's own file."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from taskyard.errors import ConfigurationError

DEFAULT_URL = "http://127.0.0.1:8000"


@dataclass(frozen=True, kw_only=True)
class Connection:
    """An API and the token for it."""

    url: str = DEFAULT_URL
    token: str = ""


def load(env: Mapping[str, str] = os.environ) -> Connection:
    """Return the connection to use: TASKYARD_URL and TASKYARD_TOKEN before the file.

    The file's token is sent only to the file's address. With both variables set the file is not
    read, so that it need not be readable. Raises ConfigurationError.
    """
    url, token = env.get("TASKYARD_URL", "").rstrip("/"), env.get("TASKYARD_TOKEN", "")
    if url and token:
        return Connection(url=url, token=token)
    saved = _saved(path(env))
    url = url or saved.url
    return Connection(url=url, token=token or (saved.token if url == saved.url else ""))


def save(connection: Connection, env: Mapping[str, str] = os.environ) -> Path:
    """Save the connection for this user's eyes only; returns where. Raises ConfigurationError."""
    target = path(env)
    try:
        _write(target, connection)
    except OSError as error:
        raise ConfigurationError(
            f"{target} cannot be written: {error.strerror}. "
            "TASKYARD_CONFIG_DIR may name a folder that can."
        ) from None
    return target


def origin(env: Mapping[str, str] = os.environ) -> str:
    """Say where the address and the token come from. Raises ConfigurationError."""
    if env.get("TASKYARD_URL") and env.get("TASKYARD_TOKEN"):
        return "address: TASKYARD_URL; token: TASKYARD_TOKEN"
    # First, since this raises an error that says so if the file cannot be read.
    known = load(env)
    source = path(env)
    file = str(source) if source.exists() else "the default"
    address = "TASKYARD_URL" if env.get("TASKYARD_URL") else file
    token = file if known.token else "none"
    token = "TASKYARD_TOKEN" if env.get("TASKYARD_TOKEN") else token
    return f"address: {address}; token: {token}"


def path(env: Mapping[str, str] = os.environ) -> Path:
    """Return the file's path: in TASKYARD_CONFIG_DIR, else in the user's configuration folder.

    Raises ConfigurationError for a user without a home.
    """
    try:
        folder = env.get("TASKYARD_CONFIG_DIR") or platformdirs.user_config_dir("taskyard")
    except RuntimeError:
        raise ConfigurationError(
            "This user has no home to find the configuration in. "
            "Set HOME or TASKYARD_CONFIG_DIR, or TASKYARD_URL and TASKYARD_TOKEN."
        ) from None
    return Path(folder) / "config.toml"


def _write(target: Path, connection: Connection) -> None:
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = target.with_suffix(f".{os.getpid()}")
    draft.unlink(missing_ok=True)
    # A JSON string is a TOML basic string too.
    lines = (f"{name} = {json.dumps(value)}\n" for name, value in vars(connection).items())
    with open(draft, "x", opener=lambda p, f: os.open(p, f, 0o600)) as file:
        file.writelines(lines)
    draft.replace(target)


def _saved(source: Path) -> Connection:
    try:
        text = source.read_text(encoding="utf-8")
    except FileNotFoundError:
        return Connection()
    except OSError as error:
        raise ConfigurationError(f"{source} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{source} is not TOML: it is no text in UTF-8.") from None
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{source} is not TOML: {error}.") from None
    url, token = values.get("url", DEFAULT_URL), values.get("token", "")
    if not isinstance(url, str) or not isinstance(token, str):
        raise ConfigurationError(f"{source}: url and token must be strings.")
    return Connection(url=url.rstrip("/"), token=token)
