"""The stream of events that keeps lists up to date: it says that jobs changed, but not how.

The page then requests itself again. So every byte of it comes from the same route, and the
viewer's rights are checked each time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from flask import Response
from werkzeug.wrappers import Response as AnyResponse

from taskyard.api.base import platform
from taskyard.context import Platform
from taskyard.dashboard.blueprint import blueprint
from taskyard.store.feed import ANY_JOB

#: How long the stream pauses after it has told of a change; changes meanwhile are told of as one.
PAUSE_SECONDS = 1.0

#: How often the page is refreshed for what changes without a job (heartbeats, silence).
BEAT_SECONDS = 5.0

#: How long a stream stays open; the page then opens another, for which its token is checked.
OPEN_SECONDS = 300.0


@blueprint.get("/live")
def live() -> AnyResponse:
    """Stream events: ``changed`` when jobs change, ``beat`` every few seconds, ``over`` at the end.

    Browsers log an error for a stream that ends without ``over``.
    """
    return Response(
        _changes(platform()),
        mimetype="text/event-stream",
        headers={"X-Accel-Buffering": "no"},
    )


def _changes(here: Platform) -> Iterator[str]:
    yield "retry: 2000\n\n"
    began = beat = time.monotonic()
    with here.store.feed.waiting_for(ANY_JOB) as woken:
        while (now := time.monotonic()) < began + OPEN_SECONDS:
            if woken.wait(max(0.0, beat + BEAT_SECONDS - now)):
                woken.clear()
                yield "event: changed\ndata:\n\n"
                time.sleep(PAUSE_SECONDS)
            if time.monotonic() >= beat + BEAT_SECONDS:
                beat = time.monotonic()
                yield "event: beat\ndata:\n\n"
    yield "event: over\ndata:\n\n"
