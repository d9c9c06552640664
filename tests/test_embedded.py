"""Our own mongod, started on folders that earlier starts left in every state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from taskyard.embedded import EmbeddedServer, primary
from taskyard.errors import EmbeddedServerError


def test_a_start_that_was_cut_before_the_user_was_made_is_made_good_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(primary, "_ensure_user", cut)
        with pytest.raises(KeyboardInterrupt):
            EmbeddedServer(tmp_path).start()
    with EmbeddedServer(tmp_path) as server, MongoClient[dict[str, Any]](server.uri) as client:
        assert client.admin.command("ping")["ok"] == 1


def test_a_password_that_is_not_that_of_the_data_is_said_to_be_so(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path):
        pass
    (tmp_path / "password").chmod(0o600)
    (tmp_path / "password").write_text("another")
    with pytest.raises(EmbeddedServerError, match="is not that of its data"):
        EmbeddedServer(tmp_path).start()
