"""Files: whole and in part, in little memory, in the layout of GridFS."""

from __future__ import annotations

import hashlib
import io
import secrets
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import gridfs
import pytest

from taskyard.errors import NotFound, TooLarge
from taskyard.settings import MIB
from taskyard.store.client import Store
from taskyard.store.files import PIECES_AT_ONCE, StoredFile


def test_a_file_comes_back_whole_or_in_part(store: Store) -> None:
    content = secrets.token_bytes(PIECES_AT_ONCE * 255 * 1024 + 700_000)
    saved = store.files.save(
        io.BytesIO(content), filename="a.bin", cap_bytes=10**7, keep=timedelta(days=1)
    )
    assert saved.sha256 == hashlib.sha256(content).hexdigest()

    def read(start: int, length: int) -> bytes:
        return b"".join(store.files.pieces(saved.file_id, start, length))

    size = len(content)
    for start, length in ((0, size), (300_000, 10), (0, 0), (size - 1, 1), (4_000_000, 800_000)):
        assert read(start, length) == content[start : start + length]
    store.files.delete([saved.file_id])
    with pytest.raises(NotFound):
        store.files.get(saved.file_id)
    with pytest.raises(NotFound):
        read(0, 1)


def test_a_file_that_loses_a_piece_while_it_is_read_does_not_come_back_short(store: Store) -> None:
    content = secrets.token_bytes(600_000)
    saved = store.files.save(
        io.BytesIO(content), filename="a.bin", cap_bytes=10**6, keep=timedelta(days=1)
    )
    store.database["files.chunks"].delete_one({"files_id": saved.file_id, "n": 1})
    with pytest.raises(NotFound):
        list(store.files.pieces(saved.file_id, 0, len(content)))


@pytest.mark.parametrize("size", [0, 1, 255 * 1024, 600_000])
def test_files_are_laid_out_as_gridfs_does(store: Store, size: int) -> None:
    """Files of earlier versions were written by the driver's own class, and are still there."""
    bucket = gridfs.GridFSBucket(store.database, bucket_name="files")
    content = secrets.token_bytes(size)
    saved = store.files.save(
        io.BytesIO(content), filename="a.bin", cap_bytes=10**6, keep=timedelta(days=1)
    )
    assert bucket.open_download_stream(saved.file_id).read() == content
    bucket.upload_from_stream_with_id("earlier", "b.bin", io.BytesIO(content))
    assert b"".join(store.files.pieces("earlier", 0, size)) == content
    ours, theirs = store.database["files.files"].find(sort=[("filename", 1)])
    same = ("length", "chunkSize")
    assert [ours[name] for name in same] == [theirs[name] for name in same]


def test_small_files_that_are_saved_at_once_are_each_stored_whole(store: Store) -> None:
    contents = [secrets.token_bytes(size) for size in (0, 1, 1000, 250_000) * 5]

    def save(content: bytes) -> StoredFile:
        return store.files.save(
            io.BytesIO(content), filename="a.bin", cap_bytes=10**6, keep=timedelta(days=1)
        )

    with ThreadPoolExecutor(len(contents)) as threads:
        saved = list(threads.map(save, contents))
    for file, content in zip(saved, contents, strict=True):
        assert file == store.files.get(file.file_id)
        assert b"".join(store.files.pieces(file.file_id, 0, len(content))) == content
    assert store.database["files.begun"].count_documents({}) == 0


def test_little_of_a_large_file_is_in_memory_at_once(store: Store, tmp_path: Path) -> None:
    """The driver's own classes took twice 48 MB to write a file, and twice 16 to read one."""
    (tmp_path / "large").write_bytes(bytes(64 * MIB))
    tracemalloc.start()
    try:
        with (tmp_path / "large").open("rb") as source:
            saved = store.files.save(source, filename="a", cap_bytes=10**9, keep=timedelta(days=1))
        assert sum(map(len, store.files.pieces(saved.file_id, 0, 64 * MIB))) == 64 * MIB
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 20 * MIB


@pytest.mark.parametrize("cap_bytes", [0, 9, 300_000])
def test_a_file_over_the_cap_is_not_kept(store: Store, cap_bytes: int) -> None:
    content = io.BytesIO(bytes(cap_bytes + 1))
    with pytest.raises(TooLarge):
        store.files.save(content, filename="a", cap_bytes=cap_bytes, keep=timedelta(days=1))
    for name in ("files.files", "files.chunks", "files.begun"):
        assert store.database[name].count_documents({}) == 0
