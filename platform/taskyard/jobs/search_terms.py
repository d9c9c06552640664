"""Parse the search language: ``status:failed worker:w1 -label:gpu pytest created>-1h``.

Terms are separated by spaces, and all must hold; ``docs/search.md`` describes them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta

from taskyard.documents import UNSTORABLE
from taskyard.errors import BadSearch
from taskyard.jobs.search import Comparison, Condition, Field, Search, Value
from taskyard.jobs.states import LIVE, TERMINAL, JobStatus

#: Bounds of one search: no person writes a longer one.
CHARACTERS = 1000
TERMS = 20
VALUES = 20

#: How many ``#`` one error may have: each makes the pattern longer, whose size is bounded.
NUMBERS = 200

_VALUE = r'(?:"(?:[^"\\]|\\.)*"|[^\s",]+)'
_TERM = re.compile(
    rf"(?P<minus>-?)(?:(?P<field>[A-Za-z]+)(?P<comparison>>=|<=|:|>|<)(?P<values>{_VALUE}(?:,{_VALUE})*)"
    rf"|(?P<word>{_VALUE}))(?=\s|$)"
)
_PREFIX = re.compile(r"-?([A-Za-z]+)(?:>=|<=|:|>|<)")

#: MongoDB's whole numbers are below this.
_INT64 = 2**63

_UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_DURATION = re.compile(r"(\d{1,6}(?:\.\d{1,3})?)(ms|s|m|h|d|w)")

_GROUPS = {"live": LIVE, "ended": TERMINAL}
_WHOLE = frozenset({Field.EXIT, Field.ATTEMPTS, Field.PRIORITY})
_INSTANTS = frozenset({Field.CREATED, Field.QUEUED, Field.STARTED, Field.ENDED})
_DURATIONS = frozenset({Field.WAIT, Field.RUN})
_COMPARABLE = _WHOLE | _INSTANTS | _DURATIONS


def parse(text: str, *, now: datetime) -> Search:
    """The search that ``text`` describes; ``-1h`` is an hour before ``now``.

    Raises BadSearch, which names the term and its position.
    """
    if len(text) > CHARACTERS:
        raise BadSearch("", 1, f"a search has at most {CHARACTERS} characters")
    if found := UNSTORABLE.search(text):
        raise BadSearch("", found.start() + 1, "has a character that no job has")
    conditions = [c for match in _terms(text) for c in _conditions(match, now)]
    if len(conditions) > TERMS:
        raise BadSearch("", 1, f"a search has at most {TERMS} terms")
    return Search(conditions=tuple(conditions))


def quoted(value: str) -> str:
    """``value`` as it is written in a search, quoted where it has to be."""
    if re.fullmatch(r"[A-Za-z0-9_@./#][\w@./#-]*", value):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _terms(text: str) -> Iterator[re.Match[str]]:
    place = 0
    while place < len(text):
        if text[place].isspace():
            place += 1
            continue
        match = _TERM.match(text, place)
        if match is None:
            raise _unreadable(text, place)
        yield match
        place = match.end()


def _unreadable(text: str, place: int) -> BadSearch:
    term = re.split(r"\s", text[place:], maxsplit=1)[0]
    if text.count('"', place) % 2:
        return BadSearch(term, place + 1, "the quotation mark is never closed")
    return BadSearch(term, place + 1, 'cannot be read; text with , or " is put in quotation marks')


def _conditions(match: re.Match[str], now: datetime) -> Iterator[Condition]:
    negated = bool(match["minus"])
    if match["word"]:
        if _PREFIX.fullmatch(match.group()):
            raise _wrong(match, "a value is missing")
        yield Condition(field=Field.TEXT, values=(_unquoted(match["word"]),), negated=negated)
        return
    name, comparison = _field(match), Comparison(match["comparison"])
    if comparison is not Comparison.IS and name not in _COMPARABLE:
        raise _wrong(match, f"{name} is compared with : alone")
    written = [_unquoted(value) for value in re.findall(_VALUE, match["values"])]
    if len(written) > (VALUES if comparison is Comparison.IS else 1):
        raise _wrong(match, "has too many values")
    if name in _INSTANTS:
        yield from _times(match, name, comparison, written, now)
        return
    if name in _DURATIONS and comparison is Comparison.IS:
        raise _wrong(match, f"{name} is compared with > or <")
    read = _READERS.get(name, _text)
    values = tuple(value for word in written for value in read(match, word))
    yield Condition(field=name, values=values, comparison=comparison, negated=negated)


def _field(match: re.Match[str]) -> Field:
    word = match["field"].lower()
    known = [name for name in Field if name is not Field.TEXT]
    if word not in known:
        raise _wrong(
            match,
            f"there is no field {word!r} (there are {', '.join(known)}); "
            "to look for it as text, put it in quotation marks",
        )
    return Field(word)


def _times(
    match: re.Match[str], name: Field, comparison: Comparison, written: list[str], now: datetime
) -> Iterator[Condition]:
    """The comparison with an instant; for a day after ``:`` two, with its beginning and end."""
    if len(written) != 1:
        raise _wrong(match, "takes one instant")
    word, negated = written[0], bool(match["minus"])
    at = _instant(match, word, now)
    if comparison is not Comparison.IS:
        yield Condition(field=name, values=(at,), comparison=comparison, negated=negated)
        return
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", word):
        raise _wrong(match, f"{name}: takes a day such as 2026-11-24; else compare with > or <")
    if negated:
        raise _wrong(match, "a whole day cannot be negated; compare with > or <")
    yield Condition(field=name, values=(at,), comparison=Comparison.FROM)
    # After the last day that a date can hold there is no instant to compare with.
    if at.date() < date.max:
        day_after = at + timedelta(days=1)
        yield Condition(field=name, values=(day_after,), comparison=Comparison.BELOW)


def _instant(match: re.Match[str], word: str, now: datetime) -> datetime:
    """``-1h``, a date, a date and time (UTC unless it says otherwise), or epoch milliseconds."""
    try:
        if word.startswith("-"):
            return now - timedelta(milliseconds=_milliseconds(word[1:]))
        if re.fullmatch(r"\d{12,15}", word):
            return datetime.fromtimestamp(int(word) / 1000, UTC)
        at = datetime.fromisoformat(word)
        return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
    except (ValueError, OverflowError, OSError):
        hint = "is no instant: -1h, 2026-11-24, 2026-11-24T10:30 (UTC) or epoch milliseconds"
        raise _wrong(match, f"{word!r} {hint}") from None


def _milliseconds(word: str) -> int:
    found = _DURATION.fullmatch(word)
    if found is None:
        raise ValueError(word)
    return round(float(found[1]) * _UNITS_MS[found[2]])


def _duration(match: re.Match[str], word: str) -> list[Value]:
    try:
        return [_milliseconds(word)]
    except ValueError:
        raise _wrong(match, f"{word!r} is no duration: 500ms, 30s, 5m, 2h, 1d") from None


def _whole(match: re.Match[str], word: str) -> list[Value]:
    if not re.fullmatch(r"-?\d{1,19}", word) or not -_INT64 <= int(word) < _INT64:
        raise _wrong(match, f"{word!r} is no whole number of at most 64 bits")
    return [int(word)]


def _status(match: re.Match[str], word: str) -> list[Value]:
    if word.lower() in _GROUPS:
        return [str(status) for status in sorted(_GROUPS[word.lower()])]
    if word.upper() not in set(JobStatus):
        names = ", ".join([*(status.lower() for status in JobStatus), *_GROUPS])
        raise _wrong(match, f"{word!r} is no status (there are {names})")
    return [word.upper()]


def _error(match: re.Match[str], word: str) -> list[Value]:
    if word.count("#") > NUMBERS:
        raise _wrong(match, f"has more than {NUMBERS} times #")
    return [word]


def _text(_match: re.Match[str], word: str) -> list[Value]:
    return [word]


_READERS: dict[Field, Callable[[re.Match[str], str], list[Value]]] = {
    Field.STATUS: _status,
    Field.ERROR: _error,
    **dict.fromkeys(_WHOLE, _whole),
    **dict.fromkeys(_DURATIONS, _duration),
}


def _unquoted(value: str) -> str:
    return re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value


def _wrong(match: re.Match[str], problem: str) -> BadSearch:
    return BadSearch(match.group(), match.start() + 1, problem)
