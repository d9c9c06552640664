"""Records and documents: snake_case fields here, camelCase in MongoDB and in the API.

Fields are set all at once: a frozen record's own constructor sets them one by one, and would take
most of the time of a page or of a pass.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, TypeVar

Record = TypeVar("Record")

#: Characters that no stored text has: NUL, which neither a command nor a name may have, and lone
#: surrogates, which MongoDB cannot hold.
UNSTORABLE = re.compile("[\0\ud800-\udfff]")


def camel(name: str) -> str:
    """``lease_until`` -> ``leaseUntil``."""
    head, *tail = name.split("_")
    return head + "".join(part.capitalize() for part in tail)


@dataclass(frozen=True)
class _Kind:
    """What this module knows about a class of records."""

    #: From stored name to field, and the other way round.
    names: Mapping[str, str]
    stored: Mapping[str, str]
    defaults: Mapping[str, Any]
    made: Mapping[str, Callable[[], Any]]
    required: frozenset[str]
    #: Called once the fields of a record are set.
    finish: Callable[[Any], None]


_KINDS: dict[type, _Kind] = {}


def _kind(record: type[Any]) -> _Kind:
    if record not in _KINDS:
        _KINDS[record] = _known(record)
    return _KINDS[record]


def _known(record: type[Any]) -> _Kind:
    """Describe a class of records; its first field is the identity, ``_id``."""
    first, *others = [field.name for field in fields(record)]
    names = {"_id": first} | {camel(name): name for name in others}
    defaults = {f.name: f.default for f in fields(record) if f.default is not MISSING}
    made = {f.name: f.default_factory for f in fields(record) if f.default_factory is not MISSING}
    return _Kind(
        names=names,
        stored={name: stored for stored, name in names.items()},
        defaults=defaults,
        made=made,
        required=frozenset({first, *others} - {*defaults, *made}),
        finish=getattr(record, "__post_init__", lambda _: None),
    )


def to_record(record: type[Record], document: Mapping[str, Any]) -> Record:
    """Build ``record`` from a stored document; unknown fields are left out.

    Raises TypeError when a required field is missing.
    """
    kind = _kind(record)
    values = _defaults(kind)
    values.update(_values(kind, document))
    return _complete(record, kind, values)


def to_document(record: Any) -> dict[str, Any]:
    """The document of ``record``: absent values (None) are left out."""
    stored = _kind(type(record)).stored
    return {
        stored[name]: list(value) if type(value) is tuple else value
        for name, value in vars(record).items()
        if value is not None
    }


def made(record: type[Record], **values: Any) -> Record:
    """A new ``record``, as its constructor makes it, but without setting fields one by one.

    Raises TypeError when a required field is missing.
    """
    kind = _kind(record)
    return _complete(record, kind, {**_defaults(kind), **values})


def with_values(record: Record, **values: Any) -> Record:
    """A copy of ``record`` with some fields changed, at less cost than ``replace``."""
    return _built(type(record), _kind(type(record)), {**vars(record), **values})


def changed(record: Record, changes: Mapping[str, Any], cleared: Iterable[str]) -> Record:
    """A copy of ``record`` with some fields changed and others None, by their stored names."""
    kind = _kind(type(record))
    gone = {kind.names[stored]: None for stored in cleared if stored in kind.names}
    return _built(type(record), kind, {**vars(record), **_values(kind, changes), **gone})


def _defaults(kind: _Kind) -> dict[str, Any]:
    return {**kind.defaults, **{name: make() for name, make in kind.made.items()}}


def _complete(record: type[Record], kind: _Kind, values: dict[str, Any]) -> Record:
    if not values.keys() >= kind.required:
        missing = sorted(kind.required.difference(values))
        raise TypeError(f"{record.__name__} without {', '.join(missing)}")
    return _built(record, kind, values)


def _values(kind: _Kind, document: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: tuple(value) if isinstance(value, list) else value
        for stored, value in document.items()
        if (name := kind.names.get(stored))
    }


def _built(record: type[Record], kind: _Kind, values: Mapping[str, Any]) -> Record:
    built = object.__new__(record)
    vars(built).update(values)
    kind.finish(built)
    return built
