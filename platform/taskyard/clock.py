"""Time is the database's: a clock that follows the MongoDB server, not this host."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

#: How long one measurement is relied on; quartz drifts by well under 10 ms in that time.
RESYNC_SECONDS = 60.0


class Clock:
    """Instants of the server's clock, measured now and then and carried by a monotonic one.

    The host's wall clock is never read, so a host that is five minutes off changes nothing.
    """

    def __init__(
        self,
        read_server_time: Callable[[], datetime],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read_server_time
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._base = datetime.min.replace(tzinfo=UTC)
        self._measured_at = float("-inf")
        self._measure_again_at = float("-inf")

    def now(self) -> datetime:
        """The server's time, to the millisecond that BSON keeps."""
        with self._lock:
            if self._monotonic() >= self._measure_again_at:
                self._measure()
            elapsed = timedelta(seconds=self._monotonic() - self._measured_at)
            return to_milliseconds(self._base + elapsed)

    def forget(self) -> None:
        """Measure again at the next use: the primary may be another host now."""
        self._measure_again_at = float("-inf")

    def _measure(self) -> None:
        """Ask the server; half the round trip has passed since it answered."""
        before = self._monotonic()
        try:
            server = self._read()
        except Exception:
            if self._measured_at == float("-inf"):
                raise
            # With no primary to ask, the old measurement is better than none.
            return
        after = self._monotonic()
        self._base = server + timedelta(seconds=(after - before) / 2)
        self._measured_at = after
        self._measure_again_at = after + RESYNC_SECONDS


def to_milliseconds(instant: datetime) -> datetime:
    """Cut to whole milliseconds, as BSON dates are, so that what is written reads back equal."""
    return instant.replace(microsecond=instant.microsecond // 1000 * 1000)


def epoch_ms(instant: datetime | None) -> int | None:
    """Epoch milliseconds, as the API gives instants."""
    return None if instant is None else round(instant.timestamp() * 1000)


def from_epoch_ms(milliseconds: int) -> datetime:
    """The aware instant of epoch milliseconds."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
