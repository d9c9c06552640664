"""What the runner does with a job, with real processes and the real store."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from taskyard.agent.attempt import Attempt
from taskyard.agent.stages import Stages
from taskyard.context import Platform
from taskyard.jobs import lifecycle
from taskyard.jobs.model import Lease
from taskyard.jobs.states import JobStatus
from taskyard.jobs.transition import Transition
from tests.agent.conftest import Bench, keepers, until
from tests.helpers import eventually


@pytest.mark.parametrize(
    ("command", "code", "status"),
    [
        ("true", 0, "COMPLETED"),
        ("exit 3", 3, "FAILED"),
        ("no-such-command", 127, "FAILED"),
        ("kill -9 $$", 137, "FAILED"),
        ("echo a\nexit 4\necho never", 4, "FAILED"),
        ("\n\n  \ntrue\n", 0, "COMPLETED"),
    ],
)
def test_a_job_ends_with_its_own_exit_code(
    bench: Bench, command: str, code: int, status: str
) -> None:
    job = bench.run(command)
    assert (job.exit_code, job.status) == (code, status)
    assert "never" not in bench.printed(job)


def test_the_longest_command_runs(bench: Bench) -> None:
    smile = "\N{SLIGHTLY SMILING FACE}"
    job = bench.run(f"echo '{smile * 32_000}' | wc -m", env={"LC_ALL": "C.UTF-8"})
    assert bench.printed(job) == "32001\n"


def test_only_a_newline_ends_a_line_of_a_command(bench: Bench) -> None:
    text = "a\fb\vc\x1cd\x85e\u2028f\rg"
    job = bench.run(f"printf '%s\\n' '{text}'\r\nprintf end\n\n")
    assert bench.printed(job) == f"{text}\nend"


def test_both_streams_are_kept_apart_and_in_one_sequence(bench: Bench, tmp_path: Path) -> None:
    two, three = tmp_path / "two", tmp_path / "three"
    lease = bench.give(f"echo 1; {until(two)}; echo 2 >&2; {until(three)}; echo 3")
    eventually(lambda: bench.printed(lease))
    two.touch()
    eventually(lambda: bench.printed(lease, "stderr"))
    three.touch()
    job = bench.ended(lease)
    chunks = list(bench.store.output.read(job))
    assert [chunk.seq for chunk in chunks] == sorted(chunk.seq for chunk in chunks)
    assert [(c.stream, c.data) for c in chunks] == [
        ("stdout", "1\n"),
        ("stderr", "2\n"),
        ("stdout", "3\n"),
    ]


def test_output_is_stored_within_a_quarter_of_a_second(platform: Platform, tmp_path: Path) -> None:
    bench = Bench(platform, tmp_path / "w", output_flush_seconds=3600.0)

    def is_in_time() -> bool:
        """Whether the output of one job was in time; other load may delay any single one."""
        lease = bench.give("sleep .1; date +%s%N; sleep 60")
        text = eventually(lambda: bench.printed(lease))
        took = time.time() - int(text) / 1e9
        bench.runner.cancel(lease)
        return took < 0.25

    eventually(is_in_time, 60)
    bench.runner.drain(0)


def test_lines_share_the_workspace_and_its_archive_is_kept(bench: Bench) -> None:
    job = bench.run("mkdir d; echo one > d/f\ncat d/f")
    assert bench.printed(job) == "one\n"
    assert bench.left(job).read("d/f") == b"one\n"


def test_a_result_over_the_limit_is_cut_and_says_so(platform: Platform, tmp_path: Path) -> None:
    bench = Bench(platform, tmp_path / "w", result_cap_bytes=100_000)
    job = bench.run("head -c 60000 /dev/urandom > a; head -c 60000 /dev/urandom > b")
    bench.runner.drain(0)
    assert job.result_truncated
    stored = bench.store.files.get(job.result_file_id or "")
    assert stored.size_bytes < 110_000


def test_a_result_of_which_nothing_can_be_kept_says_so(platform: Platform, tmp_path: Path) -> None:
    bench = Bench(platform, tmp_path / "w", result_cap_bytes=100_000)
    job = bench.run("head -c 200000 /dev/urandom > a")
    bench.runner.drain(0)
    assert job.status == "COMPLETED"
    assert (job.result_file_id, job.result_truncated) == (None, True)


def test_a_line_that_its_keeper_takes_along_does_not_end_as_the_one_before(
    bench: Bench, tmp_path: Path
) -> None:
    begun = tmp_path / "begun"
    lease = bench.give(f"true\ntouch {begun}; sleep 60")
    eventually(begun.exists)
    (keeper,) = keepers()
    keeper.kill()
    entry = bench.await_status(lease, "QUEUED").history[-1]
    assert (entry["verb"], entry["reason"]) == ("fail", "agent error: its keeper process died")


def test_a_timeout_is_in_time_where_output_is_collected_for_long(
    platform: Platform, tmp_path: Path
) -> None:
    bench = Bench(platform, tmp_path / "w", output_flush_seconds=3600.0)
    job = bench.run("trap '' TERM; sleep 656 & wait; sleep 657", timeout_ms=200, max_retries=0)
    bench.runner.drain(0)
    assert "timed out after 0.2 s" in (job.error_message or "")


def test_a_timeout_ends_the_whole_group_even_when_it_ignores_sigterm(bench: Bench) -> None:
    lease = bench.give("trap '' TERM; sleep 654 & echo $!; wait; sleep 655", max_retries=0)
    child = int(eventually(lambda: bench.printed(lease)))
    (held,) = bench.runner._held.values()
    assert held.attempt
    held.attempt.deadline = 0.0
    job = bench.ended(lease)
    assert (job.status, job.exit_code) == ("FAILED", 137)
    assert "timed out after" in (job.error_message or "")
    eventually(lambda: not _runs(child))


def test_a_background_process_ends_with_its_job(bench: Bench) -> None:
    job = bench.run("sleep 656 & echo $!")
    assert job.status == "COMPLETED"
    child = int(bench.printed(job))
    eventually(lambda: not _runs(child))


def test_a_cancelled_job_ends_within_a_second(bench: Bench) -> None:
    def is_in_time() -> bool:
        """Whether one job ended in time; other load may delay any single one."""
        lease = bench.give("echo begun; sleep 100")
        eventually(lambda: bench.printed(lease))
        job = bench.store.jobs.get(lease.job_id)
        moment = bench.platform.moment()
        bench.store.jobs.apply(lifecycle.cancel(job, by="op", reason=None, at=moment))
        began = time.monotonic()
        bench.runner.cancel(lease)
        ended = bench.ended(lease)
        took = time.monotonic() - began
        assert ended.status == "CANCELLED"
        assert ended.cancel is not None
        assert ended.cancel["signal"] == "SIGTERM"
        return took < 1

    eventually(is_in_time, 60)


def test_an_abandoned_job_is_killed_and_nothing_of_it_is_written(bench: Bench) -> None:
    lease = bench.give("echo $$; sleep 100")
    pid = int(eventually(lambda: bench.printed(lease)))
    # The size of the output is noted on the job after the output is stored.
    eventually(lambda: bench.store.jobs.get(lease.job_id).output_bytes)
    before = bench.store.jobs.get(lease.job_id)
    bench.runner.abandon(lease)
    eventually(lambda: not _runs(pid))
    eventually(lambda: not bench.runner.leases())
    assert bench.store.jobs.get(lease.job_id) == before


def test_a_job_is_not_abandoned_because_its_result_was_just_written(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A renewal finds the lease over before the runner has forgotten the job."""
    written, may_go_on = threading.Event(), threading.Event()
    write = bench.reporter.end_all

    def slow(*group: Any) -> list[Transition]:
        performed = write(*group)
        written.set()
        may_go_on.wait(20)
        return performed

    monkeypatch.setattr(bench.reporter, "end_all", slow)
    lease = bench.give("true")
    assert written.wait(20)
    bench.runner.abandon(lease)
    may_go_on.set()
    eventually(lambda: not bench.runner.leases())
    assert "agent.job_abandoned" not in capsys.readouterr().err


