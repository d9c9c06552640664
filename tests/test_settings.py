"""Settings as they are read from the environment."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from taskyard import settings
from taskyard.errors import ConfigurationError


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("auth", "off", False),
        ("auth", "True", True),
        ("lease_seconds", "2e1", 20.0),
        ("max_jobs", "7", 7),
        ("labels", "gpu, big", ("gpu", "big")),
        ("labels", "", ()),
        ("workspace_dir", "/w", Path("/w")),
        ("log_level", "DEBUG", "DEBUG"),
    ],
)
def test_a_setting_is_read_as_what_it_is(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, value: object
) -> None:
    monkeypatch.setenv(f"TASKYARD_{name.upper()}", text)
    assert getattr(settings.load(), name) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("auth", "perhaps"),
        ("lease_seconds", "soon"),
        ("lease_seconds", "nan"),
        ("max_jobs", "1.5"),
        ("output_cap_bytes", ""),
    ],
)
def test_one_that_is_not_is_refused_by_its_name(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    monkeypatch.setenv(f"TASKYARD_{name.upper()}", text)
    with pytest.raises(ConfigurationError, match=f"TASKYARD_{name.upper()} must be"):
        settings.load()


def test_every_setting_can_be_read() -> None:
    known = {str(field.type) for field in dataclasses.fields(settings.Settings)}
    assert known <= set(settings._READERS)
