"""Uploads and downloads."""

from __future__ import annotations

import errno
import io
import stat
import tempfile
import zipfile
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NoReturn

import pytest
from flask.testing import FlaskClient
from werkzeug.http import parse_options_header

from taskyard.context import Platform
from tests.api.agents import client_with_token
from tests.test_archive import nameless


def zipped(*entries: tuple[zipfile.ZipInfo | str, bytes]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return target.getvalue()


def link(name: str, target: bytes) -> tuple[zipfile.ZipInfo, bytes]:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info, target


def device(name: str) -> tuple[zipfile.ZipInfo, bytes]:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFCHR | 0o666) << 16
    return info, b""


def upload(api: FlaskClient, content: bytes, name: str = "project.zip") -> object:
    return api.post("/api/files/upload", data={"file": (io.BytesIO(content), name)})


def test_what_goes_up_comes_down_the_same(api: FlaskClient) -> None:
    content = zipped(("a.txt", b"hello"))
    stored = api.post(
        "/api/files/upload", data={"file": (io.BytesIO(content), "my project.zip")}
    ).get_json()
    assert (stored["filename"], stored["size"]) == ("my project.zip", len(content))
    answer = api.get(stored["url"])
    assert answer.data == content
    assert answer.headers["Content-Length"] == str(len(content))
    assert answer.mimetype == "application/zip"
    assert 'filename="my_project.zip"' in answer.headers["Content-Disposition"] or (
        "filename=my_project.zip" in answer.headers["Content-Disposition"]
    )


@pytest.mark.parametrize(
    ("asked", "status", "content_range", "content"),
    [
        ("bytes=0-3", 206, "bytes 0-3/10", b"0123"),
        ("bytes=8-", 206, "bytes 8-9/10", b"89"),
        ("bytes=-2", 206, "bytes 8-9/10", b"89"),
        ("bytes=0-99", 206, "bytes 0-9/10", b"0123456789"),
        ("bytes=-10", 206, "bytes 0-9/10", b"0123456789"),
        ("bytes=-65536", 206, "bytes 0-9/10", b"0123456789"),
        ("lines=1-2", 200, None, b"0123456789"),
        ("bytes=20-30", 416, "bytes */10", None),
    ],
)
def test_a_range_is_honoured(
    api: FlaskClient, asked: str, status: int, content_range: str | None, content: bytes | None
) -> None:
    stored = api.post(
        "/api/files/upload", data={"file": (io.BytesIO(b"0123456789"), "digits.txt")}
    ).get_json()
    answer = api.get(stored["url"], headers={"Range": asked})
    assert answer.status_code == status
    assert answer.headers.get("Content-Range") == content_range
    assert content is None or answer.data == content


