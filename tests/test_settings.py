"""How settings are read from the environment."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from taskyard import settings
from taskyard.embedded import running_uri
from taskyard.errors import ConfigurationError
from taskyard.scheduler.schedule import TICKS


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("auth", "off", False),
        ("auth", "True", True),
        ("lease_seconds", "2e1", 20.0),
        ("max_jobs", "7", 7),
        ("labels", "gpu, big", ("gpu", "big")),
        ("labels", "", ()),
        ("labels", "gpu, ,big,", ("gpu", "big")),
        ("workspace_dir", "", None),
        ("data_dir", "", settings.Settings().data_dir),
        ("workspace_dir", "/w", Path("/w")),
        ("workspace_dir", "~/w", Path.home() / "w"),
        ("log_level", "DEBUG", "DEBUG"),
        ("log_level", "warning", "warning"),
        ("drain_grace_seconds", "0", 0),
        ("database", "Task_yard-2", "Task_yard-2"),
        *(
            ("bind", bind, bind)
            for bind in ("[::1]:0", "localhost", ":8000", "unix:/run/a b.sock", "fd://3")
        ),
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
        ("workspace_dir", "~nobody-of-that-name/w"),
        ("output_cap_bytes", "0"),
        ("output_cap_bytes", "1e3"),
        ("upload_cap_bytes", "-1"),
        ("lease_seconds", "0"),
        ("lease_seconds", "1e300"),
        ("renewal_seconds", "-1"),
        ("cancel_poll_seconds", "0"),
        ("drain_grace_seconds", "-1"),
        ("job_retention_days", "-1"),
        ("job_retention_days", "0"),
        ("job_retention_days", "1e9"),
        ("worker_retention_days", "0.0001"),
        ("max_jobs", "-1"),
        ("max_jobs", "1" + "0" * 20),
        ("archive_cap_entries", "1" + "0" * 20),
        ("cpu_count", "1e300"),
        ("ram_total_mb", "1e300"),
        ("database", ""),
        ("database", "admin"),
        ("database", "config"),
        ("database", "local"),
        ("database", "a.b"),
        ("database", "a b"),
        ("database", "x" * 64),
        ("bind", ""),
        ("bind", " "),
        ("bind", "127.0.0.1:port"),
        ("bind", "127.0.0.1:65536"),
        ("bind", "[::1:8000"),
        ("bind", "http://127.0.0.1:8000"),
        ("worker_id", "x" * 201),
        ("worker_id", "caf\udce9"),
        ("labels", "big mem"),
        ("labels", "x" * 65),
        ("labels", "gpu,caf\N{LATIN SMALL LETTER E WITH ACUTE}"),
        ("log_level", "LOUD"),
        ("log_level", ""),
        ("log_format", "xml"),
        *((f"{tick}_tick_seconds", "0") for tick in TICKS),
        *((f"{tick}_tick_seconds", "-5") for tick in TICKS),
    ],
)
def test_one_that_is_not_is_refused_by_its_name(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    monkeypatch.setenv(f"TASKYARD_{name.upper()}", text)
    with pytest.raises(ConfigurationError, match=f"TASKYARD_{name.upper()} must be"):
        settings.load()


@pytest.mark.parametrize(
    ("name", "text"),
    [("lease_seconds", "9"), ("offline_seconds", "9"), ("worker_retention_days", "0.0001")],
)
def test_one_that_cannot_work_with_another_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    monkeypatch.setenv(f"TASKYARD_{name.upper()}", text)
    with pytest.raises(ConfigurationError, match=f"TASKYARD_{name.upper()}"):
        settings.load()


def test_every_setting_can_be_read() -> None:
    known = {str(field.type) for field in dataclasses.fields(settings.Settings)}
    assert known <= set(settings._READERS)


def test_a_user_without_a_home_needs_none_beside_a_mongodb(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: str) -> str:
        raise RuntimeError("could not determine the home directory")

    monkeypatch.setattr("platformdirs.user_data_dir", fails)
    monkeypatch.setenv("MONGODB_URI", "mongodb://db1/")
    assert settings.load().mongodb_uri == "mongodb://db1/"
    assert running_uri(settings.load().data_dir) is None


def test_what_is_around_a_uri_is_no_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret made with ``echo``, or quoted with a space in an environment file."""
    monkeypatch.setenv("MONGODB_URI", " mongodb://db1/?authSource=taskyard\n")
    assert settings.load().mongodb_uri == "mongodb://db1/?authSource=taskyard"
