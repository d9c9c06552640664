"""Wait until jobs have ended."""

from __future__ import annotations

import time
from collections.abc import Sequence

from taskyard.context import Platform
from taskyard.jobs.model import Job

#: How often whoever waits looks when nothing wakes it: the change stream is only a hint.
LOOK_SECONDS = 1.0


def wait_until_ended(platform: Platform, job_id: str, seconds: float) -> Job:
    """The job as soon as it has ended, or as it is after ``seconds``. Raises NotFound."""
    deadline = time.monotonic() + seconds
    with platform.store.feed.waiting_for_end(job_id) as woken:
        while True:
            woken.clear()
            job = platform.store.jobs.get(job_id)
            left = deadline - time.monotonic()
            if job.is_terminal or left <= 0:
                return job
            woken.wait(min(LOOK_SECONDS, left))


def wait_until_all_ended(platform: Platform, job_ids: Sequence[str], seconds: float) -> None:
    """Return as soon as all of these jobs have ended, or after ``seconds``."""
    deadline = time.monotonic() + seconds
    live = list(job_ids)
    while live and time.monotonic() < deadline:
        # Wait for the last one alone: what was submitted last mostly ends last.
        last = live[-1]
        with platform.store.feed.waiting_for_end(last) as woken:
            while True:
                # Cleared before the look, so that an end that comes after it still wakes us.
                woken.clear()
                live = platform.store.live.among(live)
                if not live or live[-1] != last:
                    break
                left = deadline - time.monotonic()
                if left <= 0:
                    return
                woken.wait(min(LOOK_SECONDS, left))
