"""Large files pass through web without being held in its memory."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from tests.system.conftest import Web

MIB = 1024 * 1024
SIZE = 200 * MIB

#: How much web's memory may grow while 200 MB pass through it.
GROWTH = 50 * MIB


@pytest.fixture
def web(start_web: Callable[..., Web]) -> Web:
    return start_web(TASKYARD_AUTH="off")


@pytest.fixture
def large_zip(tmp_path: Path) -> Path:
    """A ZIP file of 200 MB of random bytes."""
    target = tmp_path / "large.zip"
    with (
        zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive,
        archive.open("noise.bin", "w", force_zip64=True) as entry,
    ):
        for _ in range(SIZE // MIB):
            entry.write(os.urandom(MIB))
    return target


def test_200_mb_go_up_and_down_and_web_holds_little_of_it(web: Web, large_zip: Path) -> None:
    before = web.worker().memory_info().rss
    with large_zip.open("rb") as source:
        stored = httpx2.post(
            f"{web.url}/api/files/upload", files={"file": ("large.zip", source)}, timeout=120
        ).json()
    assert stored["size"] == large_zip.stat().st_size
    after_upload = web.worker().memory_info().rss

    digest = hashlib.sha256()
    with httpx2.stream("GET", web.url + stored["url"], timeout=120) as answer:
        for piece in answer.iter_bytes(MIB):
            digest.update(piece)
    after_download = web.worker().memory_info().rss

    assert digest.hexdigest() == stored["sha256"]
    assert after_upload - before < GROWTH
    assert after_download - before < GROWTH

    middle = {"Range": f"bytes={SIZE // 2}-{SIZE // 2 + 9}"}
    part = httpx2.get(web.url + stored["url"], headers=middle)
    with large_zip.open("rb") as source:
        source.seek(SIZE // 2)
        assert (part.status_code, part.content) == (206, source.read(10))


def test_a_body_without_end_is_cut_at_the_limit(start_web: Callable[..., Web]) -> None:
    web = start_web(TASKYARD_AUTH="off", TASKYARD_UPLOAD_CAP_BYTES=str(5 * MIB))

    def endless() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        for _ in range(1000):
            yield b"a" * MIB

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    try:
        answer = httpx2.post(
            f"{web.url}/api/files/upload", content=endless(), headers=headers, timeout=60
        )
    except httpx2.WriteError:
        return  # web closed the connection while we were still sending
    assert answer.status_code == 413