@pytest.mark.parametrize("if_range", ['"another"', 'W/"{}"', "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_a_range_of_another_file_is_answered_with_this_one_whole(
    api: FlaskClient, if_range: str
) -> None:
    """Otherwise a resumed download would join the end of one file to the beginning of another."""
    stored = api.post(
        "/api/files/upload", data={"file": (io.BytesIO(b"0123456789"), "digits.txt")}
    ).get_json()
    headers = {"Range": "bytes=5-", "If-Range": if_range.format(stored["sha256"])}
    whole = api.get(stored["url"], headers=headers)
    assert (whole.status_code, whole.data) == (200, b"0123456789")
    headers["If-Range"] = whole.headers["ETag"]
    rest = api.get(stored["url"], headers=headers)
    assert (rest.status_code, rest.data) == (206, b"56789")


def test_a_file_that_is_there_already_is_not_sent_again(api: FlaskClient) -> None:
    stored = api.post("/api/files/upload", data={"file": (io.BytesIO(b"01"), "d.txt")}).get_json()
    etag = api.get(stored["url"]).headers["ETag"]
    same = api.get(stored["url"], headers={"If-None-Match": etag})
    assert (same.status_code, same.data) == (304, b"")
    other = api.get(stored["url"], headers={"If-None-Match": '"another"'})
    assert (other.status_code, other.data) == (200, b"01")
    mistaken = api.get(stored["url"], headers={"If-Match": '"another"'})
    assert (mistaken.status_code, mistaken.mimetype) == (412, "application/problem+json")


def test_the_last_bytes_of_an_empty_file_are_not_there(api: FlaskClient) -> None:
    stored = api.post("/api/files/upload", data={"file": (io.BytesIO(b""), "e.txt")}).get_json()
    assert api.get(stored["url"], headers={"Range": "bytes=-5"}).status_code == 416


def test_a_file_that_begins_like_a_zip_by_chance_is_kept_as_it_is(api: FlaskClient) -> None:
    content = b"PKI rollout notes"
    stored = api.post(
        "/api/files/upload", data={"file": (io.BytesIO(content), "notes.txt")}
    ).get_json()
    assert api.get(stored["url"]).data == content


@pytest.mark.parametrize("content", [zipped(("../x", b"x")), zipped()])
def test_a_zip_is_checked_whatever_its_name(api: FlaskClient, content: bytes) -> None:
    answer = api.post("/api/files/upload", data={"file": (io.BytesIO(content), "notes.txt")})
    assert answer.status_code in (400, 422)


BAD_ARCHIVES = {
    "no zip": (b"no zip at all", 400),
    "cut short": (zipped(("a", b"x" * 5000))[:-30], 400),
    "absolute path": (zipped(("/etc/passwd", b"x")), 422),
    "parent folder": (zipped(("../../x", b"x")), 422),
    "windows parent folder": (zipped(("..\\x", b"x")), 422),
    "drive": (zipped(("C:\\x", b"x")), 422),
    "link out of the folder": (zipped(link("a", b"/etc")), 422),
    "no name": (nameless().getvalue(), 400),
    "device": (zipped(device("null")), 422),
    "bomb by ratio": (zipped(("zeros", b"\0" * 60_000_000)), 422),
}


@pytest.mark.parametrize("name", BAD_ARCHIVES)
def test_an_archive_that_is_none_or_would_do_harm_is_refused_and_not_kept(
    api: FlaskClient, platform: Platform, name: str
) -> None:
    content, status = BAD_ARCHIVES[name]
    answer = api.post("/api/files/upload", data={"file": (io.BytesIO(content), "project.zip")})
    assert answer.status_code == status, answer.text
    assert [entry["field"] for entry in answer.get_json()["errors"]] == ["file"]
    assert platform.store.database["files.files"].count_documents({}) == 0


def test_a_file_over_the_limit_is_413(with_settings: Callable[..., Platform]) -> None:
    here = with_settings(upload_cap_bytes=1000)
    answer = client_with_token(here).post(
        "/api/files/upload", data={"file": (io.BytesIO(b"x" * 2000), "a.txt")}
    )
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("path", "fields", "field"),
    [
        ("/api/files/upload", {}, "file"),
        ("/api/execute", {"commands": "true"}, "file"),
        ("/api/jobs/submit-result", {"jobId": "j", "workerId": "w", "exitCode": "0"}, "file"),
        ("/api/execute", {"commands": ["make", "make test"]}, "commands"),
        ("/api/jobs/submit-result", {"jobId": ["j", "k"], "exitCode": "0"}, "jobId"),
    ],
)
def test_what_is_sent_twice_and_read_once_is_422_and_named(
    api: FlaskClient, path: str, fields: dict[str, Any], field: str
) -> None:
    """Otherwise the second value would be dropped silently."""
    files = [(io.BytesIO(b"text"), f"{number}.txt") for number in range(2)]
    data = {**fields, "file": files if field == "file" else files[0]}
    answer = api.post(path, data=data)
    assert answer.status_code == 422, answer.text
    assert [entry["field"] for entry in answer.get_json()["errors"]] == [field]
    assert "more than once" in answer.get_json()["error"]


