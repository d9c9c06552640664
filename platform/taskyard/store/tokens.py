"""API tokens: ``tyk_<id>_<secret>``; only a hash of the secret is kept."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from pymongo.database import Database

from taskyard import events
from taskyard.clock import Clock
from taskyard.documents import to_record

#: A token's last use is noted at most this often, so that reads stay reads.
_NOTE_USE_EVERY = timedelta(minutes=1)

#: How long a process remembers a valid token: most requests then need no read, and a token that
#: another process revoked is accepted no longer than this.
KNOWN_SECONDS = 1.0

_KNOWN_MOST = 1000


class Role(StrEnum):
    """What a token may do: viewer reads; operator also acts; agent does what HTTP agents do."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    AGENT = "agent"


@dataclass(frozen=True, kw_only=True)
class Token:
    """A token without its secret."""

    id: str
    role: Role
    name: str
    #: An agent token may be bound to one worker.
    worker_id: str | None = None
    created_at: datetime
    last_used_at: datetime | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "role", Role(self.role))


class TokenStore:
    """Verbs on tokens."""

    def __init__(self, database: Database[dict[str, Any]], clock: Clock) -> None:
        self._tokens = database["tokens"]
        self._clock = clock
        #: Tokens that were verified lately, by the hash of the whole token, with their expiry.
        self._known: dict[str, tuple[float, Token]] = {}

    def create(self, *, role: str, name: str, worker_id: str | None = None) -> str:
        """Create a token and return it in clear text, which is not stored."""
        identity, secret = secrets.token_hex(6), secrets.token_hex(24)
        document = {
            "_id": identity,
            "hash": _hash(secret),
            "role": str(Role(role)),
            "name": name,
            "createdAt": self._clock.now(),
        }
        if worker_id:
            document["workerId"] = worker_id
        self._tokens.insert_one(document)
        events.emit("token.created", token=identity, role=role)
        return f"tyk_{identity}_{secret}"

    def verify(self, token: str) -> Token | None:
        """The token, or None if it is not one of ours. One that another process revoked may still
        be accepted for ``KNOWN_SECONDS``.
        """
        whole = _hash(token)
        until, known = self._known.get(whole, (0.0, None))
        if time.monotonic() < until:
            return known
        self._known.pop(whole, None)
        found = self._looked_up(token)
        if found is not None:
            if len(self._known) >= _KNOWN_MOST:
                self._known.clear()
            self._known[whole] = time.monotonic() + KNOWN_SECONDS, found
        return found

    def _looked_up(self, token: str) -> Token | None:
        prefix, _, rest = token.partition("_")
        identity, _, secret = rest.partition("_")
        if prefix != "tyk" or not identity or not secret:
            return None
        found = self._tokens.find_one({"_id": identity})
        # The hash is compared even for an unknown id, so that the timing tells nothing.
        if not hmac.compare_digest(_hash(secret), found["hash"] if found else _hash("")):
            return None
        return self._noted(found) if found else None

    def any(self) -> bool:
        """Whether any token exists."""
        return self._tokens.find_one({}, {"_id": 1}) is not None

    def list(self) -> list[Token]:
        """All tokens, the oldest first."""
        return [to_record(Token, found) for found in self._tokens.find().sort("createdAt", 1)]

    def revoke(self, identity: str) -> bool:
        """Revoke a token; False when it does not exist."""
        removed = self._tokens.delete_one({"_id": identity}).deleted_count == 1
        self._known.clear()
        if removed:
            events.emit("token.revoked", token=identity)
        return removed

    def _noted(self, found: dict[str, Any]) -> Token:
        now = self._clock.now()
        last = found.get("lastUsedAt")
        if last is None or now - last > _NOTE_USE_EVERY:
            self._tokens.update_one({"_id": found["_id"]}, {"$set": {"lastUsedAt": now}})
        return to_record(Token, found)


def _hash(secret: str) -> str:
    """SHA-256 is enough here: the secret has 192 random bits, so nothing can be guessed."""
    return hashlib.sha256(secret.encode()).hexdigest()
