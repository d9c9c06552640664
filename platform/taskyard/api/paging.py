"""Page tokens: opaque texts that say where the next page begins."""

from __future__ import annotations

import base64
import binascii

from taskyard.clock import epoch_ms, from_epoch_ms
from taskyard.errors import InvalidRequest
from taskyard.store.searches import Position


def encode(position: Position | None) -> str | None:
    """Return the token of a position; None for None."""
    if position is None:
        return None
    text = f"{epoch_ms(position.created_at)}.{position.job_id}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode(token: str | None) -> Position | None:
    """Return the position of a token. Raises InvalidRequest for a token that is not ours."""
    if token is None:
        return None
    try:
        text = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        at, _, job_id = text.decode().partition(".")
        created_at = from_epoch_ms(int(at))
    except (ValueError, binascii.Error, OverflowError, OSError):
        raise InvalidRequest("This is not a page token of ours.", field="after") from None
    if not job_id.startswith("job-") or "\0" in job_id:
        raise InvalidRequest("This is not a page token of ours.", field="after")
    return Position(created_at=created_at, job_id=job_id)
