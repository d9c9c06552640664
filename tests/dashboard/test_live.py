"""The stream of events that tell the lists that jobs have changed."""

from __future__ import annotations

import itertools

import pytest

from taskyard.context import Platform
from taskyard.dashboard import live
from taskyard.jobs.states import JobStatus
from taskyard.store.chunks import Chunk
from taskyard.store.feed import ANY_JOB
from tests.dashboard.test_pages import browser
from tests.factories import stored
from tests.helpers import eventually


def test_it_beats_while_nothing_happens_and_while_much_does(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(live, "PAUSE_SECONDS", 0.02)
    answer = browser(platform, "viewer").get("/live")
    assert answer.mimetype == "text/event-stream"
    events = (chunk.decode().splitlines()[0] for chunk in answer.iter_encoded())
    assert next(events).startswith("retry:")
    assert "event: beat" in itertools.islice(events, 20)
    stored(platform, JobStatus.QUEUED)
    awaited = {"event: changed", "event: beat"}
    for event in itertools.islice(events, 400):
        awaited.discard(event)
        if not awaited:
            break
    assert awaited == set()
    answer.close()


def test_it_says_that_it_ends_so_that_the_token_is_asked_for_anew(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "OPEN_SECONDS", 0)
    assert browser(platform, "viewer").get("/live").text.endswith("event: over\ndata:\n\n")


def test_output_alone_is_no_change_of_the_list(platform: Platform) -> None:
    """A flood of output wakes the job's followers, but no list."""
    job = stored(platform, JobStatus.RUNNING)
    feed = platform.store.feed
    with feed.waiting_for(ANY_JOB) as any_job, feed.waiting_for(job.job_id) as mine:
        seqs = itertools.count()

        def printed() -> bool:
            """Store a chunk, and say whether the feed reports it."""
            mine.clear()
            chunk = Chunk(seq=next(seqs), stream="stdout", data="x")
            now = platform.store.clock.now()
            platform.store.output.store(job.job_id, job.attempts, [chunk], now=now)
            return mine.wait(1)

        eventually(printed)
        any_job.clear()
        assert printed()
        assert not any_job.is_set()
        stored(platform, JobStatus.QUEUED)
        assert any_job.wait(10)
