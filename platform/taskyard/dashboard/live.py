"""What moves on a list: a stream that says that jobs changed, and nothing of how.

The page then asks for itself anew, so there is one road to every byte of it, and a viewer's
rights are judged with each.
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

#: Changes that come closer together are told of as one.
PAUSE_SECONDS = 1.0

#: What changes without a job's doing (heartbeats, silence) is looked at this often.
BEAT_SECONDS = 5.0

#: Then the page is told, and comes again, and its token is asked for anew.
OPEN_SECONDS = 300.0


@blueprint.get("/live")
def live() -> AnyResponse:
    """Events: ``changed`` when jobs did, ``beat`` every few seconds whatever happens, at last
    ``over``: a stream that just broke off would be an error in every browser's console.
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
