"""The presenters, which turn records into the words of the pages."""

from __future__ import annotations

import pytest

from taskyard.dashboard import presenters
from tests.factories import queued_job


@pytest.mark.parametrize(
    ("per_second", "words"),
    [(12.34, "12.3 a second"), (0.084, "5.04 a minute"), (0.001, "3.6 an hour"), (0, "0 an hour")],
)
def test_a_rate_is_of_a_time_that_people_count_in(per_second: float, words: str) -> None:
    assert presenters.rate(per_second) == words


def test_no_more_places_are_in_use_than_there_are() -> None:
    assert presenters.places(1, 2) == "1 of 2"
    assert presenters.places(13, 2) == "2 of 2, 11 next"


def test_what_a_tick_did_is_said_in_words() -> None:
    facts = {"cooledDown": 2, "ran": True, "heldBack": False, "durationMs": 4.0}
    assert presenters.report(facts) == ["cooled down 2", "ran yes", "held back no"]


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("#!/bin/sh\nset -e\n\n  make release\nmake clean", "make release"),
        ("set -e", "set -e"),
        ("echo \x1b[31m", "echo \\x1b[31m"),
    ],
)
def test_a_job_is_named_by_the_first_line_that_does_something(command: str, name: str) -> None:
    assert presenters.first_line(queued_job(command=command)) == name
