"""The search language: how a search text is parsed, without a database."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskyard.errors import BadSearch
from taskyard.jobs.search import Comparison, Condition, Field
from taskyard.jobs.search_terms import TERMS, parse, quoted
from taskyard.jobs.states import JobStatus
from tests.factories import NOW

DAY = datetime(2026, 11, 24, tzinfo=UTC)


def only(text: str) -> Condition:
    (condition,) = parse(text, now=NOW).conditions
    return condition


@pytest.mark.parametrize(
    ("text", "field", "values"),
    [
        ("pytest", Field.TEXT, ("pytest",)),
        ('"make -j 8"', Field.TEXT, ("make -j 8",)),
        (r'"a \"b\" \\"', Field.TEXT, ('a "b" \\',)),
        ("a=b", Field.TEXT, ("a=b",)),
        ("worker:agent@h1", Field.WORKER, ("agent@h1",)),
        ("WORKER:w1", Field.WORKER, ("w1",)),
        ("label:gpu,arm", Field.LABEL, ("gpu", "arm")),
        ('error:"exit code #",lost', Field.ERROR, ("exit code #", "lost")),
        ("status:failed", Field.STATUS, ("FAILED",)),
        ("status:ended", Field.STATUS, ("CANCELLED", "COMPLETED", "FAILED")),
        ("exit:-9,137", Field.EXIT, (-9, 137)),
        ("exit:3221225786", Field.EXIT, (3221225786,)),
        (f"exit:{-(2**63)},{2**63 - 1}", Field.EXIT, (-(2**63), 2**63 - 1)),
    ],
)
def test_a_term_is_read(text: str, field: Field, values: tuple[object, ...]) -> None:
    assert only(text) == Condition(field=field, values=values)  # type: ignore[arg-type]
    assert only(f"  -{text} ") == Condition(field=field, values=values, negated=True)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("-1h", NOW - timedelta(hours=1)),
        ("-1.5d", NOW - timedelta(hours=36)),
        ("-500ms", NOW - timedelta(milliseconds=500)),
        ("2026-11-24", DAY),
        ("2026-11-24T10:30", DAY + timedelta(hours=10, minutes=30)),
        ("2026-11-24T10:30+01:00", DAY + timedelta(hours=9, minutes=30)),
        (f"{DAY.timestamp() * 1000:.0f}", DAY),
    ],
)
def test_an_instant_is_an_age_a_date_or_epoch_milliseconds(text: str, at: datetime) -> None:
    expected = Condition(field=Field.CREATED, values=(at,), comparison=Comparison.ABOVE)
    assert only(f"created>{text}") == expected


def test_a_day_is_from_its_beginning_to_its_end() -> None:
    assert parse("ended:2026-11-24", now=NOW).conditions == (
        Condition(field=Field.ENDED, values=(DAY,), comparison=Comparison.FROM),
        Condition(
            field=Field.ENDED, values=(DAY + timedelta(days=1),), comparison=Comparison.BELOW
        ),
    )


def test_the_last_day_has_a_beginning_and_no_end() -> None:
    last = Condition(
        field=Field.CREATED,
        values=(datetime(9999, 12, 31, tzinfo=UTC),),
        comparison=Comparison.FROM,
    )
    assert only("created:9999-12-31") == last


def test_a_duration_has_a_unit() -> None:
    assert only("run>=1.5m") == Condition(
        field=Field.RUN, values=(90_000,), comparison=Comparison.FROM
    )


@pytest.mark.parametrize(
    ("text", "statuses"),
    [
        ("", set(JobStatus)),
        ("status:failed,queued", {JobStatus.FAILED, JobStatus.QUEUED}),
        ("status:ended -status:completed", {JobStatus.FAILED, JobStatus.CANCELLED}),
        ("status:failed status:queued", set()),
    ],
)
def test_the_states_that_a_search_may_find(text: str, statuses: set[JobStatus]) -> None:
    assert parse(text, now=NOW).statuses == statuses


@pytest.mark.parametrize(
    ("text", "position", "word"),
    [
        ("a colour:red", 3, "colour"),
        ("http://example.com", 1, "quotation marks"),
        ("text:a", 1, "text"),
        ("status:gone", 1, "gone"),
        ("status>failed", 1, "with : alone"),
        ('a b "c d', 5, "never closed"),
        ("worker:", 1, "missing"),
        ("created>", 1, "missing"),
        ("created>yesterday", 1, "yesterday"),
        ("created:-1h", 1, "takes a day"),
        ("-created:-1h", 1, "takes a day"),
        ("-created:2026-11-24", 1, "cannot be negated"),
        ("created>-1h,-2h", 1, "too many"),
        ("created>-999999w", 1, "-999999w"),
        ("created<0001-01-01T00:00+05:00", 1, "no instant"),
        ("created<999999999999999", 1, "no instant"),
        ("run>5", 1, "5"),
        ("run:5m", 1, "> or <"),
        ("exit:one", 1, "whole number"),
        ("exit:99999999999999999999", 1, "whole number"),
        (f"exit:{2**63}", 1, "whole number"),
        ("a,b", 1, "quotation marks"),
        ('a"b', 1, "closed"),
        ("a \0", 3, "character"),
        ("a \ud800", 3, "character"),
        ("x " * (TERMS + 1), 1, "terms"),
        ("x" * 2000, 1, "characters"),
        ("label:" + "a," * 20 + "a", 1, "too many"),
        ("a error:" + "#" * 900, 3, "200 times #"),
    ],
)
def test_what_makes_no_sense_names_its_term_and_position(
    text: str, position: int, word: str
) -> None:
    with pytest.raises(BadSearch) as raised:
        parse(text, now=NOW)
    assert raised.value.position == position
    assert word in str(raised.value)
    assert raised.value.errors[0]["field"] == "q"


@given(st.text(max_size=60))
def test_any_text_is_a_search_or_an_error_of_ours(text: str) -> None:
    with contextlib.suppress(BadSearch):
        parse(text, now=NOW)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
def test_what_is_quoted_is_read_as_it_was(text: str) -> None:
    if len(text) < 400:
        assert only(f"by:{quoted(text)}").values == (text,)
        assert only(quoted(text)) == Condition(field=Field.TEXT, values=(text,))
