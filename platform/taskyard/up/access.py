"""The operator token of ``up``: made once, kept as a hash, saved for this user's command line."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

from taskyard.addresses import is_loopback
from taskyard.client import config
from taskyard.client.config import Connection
from taskyard.store.client import Store
from taskyard.store.tokens import Role

#: How long a platform at the saved address may take to answer.
_ANSWER_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class Access:
    """A connection that may do everything, and whether its token is a new one."""

    connection: Connection
    #: A link that signs a browser in once, as long as its code is valid.
    sign_in_link: str
    is_new: bool = False
    #: Where it was saved for the command line; None if that file is for another server.
    saved_to: Path | None = None


def operator_access(store: Store, url: str) -> Access:
    """Return access with the saved token if it is an operator's in this database, else with a new
    token, which the caller shows once.
    """
    code = store.sign_in_codes.create(role=Role.OPERATOR, now=store.clock.now())
    link = f"{url}/sign-in?code={code}"
    saved = config.load({"TASKYARD_CONFIG_DIR": str(config.path().parent)})
    known = store.tokens.verify(saved.token) if saved.token else None
    is_known = known is not None and known.role is Role.OPERATOR
    token = saved.token if is_known else store.tokens.create(role="operator", name="up")
    mine = Connection(url=url, token=token)
    elsewhere = not is_known and not is_loopback(saved.url.partition("://")[2])
    foreign = saved.token and saved.url != url and (elsewhere or _is_up(saved.url))
    saved_to = None if foreign else config.save(mine)
    return Access(connection=mine, sign_in_link=link, is_new=not is_known, saved_to=saved_to)


def _is_up(url: str) -> bool:
    """Return whether a platform answers there: this user's commands then keep going to it."""
    try:
        with build_opener(ProxyHandler({})).open(f"{url}/healthz", None, _ANSWER_SECONDS) as answer:
            return bool(json.load(answer)["version"])
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError):
        return False
