"""The platform's time: a clock that follows the MongoDB server, not this host."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial

#: How long one measurement is relied on. When the server's clock is set, a process may go by the
#: old clock for this long, and the sweep waits for that (decision 8). The driver's monitors hear
#: the server's time anyway and confirm a measurement at no cost, so few are made.
RESYNC_SECONDS = 5.0

#: A reported time that is off by less than this, beside the time that the report took, still
#: confirms the measurement.
TOLERANCE = timedelta(milliseconds=20)

#: A stored instant that is this far ahead of the server's clock is from before that was set back.
SET_BACK_MS = 60_000

#: Pause after a measurement that failed: without a primary, each may take its full timeout.
RETRY_SECONDS = 1.0


def _elapsed() -> Callable[[], float]:
    """A monotonic clock in seconds, which also counts while the host sleeps if the system has one
    that does (Linux).
    """
    counted = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic if counted is None else partial(time.clock_gettime, counted)


class Clock:
    """The server's clock, measured now and then and carried forward by a monotonic one.

    The host's wall clock is never read, so a host that is five minutes off changes nothing.
    """

    def __init__(
        self, read_server_time: Callable[[], datetime], monotonic: Callable[[], float] | None = None
    ) -> None:
        self._read = read_server_time
        self._monotonic = monotonic or _elapsed()
        self._measuring = threading.Lock()
        #: The server's instant and the monotonic one that it belongs to; replaced together.
        self._base: tuple[datetime, float] | None = None
        self._measure_again_at = float("-inf")

    def now(self) -> datetime:
        """The server's time, to the millisecond that BSON keeps.

        While one thread measures, the others use the measurement before.
        """
        due = self._base is None or self._monotonic() >= self._measure_again_at
        if due and self._measuring.acquire(blocking=self._base is None):
            try:
                self._measure()
            finally:
                self._measuring.release()
        assert self._base is not None
        return to_milliseconds(_carried(self._base, self._monotonic()))

    def heard(self, server: datetime, took_seconds: float) -> None:
        """Use a server time that a monitor of the driver has just read anyway.

        It confirms the measurement if the difference can be due to the time that the reading took,
        within ``TOLERANCE``; else it replaces the measurement.
        """
        base, now = self._base, self._monotonic()
        if base is None or self._measure_again_at == float("-inf"):
            return
        earliest = _carried(base, now - took_seconds) - TOLERANCE
        if not earliest <= server <= _carried(base, now) + TOLERANCE:
            self._base = server + timedelta(seconds=took_seconds / 2), now
        self._measure_again_at = now + RESYNC_SECONDS

    def forget(self) -> None:
        """Measure again at the next use: the primary may be another host now."""
        self._measure_again_at = float("-inf")

    def _measure(self) -> None:
        """Ask the server; half the round trip has passed since it answered."""
        before = self._monotonic()
        self._measure_again_at = before + RESYNC_SECONDS
        try:
            server = self._read()
        except Exception:
            if self._base is None:
                raise
            # With no primary to ask, the old measurement is better than none.
            self._measure_again_at = self._monotonic() + RETRY_SECONDS
            return
        after = self._monotonic()
        self._base = server + timedelta(seconds=(after - before) / 2), after


def _carried(base: tuple[datetime, float], monotonic: float) -> datetime:
    """The server's instant that belongs to a monotonic one."""
    server, measured_at = base
    return server + timedelta(seconds=monotonic - measured_at)


def to_milliseconds(instant: datetime) -> datetime:
    """Cut to whole milliseconds, as BSON dates are, so that what is written reads back equal."""
    return instant.replace(microsecond=instant.microsecond // 1000 * 1000)


def epoch_ms(instant: datetime | None) -> int | None:
    """Epoch milliseconds, as the API gives instants."""
    return None if instant is None else round(instant.timestamp() * 1000)


def from_epoch_ms(milliseconds: int) -> datetime:
    """The aware instant of epoch milliseconds."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
