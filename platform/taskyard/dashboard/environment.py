"""A job's environment as lines that a person can edit, and back."""

from __future__ import annotations

from collections.abc import Mapping


def as_lines(env: Mapping[str, str]) -> str:
    """``NAME=value`` a line. A value of several lines goes on in lines that begin with a space."""
    return "\n".join(f"{name}={value}".replace("\n", "\n ") for name, value in env.items())


def from_lines(text: str) -> dict[str, str]:
    """The environment; what is no name in it is left to the API's schema to refuse."""
    # Browsers send lines that end with CR and LF, whatever was in them.
    entries: list[str] = []
    for line in text.replace("\r\n", "\n").split("\n"):
        if entries and line.startswith(" "):
            entries[-1] += f"\n{line[1:]}"
        elif line.strip():
            entries.append(line)
    pairs = [entry.partition("=") for entry in entries]
    return {name.strip(): value for name, _, value in pairs}