def test_the_same_lease_twice_runs_once(bench: Bench) -> None:
    lease = bench.assign("echo once >> $HOME/../count; cat $HOME/../count")
    for _ in range(3):
        bench.runner.run_assigned(lease)
    job = bench.ended(lease)
    bench.runner.run_assigned(lease)
    assert bench.printed(job) == "once\n"
    assert [entry["verb"] for entry in job.history].count("start") == 1


def test_a_job_that_does_not_fit_beside_the_others_is_given_back(bench: Bench) -> None:
    bench.give("sleep 60", required_cpu=6)
    lease = bench.give("true", required_cpu=6)
    job = bench.await_status(lease, "QUEUED")
    assert job.attempts == 0
    assert "does not fit" in job.history[-1]["reason"]


def test_a_drain_lets_a_job_end_within_the_grace(bench: Bench) -> None:
    lease = bench.give("sleep .5; echo done")
    bench.await_status(lease, "RUNNING")
    bench.runner.drain(10)
    assert bench.store.jobs.get(lease.job_id).status == "COMPLETED"


def test_a_drain_past_the_grace_puts_the_job_back(bench: Bench) -> None:
    lease = bench.give("echo $$; sleep 100")
    pid = int(eventually(lambda: bench.printed(lease)))
    bench.runner.drain(0.1)
    job = bench.store.jobs.get(lease.job_id)
    assert (job.status, job.attempts) == ("QUEUED", 1)
    assert "its agent was stopped" in job.history[-1]["reason"]
    assert not _runs(pid)


