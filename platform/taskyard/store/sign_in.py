"""Codes that sign a browser in once, for the link that ``taskyard up`` shows."""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime, timedelta
from typing import Any

from pymongo.database import Database

#: Long enough to find the terminal again, short enough for a scrollback that others read.
VALID_FOR = timedelta(minutes=30)


class SignInCodes:
    """Creates codes and accepts each once; only a hash of a code is stored."""

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self._codes = database["sign_in_codes"]

    def create(self, *, role: str, now: datetime) -> str:
        """Create a code that signs in with ``role``."""
        code = secrets.token_urlsafe(24)
        self._codes.insert_one({"_id": _hash(code), "role": role, "expireAt": now + VALID_FOR})
        return code

    def redeem(self, code: str, *, now: datetime) -> str | None:
        """The role of the code, once; None for a code that is used, expired or unknown."""
        live = {"_id": _hash(code), "expireAt": {"$gt": now}}
        found = self._codes.find_one_and_delete(live)
        return found["role"] if found else None


def _hash(code: str) -> str:
    """The code has 192 random bits: a plain hash of it tells nothing."""
    return hashlib.sha256(code.encode(errors="replace")).hexdigest()
