"""How the command line makes a job's command and its archive."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from taskyard.agent.line import SHELL
from taskyard.cli import inputs
from taskyard.cli.inputs import collect, join_command
from taskyard.settings import Settings
from tests import factories


@pytest.mark.parametrize(
    "word",
    [
        "",
        "two words",
        "\n",
        "\n\n \n",
        "\n at both ends\n\n",
        'import os\nprint("two lines")',
        "it's\n'quoted'\n\"$HOME\" `id` $(id)",
        "back\\\nslashes\\n\\\\\n\\",
        "\r\nreturns\r\r\n\r",
        "*\n?\n[a]\n~\n#\n!x\n;&|",
        "%s\n%%\n\\0101",
        "\té\u2028✓\x0b\x0c\x1b\n\x7f",
        "-n\n",
    ],
)
def test_an_argument_is_the_same_one_in_the_shell_whatever_is_in_it(word: str) -> None:
    """A job's command is split at newlines, and each line goes to a shell of its own."""
    job = factories.queued_job(command=join_command(["printf", "[%s]", word, f"A={word}", word]))
    (line,) = job.lines
    ran = subprocess.run([SHELL, "-c", line], env={"IFS": "x"}, capture_output=True)
    assert ran.stdout.decode() == f"[{word}][A={word}][{word}]"
    assert ran.stderr == b""


def test_one_argument_is_the_script_that_it_is() -> None:
    assert join_command(["echo one\necho two"]) == "echo one\necho two"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "project"
    made.mkdir()
    (made / "a.txt").write_text("hello")
    return made


def test_a_folder_is_sent_with_its_empty_folders_and_what_links_in_it_name(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "sub" / "empty").mkdir(parents=True)
    (folder / "sub" / "link").symlink_to("../a.txt")
    (folder / "again").symlink_to(folder / "sub" / "link")
    with collect(folder) as packed, zipfile.ZipFile(packed or "") as archive:
        assert sorted(archive.namelist()) == ["a.txt", "again", "sub/empty/", "sub/link"]
        assert archive.read("again") == archive.read("sub/link") == b"hello"
    assert capsys.readouterr().err == ""


def test_what_of_a_folder_cannot_be_sent_is_named_in_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "outside").write_text("x")
    (folder / "sub").mkdir()
    for name, to in [("out", "../outside"), ("to-sub", "sub"), ("loop", "loop"), ("gone", "x")]:
        (folder / name).symlink_to(to)
    os.mkfifo(folder / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(folder / "socket"))
        with collect(folder) as packed, zipfile.ZipFile(packed or "") as archive:
            assert sorted(archive.namelist()) == ["a.txt", "sub/"]
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert told.rstrip().endswith(": fifo, gone, loop, out, socket, to-sub")


def test_a_folder_in_which_temporary_files_are_made_is_sent_without_its_own_archive(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "Settings", lambda: Settings(archive_cap_bytes=1_000_000))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    (folder / "a.txt").write_bytes(os.urandom(300_000))
    with collect(folder) as packed, zipfile.ZipFile(packed or "") as archive:
        assert archive.namelist() == ["a.txt"]
    assert capsys.readouterr().err == ""


def test_a_folder_may_be_larger_than_an_upload_if_its_archive_is_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Settings(upload_cap_bytes=1000, archive_cap_bytes=10_000)
    monkeypatch.setattr(inputs, "Settings", lambda: small)
    (folder / "log").write_text("x" * 9000)
    with collect(folder) as packed:
        assert packed is not None
        assert packed.stat().st_size < 1000
    (folder / "more").write_text("x" * 1000)
    with pytest.raises(click.ClickException, match="more than an archive may hold"):
        collect(folder).__enter__()


@pytest.mark.parametrize("make", [os.mkdir, os.mknod])
def test_a_folder_with_what_cannot_be_read_is_not_sent(
    folder: Path, make: Callable[..., None]
) -> None:
    """The test uses a path that is too long, because not even root can read it."""
    here = os.open(folder, os.O_RDONLY)
    for _ in range((4095 - len(os.fsencode(folder))) // 201):
        os.mkdir("d" * 200, dir_fd=here)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    make("d" * 200, dir_fd=here)
    os.close(here)
    with pytest.raises(click.UsageError, match=f"{folder}/d.*cannot be read"), collect(folder):
        pass
