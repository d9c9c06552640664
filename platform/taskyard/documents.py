"""Records and documents: snake_case fields here, camelCase in MongoDB and in the API."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, TypeVar

Record = TypeVar("Record")


def camel(name: str) -> str:
    """``lease_until`` -> ``leaseUntil``."""
    head, *tail = name.split("_")
    return head + "".join(part.capitalize() for part in tail)


_NAMES: dict[type, dict[str, str]] = {}


def _names(record: type[Any]) -> dict[str, str]:
    """Each stored name of ``record`` with its field; the first field is the identity."""
    if record not in _NAMES:
        names = [field.name for field in fields(record)]
        _NAMES[record] = {"_id": names[0]} | {camel(name): name for name in names[1:]}
    return _NAMES[record]


@dataclass(frozen=True)
class _Blank:
    """A record before anything is known of it."""

    defaults: Mapping[str, Any]
    made: Mapping[str, Callable[[], Any]]
    required: frozenset[str]
    #: What a record does once its fields are set.
    finish: Callable[[Any], None]


_BLANKS: dict[type, _Blank] = {}


def _blank(record: type[Any]) -> _Blank:
    if record not in _BLANKS:
        defaults = {f.name: f.default for f in fields(record) if f.default is not MISSING}
        made = {
            f.name: f.default_factory for f in fields(record) if f.default_factory is not MISSING
        }
        names = {f.name for f in fields(record)}
        finish = getattr(record, "__post_init__", lambda _: None)
        _BLANKS[record] = _Blank(defaults, made, frozenset(names - {*defaults, *made}), finish)
    return _BLANKS[record]


def to_record(record: type[Record], document: Mapping[str, Any]) -> Record:
    """Build ``record`` from a stored document; fields it does not know are left out.

    Its fields are set all at once: a frozen record's own constructor sets them one by one, and
    takes most of the time of a page or of a pass. Raises TypeError where one is missing.
    """
    names, blank = _names(record), _blank(record)
    built = object.__new__(record)
    values = vars(built)
    values.update(blank.defaults)
    for name, make in blank.made.items():
        values[name] = make()
    for stored, value in document.items():
        if name := names.get(stored, ""):
            values[name] = tuple(value) if isinstance(value, list) else value
    if not values.keys() >= blank.required:
        missing = sorted(blank.required.difference(values))
        raise TypeError(f"{record.__name__} without {', '.join(missing)}")
    blank.finish(built)
    return built


def to_document(record: Any) -> dict[str, Any]:
    """The document of ``record``: absent values (None) are left out."""
    document = {}
    for stored, name in _names(type(record)).items():
        value = getattr(record, name)
        if value is not None:
            document[stored] = list(value) if isinstance(value, tuple) else value
    return document


def changed(record: Record, changes: Mapping[str, Any], cleared: Iterable[str] = ()) -> Record:
    """``record`` with some stored fields set anew, and some gone."""
    names = _names(type(record))
    values = {
        names[stored]: tuple(value) if isinstance(value, list) else value
        for stored, value in changes.items()
        if stored in names
    }
    values |= {names[stored]: None for stored in cleared if stored in names}
    return replace(record, **values)  # type: ignore[type-var] # every record is a dataclass