def test_a_drain_waits_until_what_was_not_spawned_is_given_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    may_write, release = threading.Event(), Stages.release

    def slow(stages: Stages, lease: Lease, *why: str) -> None:
        may_write.wait()
        release(stages, lease, *why)

    monkeypatch.setattr(Stages, "release", slow)
    go = tmp_path / "go"
    first, *waiting = bench.take(until(go), *["true"] * 20, required_cpu=8)
    drain = threading.Thread(target=bench.runner.drain, args=[20])
    drain.start()
    eventually(lambda: not bench.runner._turns.count())
    go.touch()
    bench.await_status(first, "COMPLETED")
    # No job runs and nothing is written yet: more jobs are to be given back than helpers exist.
    drain.join(0.3)
    may_write.set()
    drain.join()
    jobs = [bench.store.jobs.get(lease.job_id) for lease in waiting]
    assert {(job.status, job.attempts) for job in jobs} == {(JobStatus.QUEUED, 0)}


@pytest.mark.parametrize(
    "command",
    [
        *("echo x > ../x; exit 1", "touch $TMPDIR/a; touch a", "mv ../work ../w; mkdir ../work"),
        *("pip --version > $VIRTUAL_ENV/bin/a", "echo exit > $(which pip)"),
    ],
)
def test_the_workspace_is_removed_whatever_the_job_did(bench: Bench, command: str) -> None:
    bench.run(command)
    eventually(lambda: not list(bench.folder.iterdir()))


@pytest.mark.parametrize("command", ["touch a", "chmod 0 .; exit 2", "mkdir -p a/b; chmod 0 a"])
def test_what_a_job_left_where_it_ran_is_gone_when_the_next_job_has_its_workspace(
    bench: Bench, command: str
) -> None:
    look = "stat -c %i $HOME"
    home = bench.printed(bench.run(f"{look}\n{command}"))
    # The workspace is emptied after the result is written: a job before that gets another.
    eventually(lambda: bench.printed(bench.run(f"{look}; ls -A; stat -c %a .")) == f"{home}700\n")


