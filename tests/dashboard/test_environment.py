"""A job's environment in a form: a value that is not edited comes back unchanged."""

from __future__ import annotations

import pytest

from taskyard.dashboard import environment

ENVIRONMENTS: list[dict[str, str]] = [
    {},
    {"A": ""},
    {"A": "b=c", "B": "  indented"},
    {"KEY": "-----BEGIN-----\nMII=\n-----END-----\n", "AFTER": "1"},
    {"DOTENV": "A=1\n B=2\n\n  C=3"},
    {"ODD": "a\x0cb\u2028c\x85d"},
]


@pytest.mark.parametrize("env", ENVIRONMENTS, ids=str)
def test_what_is_written_is_read(env: dict[str, str]) -> None:
    lines = environment.as_lines(env)
    assert environment.from_lines(lines) == env
    assert environment.from_lines(lines.replace("\n", "\r\n")) == env


def test_a_carriage_return_in_a_value_makes_no_variable_of_the_rest() -> None:
    lines = environment.as_lines({"H": "a\rb=c\r\nd"})
    assert environment.from_lines(lines) == {"H": "a\nb=c\nd"}


def test_blank_lines_and_space_around_a_name_are_nothing() -> None:
    assert environment.from_lines(" A =1\n\n\nB=2\n") == {"A": "1", "B": "2"}
