"""From a job's last line to its result, whatever the job did to its folders."""

from __future__ import annotations

import errno
import socket
import threading
from typing import Any

import pytest

from taskyard import packing
from taskyard.agent import processes
from taskyard.agent.workspace import Workspace
from taskyard.store.files import FileStore
from tests.agent.conftest import Bench
from tests.helpers import eventually


@pytest.mark.parametrize("mischief", ['rm -rf "$TMPDIR"', 'mkdir "$TMPDIR/result.zip"'])
def test_what_a_job_left_is_kept_whatever_it_did_to_its_tmpdir(bench: Bench, mischief: str) -> None:
    job = bench.run(f"{mischief}; echo one > f")
    assert job.status == "COMPLETED"
    assert bench.left(job).read("f") == b"one\n"


@pytest.mark.parametrize("mischief", ['rm -rf "$PWD"', 'rm -rf "$PWD"; touch "$PWD"'])
def test_a_job_that_took_its_own_folder_away_has_failed_itself(bench: Bench, mischief: str) -> None:
    job = bench.run(f"echo one; {mischief}\necho two")
    assert (job.status, job.attempts, bench.printed(job)) == ("FAILED", 1, "one\n")
    assert job.error_message == "its working folder was gone after one of its lines"


@pytest.mark.parametrize("room", [0, socket.CMSG_LEN(4)])
@pytest.mark.parametrize("line", ["sleep .1; seq 100000; sleep 60", "seq 5000"])
def test_a_job_whose_pipes_do_not_come_is_an_agents_error_and_has_no_exit_code(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, room: int, line: str
) -> None:
    # As when too many files are open: the kernel leaves the descriptors out of the message.
    monkeypatch.setattr(processes, "_FDS_BYTES", room)
    job = bench.await_status(bench.give(line), "QUEUED")
    assert "too many open files" in job.history[-1]["reason"]
    assert job.exit_code is None


def test_other_jobs_go_on_while_what_a_job_left_is_removed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    removing, other_is_over = threading.Event(), threading.Event()
    remove = Workspace.remove

    def slow(workspace: Workspace) -> None:
        removing.set()
        other_is_over.wait(20)
        remove(workspace)

    monkeypatch.setattr(Workspace, "remove", slow)
    assert bench.run("touch $TMPDIR/much").status == "COMPLETED"
    assert removing.wait(10)
    assert bench.printed(bench.run("echo hi; sleep .1; echo ho")) == "hi\nho\n"
    other_is_over.set()
    eventually(
        lambda: [path.name for path in bench.folder.iterdir() if (path / "tmp/much").exists()] == []
    )


@pytest.mark.parametrize(("owner", "step"), [(packing, "pack"), (FileStore, "save")])
def test_a_job_whose_archive_cannot_be_made_or_stored_keeps_its_result(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, owner: object, step: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(owner, step, fail)
    job = bench.run("echo out; echo one > f; exit 3")
    assert (job.status, job.exit_code, job.attempts) == ("FAILED", 3, 1)
    assert bench.printed(job) == "out\n"
    assert (job.result_file_id, job.result_truncated) == (None, True)


@pytest.mark.parametrize(
    ("line", "is_stored_before"),
    [
        ("echo one > f", False),
        ("truncate -s 1M f", True),
        ("mkdir d && cd d && seq 150 | xargs touch", True),
    ],
)
def test_output_waits_for_files_only_if_these_are_packed_in_a_moment(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, line: str, *, is_stored_before: bool
) -> None:
    stored: list[int] = []
    pack = packing.pack

    def look(*args: Any, **kwargs: Any) -> packing.PackReport:
        stored.append(bench.platform.store.database["output"].count_documents({}))
        return pack(*args, **kwargs)

    monkeypatch.setattr(packing, "pack", look)
    job = bench.run(f"{line}; echo hi")
    assert stored == [int(is_stored_before)]
    assert bench.printed(job) == "hi\n"
    assert bench.left(job).namelist()