# Werkzeug does not close the file into which it has begun to receive.
@pytest.mark.filterwarnings("ignore:Unclosed file:ResourceWarning")
@pytest.mark.parametrize("is_full", [True, False])
def test_a_host_that_cannot_receive_it_says_so(
    api: FlaskClient, monkeypatch: pytest.MonkeyPatch, is_full: bool
) -> None:
    def no_room(**_: Any) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    if is_full:
        monkeypatch.setattr(tempfile, "TemporaryFile", no_room)
    else:
        monkeypatch.setattr(tempfile, "tempdir", None)
        monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/dev/null/tmp"])
    head = b'Content-Disposition: form-data; name="file"; filename="large"'
    form = b"--b\r\n%b\r\n\r\n%b\r\n--b--\r\n" % (head, bytes(1_000_000))
    kind = "multipart/form-data; boundary=b"
    answer = api.post("/api/files/upload", data=form, content_type=kind)
    assert answer.status_code == 507, answer.text
    assert "temporary folder is full" in answer.get_json()["detail"]


def test_an_upload_without_a_file_names_the_field(api: FlaskClient) -> None:
    answer = api.post("/api/files/upload", data={"other": "x"})
    assert answer.status_code == 422
    assert {entry["field"] for entry in answer.get_json()["errors"]} >= {"file"}


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("отчёт за май.zip", "отчёт за май.zip"),
        ("../../Grüße.txt", "Grüße.txt"),
        ("C:\\Prüfung\\é.txt", "é.txt"),
        ("ü\u202egpj.exe", "ügpj.exe"),
    ],
)
def test_a_name_of_any_letters_comes_down_with_its_file(
    api: FlaskClient, platform: Platform, name: str, shown: str
) -> None:
    stored = platform.store.files.save(
        io.BytesIO(b"x"), filename=name, cap_bytes=10, keep=timedelta(days=1)
    )
    sent = api.get(f"/api/files/download/{stored.file_id}").headers["Content-Disposition"]
    _, names = parse_options_header(sent)
    assert names["filename"] == shown


MULTIPART = "multipart/form-data; boundary=x"


def part(name: str, text: str) -> str:
    return f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n'


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", part("commands", "true") + "--x--\r\n"),
        (MULTIPART, part("commands", "true")),
        (MULTIPART, "--x\r\nnonsense\r\n--x--\r\n"),
        (MULTIPART, "true"),
        ("application/x-www-form-urlencoded", b"commands=\xff"),
    ],
)
def test_a_form_that_cannot_be_read_is_400(api: FlaskClient, kind: str, body: str | bytes) -> None:
    answer = api.post("/api/execute", data=body, content_type=kind)
    assert answer.status_code == 400
    assert answer.get_json()["error"] == "The body is not a valid form."


@pytest.mark.parametrize(
    ("path", "kind", "body"),
    [
        ("/api/jobs/create", "application/json", b'{"command": "true"}'),
        ("/api/execute", "application/x-www-form-urlencoded", b"mode=distributed&commands=rm+/"),
        ("/api/execute", MULTIPART, (part("commands", "true") + "--x--\r\n").encode()),
    ],
)
def test_a_body_that_its_sender_broke_off_is_400_and_starts_nothing(
    api: FlaskClient, platform: Platform, path: str, kind: str, body: bytes
) -> None:
    """As gunicorn passes it on: fewer bytes than the length says, and then the end."""
    broken_off = {"CONTENT_LENGTH": str(len(body) + 5), "wsgi.input_terminated": True}
    answer = api.post(path, data=body, content_type=kind, environ_overrides=broken_off)
    assert answer.status_code == 400
    assert api.get("/api/jobs/list").get_json()["count"] == 0


def test_a_name_with_markup_or_control_characters_does_no_harm(api: FlaskClient) -> None:
    stored = api.post(
        "/api/files/upload",
        data={"file": (io.BytesIO(b"x"), '"><script>alert(1)</script>\r\n.txt')},
    ).get_json()
    answer = api.get(stored["url"])
    assert "<script>" not in answer.headers["Content-Disposition"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
