"""Field types of the API: text that can be stored, numbers in a range, instants."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import marshmallow as ma
from marshmallow import validate

from taskyard.clock import epoch_ms, from_epoch_ms
from taskyard.documents import UNSTORABLE

_SURROGATE = re.compile("[\ud800-\udfff]")

#: Most characters of a command and of an environment, so that job documents stay small.
COMMAND_CHARACTERS = 32_768
ENV_CHARACTERS = 8_192

_INT64 = 2**63 - 1
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Text(ma.fields.String):
    """Text without characters that cannot be stored: NUL and lone surrogates."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> str:
        text: str = super()._deserialize(value, *args, **kwargs)
        if UNSTORABLE.search(text):
            raise ma.ValidationError("Has a character that cannot be stored.")
        return text


class Printed(ma.fields.String):
    """Text that a command printed: no character is refused. Lone surrogates, which come from agents
    that cut text between the two halves of a character, become U+FFFD.
    """

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> str:
        text: str = super()._deserialize(value, *args, **kwargs)
        return _SURROGATE.sub("\ufffd", text)


class Whole(ma.fields.Integer):
    """A whole number in a range; 1.5 and "1" are refused."""

    def __init__(self, low: int = 0, high: int = _INT64, **kwargs: Any) -> None:
        super().__init__(strict=True, validate=validate.Range(low, high), **kwargs)

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> int:
        if isinstance(value, (bool, str)):
            raise self.make_error("invalid", input=value)
        number: int = super()._deserialize(value, *args, **kwargs)
        return number


class Number(ma.fields.Float):
    """A number in a range; NaN, Infinity and text are refused."""

    def __init__(self, low: float, high: float, *, above: bool = False, **kwargs: Any) -> None:
        in_range = validate.Range(low, high, min_inclusive=not above)
        super().__init__(allow_nan=False, validate=in_range, **kwargs)

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> float:
        if isinstance(value, (bool, str)):
            raise self.make_error("invalid", input=value)
        number: float = super()._deserialize(value, *args, **kwargs)
        return number


class QueryWhole(ma.fields.Integer):
    """A whole number in a query string, where everything is text."""

    def __init__(self, low: int = 0, high: int = _INT64, **kwargs: Any) -> None:
        super().__init__(validate=validate.Range(low, high), **kwargs)

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> int:
        if not isinstance(value, str) or not re.fullmatch(r"-?[0-9]{1,19}", value):
            raise self.make_error("invalid", input=value)
        number: int = super()._deserialize(value, *args, **kwargs)
        return number


class Flag(ma.fields.Boolean):
    """true or false; nothing else is taken for one of them."""

    truthy = {True}  # noqa: RUF012 - marshmallow declares it so
    falsy = {False}  # noqa: RUF012 - marshmallow declares it so

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> bool:
        if not isinstance(value, bool):
            raise self.make_error("invalid", input=value)
        return value


class Instant(ma.fields.Integer):
    """An aware datetime, sent as epoch milliseconds."""

    def _serialize(self, value: Any, *_: Any, **__: Any) -> int | None:
        return epoch_ms(value)


class Ready(ma.fields.List[Any]):
    """A list whose entries are sent as they are: ``representations`` has prepared them."""

    def _serialize(self, value: Any, *_: Any, **__: Any) -> Any:
        return value


class QueryInstant(ma.fields.Field[datetime]):
    """Epoch milliseconds in a query string."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> datetime:
        # 15 digits reach the end of the year 9999, the last that Python's datetime has.
        if not isinstance(value, str) or not re.fullmatch(r"[0-9]{1,15}", value):
            raise ma.ValidationError("Not a valid instant in epoch milliseconds.")
        try:
            return from_epoch_ms(int(value))
        except (ValueError, OverflowError):
            raise ma.ValidationError("Later than the year 9999.") from None


class Environment(ma.fields.Dict):
    """Names and values of environment variables."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(keys=Text(), values=Text(), **kwargs)

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> dict[str, str]:
        env: dict[str, str] = super()._deserialize(value, *args, **kwargs)  # type: ignore[no-untyped-call] # marshmallow leaves it open
        if len(env) > 64 or sum(len(k) + len(v) for k, v in env.items()) > ENV_CHARACTERS:
            raise ma.ValidationError(f"More than 64 names or {ENV_CHARACTERS} characters.")
        for name in env:
            if not _ENV_NAME.fullmatch(name):
                raise ma.ValidationError({name[:80]: ["Is not a variable's name."]})
        return env


def not_blank(text: str) -> None:
    """Refuse text that is empty or only white space."""
    if not text.strip():
        raise ma.ValidationError("Must not be blank.")


def web_address(text: str) -> None:
    """Refuse all but http(s) addresses without credentials and the API's own download paths."""
    if re.fullmatch(r"/api/files/download/[\w.-]+", text):
        return
    if not re.fullmatch(r"(?i:https?)://[^/@\s]+(/\S*)?", text) or not _has_host(text):
        raise ma.ValidationError("Must be an http or https address without credentials.")


def _has_host(address: str) -> bool:
    """Return whether the address has a host and, if it names a port, a possible one."""
    try:
        parts = urlsplit(address)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
