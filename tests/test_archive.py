"""Archives that come from strangers."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskyard import archive, packing
from taskyard.agent import removal
from taskyard.archive import ArchiveLimits
from taskyard.errors import BadArchive

LIMITS = ArchiveLimits(max_entries=1000, max_bytes=20_000_000)


def zipped(
    *entries: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED
) -> io.BytesIO:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", method) as made:
        for name, content in entries:
            made.writestr(name, content)
    target.seek(0)
    return target


def special(name: str, kind: int, content: bytes = b"") -> tuple[zipfile.ZipInfo, bytes]:
    info = zipfile.ZipInfo(name)
    info.external_attr = (kind | 0o777) << 16
    return info, content


def raw_name(name: str) -> io.BytesIO:
    """Return an archive with exactly this name, which Python's writer would clean."""
    placeholder = "n" * len(name.encode())
    made = zipped((placeholder, b"x")).getvalue()
    return io.BytesIO(made.replace(placeholder.encode(), name.encode()))


def nameless() -> io.BytesIO:
    """Return an archive with an entry whose name is empty."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as made, made.open(zipfile.ZipInfo(""), "w") as entry:
        entry.write(b"x")
    target.seek(0)
    return target


def lying_about_its_size() -> io.BytesIO:
    """Return an archive whose directory says 10 bytes, and which unpacks to 50 MB."""
    made = bytearray(zipped(("a", b"\0" * 50_000_000)).getvalue())
    directory = made.rindex(b"PK\x01\x02")
    struct.pack_into("<L", made, directory + 24, 10)
    struct.pack_into("<L", made, 22, 10)
    return io.BytesIO(bytes(made))


HARMFUL = {
    "an absolute path": lambda: raw_name("/etc/passwd"),
    "a parent folder": lambda: zipped(("a/../../b", b"x")),
    "a backslash": lambda: raw_name("a\\b"),
    "a drive": lambda: zipped(("C:/evil", b"x")),
    "a NUL": lambda: raw_name("a\0b"),
    "a link": lambda: zipped(special("a", stat.S_IFLNK, b"/etc")),
    "a character device": lambda: zipped(special("a", stat.S_IFCHR)),
    "a FIFO": lambda: zipped(special("a", stat.S_IFIFO)),
    "a socket": lambda: zipped(special("a", stat.S_IFSOCK)),
    "a file below a file": lambda: zipped(("a", b"x"), ("a/b", b"y")),
    "a file that is a folder": lambda: zipped(("a/b", b"x"), ("a", b"y")),
    "a name that is too long": lambda: zipped(("n" * 256, b"x")),
    "a path that is too long": lambda: zipped(("/".join(["n" * 200] * 6), b"x")),
    "too deep a path": lambda: zipped(("a/" * 100 + "b", b"x")),
    "too many entries": lambda: zipped(*((str(n), b"") for n in range(1001))),
    "too many bytes": lambda: zipped(("a", os.urandom(20_000_001)), method=zipfile.ZIP_STORED),
    "a bomb by ratio": lambda: zipped(("a", b"\0" * 15_000_000)),
}

UNREADABLE: dict[str, Callable[[], io.BytesIO]] = {
    "nothing": lambda: io.BytesIO(b""),
    "text": lambda: io.BytesIO(b"no archive"),
    "an empty archive": lambda: zipped(),
    "only a folder": lambda: zipped(("a/", b"")),
    "an entry without a name": nameless,
    "a cut archive": lambda: io.BytesIO(zipped(("a", os.urandom(9000))).getvalue()[:-40]),
    "a directory of noise": lambda: io.BytesIO(
        zipped(("a", b"x")).getvalue().replace(b"PK\x01\x02", b"XX\x01\x02")
    ),
}


@pytest.mark.parametrize("kind", HARMFUL)
def test_what_would_do_harm_is_refused_before_anything_is_written(
    kind: str, tmp_path: Path
) -> None:
    target = tmp_path / "inside"
    target.mkdir()
    with pytest.raises(BadArchive) as checked:
        archive.check(HARMFUL[kind](), LIMITS)
    with pytest.raises(BadArchive) as unpacked:
        archive.extract(HARMFUL[kind](), target, LIMITS)
    assert (checked.value.status, unpacked.value.status) == (422, 422)
    assert list(tmp_path.rglob("*")) == [target]


@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_cannot_be_read_is_400(kind: str) -> None:
    with pytest.raises(BadArchive) as refused:
        archive.check(UNREADABLE[kind](), LIMITS)
    assert refused.value.status == 400


def test_an_archive_that_lies_about_its_size_is_stopped_by_bytes_written(tmp_path: Path) -> None:
    with pytest.raises(BadArchive):
        archive.extract(lying_about_its_size(), tmp_path, LIMITS)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*")) <= LIMITS.max_bytes


def test_an_encrypted_archive_is_refused() -> None:
    made = bytearray(zipped(("a", b"x")).getvalue())
    directory = made.rindex(b"PK\x01\x02")
    struct.pack_into("<H", made, directory + 8, 1)
    with pytest.raises(BadArchive):
        archive.check(io.BytesIO(bytes(made)), LIMITS)


@pytest.mark.parametrize("method", archive._METHODS)
def test_a_broken_entry_is_refused_while_it_is_unpacked(method: int, tmp_path: Path) -> None:
    whole = zipped(("a", os.urandom(5000)), method=method).getvalue()
    for place in range(31, 2000, 13):
        made = bytearray(whole)
        made[place : place + 20] = bytes(byte ^ 0x5A for byte in made[place : place + 20])
        target = tmp_path / str(place)
        target.mkdir()
        with pytest.raises(BadArchive):
            archive.extract(io.BytesIO(bytes(made)), target, LIMITS)


def test_a_file_that_cannot_be_written_is_not_the_archives_fault(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(OSError, match="No space left"):
        archive.extract(zipped(("a", b"x")), tmp_path, LIMITS)


def test_harmless_names_are_unpacked_as_they_are(tmp_path: Path) -> None:
    source = zipped(("./", b""), ("./a.txt", b"1"), ("a:b.txt", b"2"))
    archive.extract(source, tmp_path, LIMITS)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.txt", "a:b.txt"]


def test_folders_bytes_and_the_owners_run_bit_are_unpacked(tmp_path: Path) -> None:
    script = zipfile.ZipInfo("bin/run")
    script.external_attr = (stat.S_IFREG | 0o6777) << 16
    source = zipped((script, b"#!/bin/sh\n"), ("ä/b.txt", b"text"), ("empty/", b""))
    archive.extract(source, tmp_path, LIMITS)
    assert (tmp_path / "ä" / "b.txt").read_bytes() == b"text"
    assert (tmp_path / "empty").is_dir()
    mode = (tmp_path / "bin" / "run").stat().st_mode
    assert mode & stat.S_IXUSR
    assert not mode & (stat.S_ISUID | stat.S_ISGID | stat.S_IWOTH)


def test_an_archive_with_a_prefix_is_unpacked(tmp_path: Path) -> None:
    source = io.BytesIO(b"#!/usr/bin/python\n" + zipped(("a", b"x")).getvalue())
    archive.extract(source, tmp_path, LIMITS)
    assert (tmp_path / "a").read_bytes() == b"x"


@given(name=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
def test_no_name_leads_outside(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    above = tmp_path_factory.mktemp("above")
    target = above / "inside"
    target.mkdir()
    with contextlib.suppress(BadArchive, UnicodeEncodeError):
        archive.extract(zipped((name, b"x")), target, LIMITS)
    assert [path for path in above.rglob("*") if not path.is_relative_to(target)] == []


def test_packing_keeps_regular_files_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "f").write_text("text")
    (tmp_path / "link").symlink_to("/etc/passwd")
    (tmp_path / "loop").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "secret").write_text("x")
    target = io.BytesIO()
    report = packing.pack(tmp_path, target, cap_bytes=1000, cap_entries=100)
    with zipfile.ZipFile(target) as packed:
        assert sorted(packed.namelist()) == ["d/f", "secret"]
    assert (report.entries, report.cut) == (2, False)


def test_nothing_is_packed_of_what_a_link_names_that_was_put_in_the_folders_place(
    tmp_path: Path,
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "secret").write_text("x")
    folder = tmp_path / "work"
    folder.symlink_to(tmp_path / "elsewhere")
    report = packing.pack(folder, io.BytesIO(), cap_bytes=1000, cap_entries=100)
    assert (report.entries, report.cut) == (0, False)


@pytest.mark.parametrize("size", [999, 1000, 1001])
def test_a_file_is_packed_that_needs_an_entry_for_large_ones(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random bytes are a little larger when compressed, so they may cross ZIP64's limit."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1000)
    (tmp_path / "f").write_bytes(content := os.urandom(size))
    target = io.BytesIO()
    packing.pack(tmp_path, target, cap_bytes=2000, cap_entries=100)
    with zipfile.ZipFile(target) as packed:
        assert packed.read("f") == content


def test_names_that_are_no_text_are_packed_and_kept_apart(tmp_path: Path) -> None:
    for name in (b"caf\xe9", b"caf\xe8", b"caf%E8", "café".encode()):
        (tmp_path / os.fsdecode(name)).write_bytes(name)
    target = io.BytesIO()
    packing.pack(tmp_path, target, cap_bytes=1000, cap_entries=100)
    with zipfile.ZipFile(target) as packed:
        assert sorted(packed.namelist()) == ["caf%E8", "caf%E8~", "caf%E9", "café"]
        assert packed.read("caf%E9") == b"caf\xe9"
        assert {packed.read("caf%E8"), packed.read("caf%E8~")} == {b"caf\xe8", b"caf%E8"}


@contextlib.contextmanager
def _without_privileges(folder: Path) -> Iterator[None]:
    """Run the block as a user who may not read everything, as root may."""
    if os.geteuid() != 0:
        yield
        return
    os.chown(folder, 65534, 65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("secret", ["f", "d"])
def test_what_may_not_be_read_is_missed_in_the_archive(secret: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "d").mkdir()
        for path in ("d/inner", "f", "g"):
            (folder / path).write_text("text")
        (folder / secret).chmod(0)
        target = io.BytesIO()
        with _without_privileges(folder):
            report = packing.pack(folder, target, cap_bytes=1000, cap_entries=100)
        (folder / secret).chmod(0o700)
    with zipfile.ZipFile(target) as packed:
        assert sorted(packed.namelist()) == (["d/inner", "g"] if secret == "f" else ["f", "g"])
        assert b"cut by taskyard" in packed.comment
    assert (report.entries, report.cut) == (2, True)


@pytest.mark.parametrize("name", ["d", "d" * 255])
def test_the_deepest_tree_costs_an_archive_nothing_but_what_has_too_long_a_path(
    name: str, tmp_path: Path
) -> None:
    folder = tmp_path / "packed"
    folder.mkdir()
    (folder / "shallow").write_text("text")
    here = os.open(folder, os.O_RDONLY)
    for _ in range(2100):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("deep", os.O_CREAT, dir_fd=here))
    os.close(here)
    target = io.BytesIO()
    report = packing.pack(folder, target, cap_bytes=1000, cap_entries=100)
    assert removal.remove(folder)
    with zipfile.ZipFile(target) as packed:
        assert packed.namelist() == ["shallow"]
    assert report.cut


@pytest.mark.parametrize(("cap_bytes", "cap_entries"), [(25, 100), (1000, 2)])
def test_packing_stops_at_its_caps_and_says_so(
    cap_bytes: int, cap_entries: int, tmp_path: Path
) -> None:
    for number in range(5):
        (tmp_path / f"f{number}").write_text("0123456789")
    target = io.BytesIO()
    report = packing.pack(tmp_path, target, cap_bytes=cap_bytes, cap_entries=cap_entries)
    with zipfile.ZipFile(target) as packed:
        assert packed.namelist() == ["f0", "f1"]
        assert b"cut by taskyard" in packed.comment
    assert report.cut