def test_a_workspace_that_a_job_left_as_it_was_is_the_next_jobs_under_a_new_name(
    bench: Bench,
) -> None:
    look = "stat -c %i ."
    first, second = (bench.run(f"{look}; pwd; ls -A . $HOME $TMPDIR") for _ in range(2))
    one, two = (bench.printed(job).split("\n", 2) for job in (first, second))
    assert one[0] == two[0], "the same folder"
    assert first.job_id in one[1]
    assert second.job_id in two[1]


def test_a_workspace_is_no_other_jobs_while_what_ran_in_it_may_not_be_gone(
    bench: Bench, tmp_path: Path
) -> None:
    go, gone = tmp_path / "go", tmp_path / "gone"
    lease = bench.give(f"echo on; {until(go)}; touch late; touch {gone}; sleep 60")
    eventually(lambda: bench.printed(lease))
    (keeper,) = keepers()
    keeper.suspend()
    try:
        bench.runner.abandon(lease)
        eventually(lambda: lease.job_id not in bench.runner.job_ids())
        go.touch()
        eventually(gone.exists)
        (other,) = bench.take("ls")
    finally:
        keeper.resume()
    assert bench.printed(bench.ended(other)) == ""


def test_a_job_sees_a_clean_environment(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONGODB_URI", "mongodb://secret")
    monkeypatch.setenv("TASKYARD_TOKEN", "tyk_secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    job = bench.run("env; pwd", env={"MINE": "yes"})
    seen = dict(line.split("=", 1) for line in bench.printed(job).splitlines() if "=" in line)
    assert "secret" not in bench.printed(job)
    assert seen["MINE"] == "yes"
    assert seen["PYTHONUNBUFFERED"] == "1"
    for name in ("HOME", "TMPDIR"):
        assert seen[name].startswith(str(bench.folder))


def test_a_job_has_a_path_of_its_agent_that_is_no_text(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    (folder / "there").symlink_to("/bin/echo")
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    bench = Bench(platform, tmp_path / "w")
    job = bench.run("there hi")
    bench.runner.drain(0)
    assert bench.printed(job) == "hi\n"


@pytest.mark.usefixtures("no_thread_left")
def test_jobs_run_on_a_host_that_has_no_thread_left(bench: Bench) -> None:
    leases = [bench.give("touch f") for _ in range(3)]
    assert {bench.ended(lease).status for lease in leases} == {JobStatus.COMPLETED}


def test_output_that_is_no_text_is_kept_readable(bench: Bench) -> None:
    job = bench.run(r"printf 'a\377b\000c\303\251\n'")
    assert bench.printed(job) == "a�b\0cé\n"


def test_a_job_that_closes_its_streams_still_ends(bench: Bench) -> None:
    job = bench.run("exec >&- 2>&-; sleep .3; exit 5")
    assert job.exit_code == 5


def test_100_mb_of_output_are_cut_visibly_and_held_nowhere(bench: Bench) -> None:
    own = psutil.Process(os.getpid())
    bench.run("true")
    before, most = own.memory_info().rss, 0
    lease = bench.give("head -c 100000000 /dev/zero | tr '\\0' x", timeout_ms=100_000)
    while not bench.store.jobs.get(lease.job_id).is_terminal:
        most = max(most, own.memory_info().rss)
    job = bench.ended(lease)
    assert job.output_truncated
    assert job.output_bytes == bench.platform.settings.output_cap_bytes
    assert "output cut at" in bench.printed(job, "stderr")
    assert most - before < 50 * 2**20


def test_a_defect_in_one_attempt_costs_that_attempt_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    healthy = bench.give("sleep 1; echo fine")
    bench.await_status(healthy, "RUNNING")
    broken = bench.give("sleep 100", max_retries=0)
    bench.await_status(broken, "RUNNING")

    def fail(attempt: Attempt, now: float) -> None:
        if attempt.job.job_id == broken.job_id:
            raise RuntimeError("a defect")

    monkeypatch.setattr("taskyard.agent.attempt.Attempt.signal_due", fail)
    assert bench.ended(broken).status is JobStatus.FAILED
    assert "a defect" in (bench.ended(broken).error_message or "")
    assert bench.printed(bench.ended(healthy)) == "fine\n"


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
