"""The command line as a user runs it, against a real server with an agent that tests drive."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
import zipfile
from base64 import b64encode
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from taskyard import Client
from taskyard.cli import bulk, show
from taskyard.cli.following import NOT_KEPT, TIMED_OUT, exit_code_of
from taskyard.context import Platform
from taskyard.errors import ServerUnreachable
from taskyard.jobs import lifecycle
from taskyard.jobs.model import lease_of
from taskyard.jobs.refusal import Write
from taskyard.jobs.retry import Cause
from taskyard.jobs.states import JobStatus
from taskyard.jobs.transition import Outcome
from taskyard.store.jobs import JobStore
from tests import factories
from tests.api.agents import HttpAgent, client_with_token, registered
from tests.helpers import eventually
from tests.processes.conftest import BIN, user_environment
from tests.serving import served


class Cli:
    """Runs ``taskyard`` with an operator's token."""

    def __init__(self, platform: Platform, url: str, home: Path) -> None:
        token = platform.store.tokens.create(role="operator", name="cli")
        self.home = home
        self.env = user_environment(home, TASKYARD_URL=url, TASKYARD_TOKEN=token)

    def __call__(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [BIN / "taskyard", *arguments],
            cwd=self.home,
            env={**self.env, **env},
            capture_output=True,
            text=True,
            timeout=60,
        )

    def start(self, *arguments: str, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [BIN / "taskyard", *arguments],
            cwd=self.home,
            env={**self.env, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # If a shell runs the tests in the background, their processes ignore SIGINT.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def json(self, *arguments: str) -> Any:
        ran = self(*arguments, "-o", "json")
        assert ran.returncode == 0, ran.stderr
        return json.loads(ran.stdout)


@pytest.fixture
def cli(platform: Platform, tmp_path: Path) -> Iterator[Cli]:
    with served(platform) as url:
        yield Cli(platform, url, tmp_path)


@pytest.fixture
def agent(platform: Platform) -> HttpAgent:
    return registered(client_with_token(platform))


def work(
    agent: HttpAgent, exit_code: int, out: str = "", err: str = "", left: bytes | None = None
) -> None:
    """In the background, take the next job, print, and end it with the archive that it ``left``."""

    def act() -> None:
        eventually(lambda: agent.poll().status_code == 200, 30)
        agent.stream(out)
        agent.stream(err, type="stderr")
        archive = b64encode(left).decode() if left else None
        agent.submit(exit_code, stdout=None, stderr=None, resultZipBase64=archive)

    threading.Thread(target=act, daemon=True).start()


@pytest.mark.parametrize("code", [0, 3])
def test_run_prints_both_streams_apart_and_ends_with_the_jobs_code(
    cli: Cli, agent: HttpAgent, code: int
) -> None:
    work(agent, code, "out\n", "err\n")
    ran = cli("run", "--", "anything")
    assert (ran.returncode, ran.stdout) == (code, "out\n")
    assert "err\n" in ran.stderr
    # The worker is named even if the job ended too soon to be seen running.
    assert f"{'FAILED' if code else 'COMPLETED'} on w1 in " in ran.stderr


def test_run_with_json_has_one_document_on_stdout(cli: Cli, agent: HttpAgent) -> None:
    work(agent, 4, "out\n")
    ran = cli("run", "-o", "json", "--", "anything")
    assert ran.returncode == 4
    assert json.loads(ran.stdout)["exitCode"] == 4


def interrupt_once_it_runs(process: subprocess.Popen[str], agent: HttpAgent) -> None:
    eventually(lambda: agent.poll().status_code == 200, 30)
    assert process.stderr is not None
    while "running on" not in process.stderr.readline():
        pass
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)


def test_ctrl_c_cancels_the_job_and_ends_with_130(cli: Cli, agent: HttpAgent) -> None:
    running = cli.start("run", "--", "sleep 100")
    interrupt_once_it_runs(running, agent)
    assert running.returncode == 130
    assert agent.cancelled()


def test_ctrl_c_cancels_a_job_whose_create_was_on_its_way(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    queued, interrupted = threading.Event(), threading.Event()
    submit = JobStore.submit

    def hold_first_answer(*given: Any) -> Any:
        made = submit(*given)
        if not queued.is_set():
            queued.set()
            interrupted.wait(60)
        return made

    monkeypatch.setattr(JobStore, "submit", hold_first_answer)
    running = cli.start("run", "--", "sleep 100")
    assert queued.wait(30)
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=20)
    interrupted.set()
    assert running.returncode == 130
    (job,) = cli.json("list")["jobs"]
    assert job["status"] == "CANCELLED"


def test_ctrl_c_says_so_when_nobody_knows_whether_the_job_was_queued(cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        running = cli.start("run", "--", "sleep 100", TASKYARD_URL=url)
        asking, _ = listener.accept()
        with asking:
            assert asking.recv(4) == b"POST"
            listener.close()
            running.send_signal(signal.SIGINT)
            _, told = running.communicate(timeout=30)
    assert running.returncode == 130
    assert "may have been queued" in told


def test_ctrl_c_ends_the_following_of_logs_and_leaves_the_job(cli: Cli, agent: HttpAgent) -> None:
    job_id = cli("submit", "--", "sleep 100").stdout.strip()
    following = cli.start("logs", "-f", job_id)
    interrupt_once_it_runs(following, agent)
    assert following.returncode == 130
    assert not agent.cancelled()


def test_a_cancelled_job_ends_run_with_125(cli: Cli) -> None:
    running = cli.start("run", "--", "sleep 100")
    job = eventually(lambda: (cli.json("list")["jobs"] or [None])[0], 20)
    assert cli("cancel", job["jobId"], "--reason", "enough").returncode == 0
    running.communicate(timeout=20)
    assert running.returncode == 125


def test_what_a_job_may_ask_for_reaches_it(cli: Cli) -> None:
    options = "--cpu 0.5 --ram 2GB --timeout 90s --retries 1 --priority 9 -l gpu -e A=b=c"
    job_id = cli("submit", *options.split(), "--", "echo", "two words").stdout.strip()
    job = cli.json("status", job_id)
    assert job["command"] == "echo 'two words'"
    assert (job["requiredCpu"], job["requiredRamMb"], job["timeoutMs"]) == (0.5, 2048, 90_000)
    assert (job["maxRetries"], job["priority"], job["labels"]) == (1, 9, ["gpu"])
    assert job["env"] == {"A": "b=c"}


def test_a_folder_is_packed_and_a_result_is_fetched(cli: Cli, agent: HttpAgent) -> None:
    folder = cli.home / "project"
    folder.mkdir()
    (folder / "a.txt").write_text("hello")
    job_id = cli("submit", "--file", "project", "--", "true").stdout.strip()
    job = cli.json("status", job_id)
    assert job["filename"] == "project.zip"
    content = agent.client.get(job["fileUrl"]).data
    agent.poll()
    agent.client.post(
        "/api/jobs/submit-result",
        data={
            "jobId": job_id,
            "workerId": "w1",
            "exitCode": "0",
            "file": (BytesIO(content), "r.zip"),
        },
    )
    assert cli("fetch", job_id, "left.zip").stdout == "left.zip\n"
    with zipfile.ZipFile(cli.home / "left.zip") as left:
        assert left.read("a.txt") == b"hello"


def test_a_result_is_saved_under_no_name_that_an_agent_chose(cli: Cli, agent: HttpAgent) -> None:
    (cli.home / ".bashrc").write_text("mine")
    job_id = cli("submit", "--", "true").stdout.strip()
    agent.poll()
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.txt", "hello")
    sent = b64encode(packed.getvalue()).decode()
    answer = agent.submit(0, resultZipBase64=sent, resultZipName=".bashrc")
    assert answer.status_code == 200, answer.text
    assert cli("fetch", job_id).stdout == f"{job_id}-result.zip\n"
    assert (cli.home / ".bashrc").read_text() == "mine"
    assert zipfile.is_zipfile(cli.home / f"{job_id}-result.zip")


def leave_result(agent: HttpAgent) -> bytes:
    """Run the next job as one that leaves a file; return its archive as it was sent."""
    agent.poll()
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.txt", "hello")
    agent.submit(0, resultZipBase64=b64encode(packed.getvalue()).decode())
    return packed.getvalue()


@pytest.mark.parametrize("form", ["table", "json"])
@pytest.mark.parametrize("to", [subprocess.PIPE, "a file"])
def test_a_result_that_is_fetched_to_stdout_is_alone_there(
    cli: Cli, agent: HttpAgent, form: str, to: Any
) -> None:
    job_id = cli("submit", "--", "true").stdout.strip()
    packed = leave_result(agent)
    with (cli.home / "left.zip").open("w+b") as file:
        ran = subprocess.run(
            [BIN / "taskyard", "fetch", job_id, "/dev/stdout", "-o", form],
            env=cli.env,
            stdout=file if to == "a file" else to,
            stderr=subprocess.PIPE,
            timeout=60,
        )
        fetched = file.read() if to == "a file" else ran.stdout
    assert ran.returncode == 0, ran.stderr
    assert fetched == packed


@pytest.mark.parametrize(("code", "expected"), [(0, 1), (3, 3)])
def test_a_result_that_cannot_be_saved_does_not_hide_how_the_job_ended(
    cli: Cli, agent: HttpAgent, code: int, expected: int
) -> None:
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.txt", "hello")
    work(agent, code, left=packed.getvalue())
    ran = cli("run", "--result", "/dev/full", "-o", "json", "--", "anything")
    assert ran.returncode == expected
    assert json.loads(ran.stdout)["exitCode"] == code
    assert "not saved: /dev/full: No space left" in ran.stderr


def test_a_result_that_cannot_be_fetched_leaves_no_file_of_its_name(
    cli: Cli, platform: Platform
) -> None:
    left = {"resultFileId": "file-gone", "resultFilename": "gone.zip"}
    job = factories.job_in(JobStatus.COMPLETED, now=platform.store.clock.now(), left=left)
    platform.store.jobs.submit([job])
    assert cli("fetch", job.job_id).returncode == 6
    assert cli("fetch", job.job_id, "/dev/null").returncode == 6
    (cli.home / "link").symlink_to("left.zip")
    assert cli("fetch", job.job_id, "link").returncode == 6
    assert (cli.home / "link").is_symlink()
    assert list(cli.home.glob("*.zip")) == []
    mine = cli.home / "mine.zip"
    mine.write_bytes(b"mine")
    assert cli("fetch", job.job_id, "mine.zip").returncode == 6
    assert mine.read_bytes() == b"mine"
    assert list(cli.home.glob(".*.part")) == []


def test_a_result_takes_the_place_of_an_older_file_whole_and_as_private(
    cli: Cli, agent: HttpAgent
) -> None:
    job_id = cli("submit", "--", "true").stdout.strip()
    packed = leave_result(agent)
    old, link = cli.home / "old.zip", cli.home / "link"
    old.write_bytes(b"x" * 10_000)
    old.chmod(0o600)
    link.symlink_to("old.zip")
    assert cli("fetch", job_id, "link").returncode == 0
    assert (old.read_bytes(), old.stat().st_mode & 0o777) == (packed, 0o600)
    assert link.is_symlink()


def test_a_result_that_was_not_kept_is_said_by_each_command_that_would_show_it(
    cli: Cli, platform: Platform
) -> None:
    """``fetch``, which asks for the result, also fails."""
    lost = factories.job_in(
        JobStatus.COMPLETED, now=platform.store.clock.now(), left={"resultTruncated": True}
    )
    platform.store.jobs.submit([lost])
    job_id = lost.job_id
    assert NOT_KEPT in cli("status", job_id).stdout
    assert NOT_KEPT in cli("logs", "-f", job_id).stderr
    fetched = cli("fetch", job_id)
    assert fetched.returncode == 1
    assert NOT_KEPT in fetched.stderr
    assert list(cli.home.glob("*.zip")) == []


def test_a_result_that_was_not_kept_is_a_failure_of_the_run_that_wanted_it(
    cli: Cli, agent: HttpAgent, platform: Platform
) -> None:
    def act() -> None:
        eventually(lambda: agent.poll().status_code == 200, 30)
        unkept = Outcome(fields={"resultTruncated": True})
        platform.store.jobs.change(
            agent.job["jobId"],
            lambda job: lifecycle.finish(job, lease_of(job), unkept, at=platform.moment()),
        )

    threading.Thread(target=act, daemon=True).start()
    ran = cli("run", "--result", "left.zip", "--", "anything")
    assert ran.returncode == 1
    assert f"not saved: {NOT_KEPT}" in ran.stderr
    assert not (cli.home / "left.zip").exists()


def test_lists_are_tab_separated_in_a_pipe_and_aligned_on_a_terminal(cli: Cli) -> None:
    cli("submit", "--", "echo \x1b[31mred")
    header, line = cli("list").stdout.splitlines()
    assert header.split("\t")[:2] == ["JOB", "STATUS"]
    assert line.split("\t")[1] == "QUEUED"
    assert "\x1b" not in line
    shown = _on_terminal(cli, "list")
    assert "QUEUED" in shown
    assert "[31mred" in shown
    assert "\x1b[31m" not in _on_terminal(cli, "list", NO_COLOR="1")


@pytest.mark.parametrize("columns", [20, 70, 80, 100, 120])
def test_a_list_fits_a_terminal_and_loses_no_column(cli: Cli, columns: int) -> None:
    """Lines may be 80 characters long even on a narrower terminal, which then wraps them."""
    job_id = cli("submit", "--", f"echo {'long ' * 40}").stdout.strip()
    lines = _on_terminal(cli, "list", COLUMNS=str(columns), NO_COLOR="1").splitlines()
    plain = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines]
    assert all(len(line) <= max(columns, 80) for line in plain)
    assert plain[0].split() == ["JOB", "STATUS", "CREATED", "WORKER", "COMMAND", "WHY"]
    assert re.match(rf"{job_id} +QUEUED +\d+ s ago +echo", plain[1])


def test_a_narrow_terminal_is_told_all_of_what_a_table_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    path = f"/{'very/' * 20}long"
    show.table(["", "CHECK", "DETAIL"], [("ok", "mongod", path)], bends=["DETAIL"], wrap=True)
    _, *lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 30
    assert "".join(line[12:].strip() for line in lines) == path


def test_who_answers_no_has_nothing_done_and_interrupted_nothing(cli: Cli) -> None:
    job_id = cli("submit", "--", "wrong").stdout.strip()
    ours, theirs = pty.openpty()
    os.write(ours, b"n\n")
    ran = subprocess.run(
        [BIN / "taskyard", "cancel", "-q", "wrong"],
        env=cli.env,
        stdin=theirs,
        capture_output=True,
        text=True,
        timeout=60,
    )
    os.close(theirs)
    os.close(ours)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "Nothing was done." in ran.stderr
    assert cli.json("status", job_id)["status"] == "QUEUED"


@pytest.mark.parametrize("wrong", ["gone", "ended"])
def test_jobs_that_are_named_are_acted_on_though_one_of_them_cannot_be(
    cli: Cli, wrong: str
) -> None:
    """They are printed, too: a user who does not know what was retried would retry it again."""
    first, ended, last = (cli("submit", "--", "true").stdout.strip() for _ in range(3))
    cli("cancel", ended)
    ran = cli("cancel", first, {"gone": "gone", "ended": ended}[wrong], last)
    assert [line.split()[0] for line in ran.stdout.splitlines()] == [first, last]
    assert ran.returncode == {"gone": 6, "ended": 7}[wrong]
    ran = cli("retry", first, "gone", last, "gone too")
    assert [cli.json("status", new)["retryOf"] for new in ran.stdout.split()] == [first, last]
    assert ran.returncode == 6
    assert "'gone'" in ran.stderr
    assert "'gone too'" in ran.stderr


def test_what_was_done_to_many_is_told_though_the_rest_was_broken_off(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers: list[dict[str, Any]] = [
        {"matched": 3, "more": False, "asOf": 1, "message": "3 jobs match"},
        {"jobIds": ["one", "two"], "skipped": 0, "next": "two"},
    ]

    def answer(*_: object, **__: object) -> dict[str, Any]:
        if not answers:
            raise ServerUnreachable("it is away")
        return answers.pop(0)

    monkeypatch.setattr(Client, "act_on_all", answer)
    monkeypatch.setenv("TASKYARD_URL", "http://localhost")
    with pytest.raises(ServerUnreachable):
        bulk.act_on_matching("retry", q="any", dry_run=False, yes=True, output="table")
    assert capsys.readouterr().out.split() == ["one", "two"]


def test_a_search_lists_and_acts_on_what_it_finds(cli: Cli) -> None:
    """The jobs found are counted first; without a terminal, only ``--yes`` acts on them."""
    kept, wrong = (cli("submit", "--", text).stdout.strip() for text in ("keep", "wrong"))
    assert [job["jobId"] for job in cli.json("list", "-q", "wrong created>-1h")["jobs"]] == [wrong]
    assert cli("list", "-q", "colour:red").returncode == 2
    assert cli("cancel", "-q", "wrong", "--dry-run").stdout == "1 job matches\n"
    refused = cli("cancel", "-q", "wrong")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "1 job matches; with --yes" in refused.stderr
    assert cli("cancel", "-q", "wrong", "--yes").stdout.split() == [wrong]
    assert cli.json("status", wrong)["status"] == "CANCELLED"
    assert cli.json("status", kept)["status"] == "QUEUED"
    (again,) = cli("retry", "-q", "status:cancelled", "--yes").stdout.split()
    assert cli.json("status", again)["retryOf"] == wrong
    assert cli("retry").returncode == cli("retry", wrong, "-q", "a").returncode == 2


def test_logs_go_to_their_own_streams(cli: Cli, agent: HttpAgent) -> None:
    job_id = cli("submit", "--", "true").stdout.strip()
    work(agent, 0, "out\n", "err\n")
    followed = cli("logs", "-f", job_id)
    assert followed.stdout == "out\n"
    assert "err\n" in followed.stderr
    later = cli("logs", job_id)
    assert (later.stdout, later.stderr) == ("out\n", "err\n")
    assert cli("logs", "--stream", "stderr", job_id).stdout == "err\n"
    assert cli.json("logs", job_id)["stdout"] == "out\n"


def test_logs_as_json_have_all_of_it(cli: Cli, agent: HttpAgent) -> None:
    job_id = cli("submit", "--", "true").stdout.strip()
    printed = "0123456789abcdef" * (80 * 1024)
    work(agent, 0, printed, "err\n")
    assert cli.json("logs", "-f", job_id)["stdout"] == printed
    told = cli.json("logs", job_id)
    assert (told["status"], told["stdout"], told["stderr"]) == ("COMPLETED", printed, "err\n")
    assert "stdout" not in cli.json("logs", "--stream", "stderr", job_id)


@pytest.mark.parametrize("output", ["table", "json"])
def test_a_worker_cannot_steer_the_terminal_by_its_name(
    cli: Cli, platform: Platform, agent: HttpAgent, output: str
) -> None:
    """Such names are refused by now, but one may be stored."""
    job_id = cli("submit", "--", "true").stdout.strip()
    hostile = HttpAgent(agent.client, "w\x1b[2J\x9b2J")
    facts = {"kind": "http", "bootId": "b", "cpuCount": 4.0, "ramTotalMb": 8000}
    platform.store.workers.register(hostile.worker_id, facts, now=platform.store.clock.now())
    assert hostile.poll().status_code == 200
    for command in (["status", job_id], ["list"], ["workers"]):
        shown = cli(*command, "-o", output).stdout
        assert "2J" in shown
        assert re.search(r"[\x1b\x9b]", shown) is None


def test_status_tells_why_and_when(cli: Cli) -> None:
    job_id = cli("submit", "--", "true").stdout.strip()
    shown = cli("status", job_id).stdout
    assert "no worker is registered" in shown
    assert "submit" in shown


def test_a_refused_late_write_is_shown_and_does_not_hide_how_the_job_ended(
    cli: Cli, platform: Platform
) -> None:
    now = platform.store.clock.now()
    running = factories.running_job(max_retries=0, now=now)
    late = Outcome(cause=Cause.TIMEOUT, detail="timed out after 1 s")
    lease = lease_of(running)
    platform.store.jobs.submit([running])
    platform.store.jobs.change(
        running.job_id, lambda job: lifecycle.finish(job, lease, late, at=platform.moment())
    )
    platform.store.refusals.note(lease, Write.OUTPUT, now=now)
    shown = cli("status", running.job_id).stdout
    assert re.search(r"refused writes:\s+1\n", shown)
    assert "output refused: the attempt is over" in shown
    assert exit_code_of(cli.json("status", running.job_id)) == TIMED_OUT


def test_retry_prints_the_new_id(cli: Cli) -> None:
    job_id = cli("submit", "--", "true").stdout.strip()
    cli("cancel", job_id)
    fresh = cli("retry", job_id).stdout.strip()
    assert cli.json("status", fresh)["retryOf"] == job_id


def test_workers_are_shown_drained_and_deleted(cli: Cli, agent: HttpAgent) -> None:
    assert "w1\tIDLE" in cli("workers").stdout
    assert cli("workers", "drain", "w1").returncode == 0
    assert "draining" in cli("workers").stdout
    assert cli.json("workers", "resume", "w1")["success"] is True
    assert cli("workers", "delete", "w1").returncode == 0
    for form in ("table", "json"):
        again = cli("workers", "delete", "w1", "-o", form)
        assert (again.returncode, again.stdout) == (6, "")


def test_tokens_are_made_listed_and_revoked_in_the_database(cli: Cli, platform: Platform) -> None:
    here = {"MONGODB_URI": platform.settings.mongodb_uri, "TASKYARD_DATABASE": "tests"}
    token = cli("tokens", "create", "--role", "viewer", "--name", "v", **here).stdout.strip()
    assert cli("list", TASKYARD_TOKEN=token).returncode == 0
    assert cli("submit", "--", "true", TASKYARD_TOKEN=token).returncode == 5
    identity = token.split("_")[1]
    assert identity in cli("tokens", "list", **here).stdout
    assert cli("tokens", "revoke", identity, **here).returncode == 0
    assert cli("list", TASKYARD_TOKEN=token).returncode == 5
    assert cli("tokens", "revoke", identity, **here).returncode == 6


@pytest.mark.parametrize(("role", "worker"), [("agent", ""), ("operator", "gpu-1")])
def test_a_token_is_not_made_with_more_rights_than_were_asked_for(
    cli: Cli, platform: Platform, role: str, worker: str
) -> None:
    """Such as with an empty variable for the worker, or with a role that is bound to no worker."""
    here = {"MONGODB_URI": platform.settings.mongodb_uri, "TASKYARD_DATABASE": "tests"}
    asked = ["--role", role, "--name", "x", "--worker", worker]
    made = cli("tokens", "create", *asked, **here)
    assert (made.returncode, made.stdout) == (2, "")
    assert "--worker" in made.stderr


def test_doctor_names_what_does_not_work(cli: Cli) -> None:
    found = cli("doctor")
    assert found.returncode == 1
    assert "tick.timeouts" in found.stdout
    assert "address: TASKYARD_URL; token: TASKYARD_TOKEN" in found.stdout
    assert cli("doctor", TASKYARD_URL="http://127.0.0.1:1").returncode == 1


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["status", "gone"], 6, "no job 'gone'"),
        (["cancel", "gone"], 6, "no job 'gone'"),
        (["submit", "--timeout", "5", "--", "x"], 2, "needs a unit"),
        (["submit", "--ram", "512", "--", "x"], 2, "needs a unit"),
        (["submit", "--cpu", "-1", "--", "x"], 2, "requiredCpu"),
        (["submit", "--cpu", "nan", "--", "x"], 2, "not a number of CPUs"),
        (["submit", "--cpu", "inf", "--", "x"], 2, "not a number of CPUs"),
        (["submit", "--timeout", f"{'9' * 400}s", "--", "x"], 2, "needs a unit"),
        (["submit", "--", "echo \udcff"], 2, r"'echo \udcff' cannot be sent"),
        (["submit", "-l", "\udcff", "--", "x"], 2, "cannot be sent"),
        (["submit", "-e", "A=\udcff", "--", "x"], 2, "cannot be sent"),
        (["status", "\udcff"], 2, "cannot be sent"),
        (["list", "-q", "\udcff"], 2, "cannot be sent"),
        (["submit", "-e", "no-equals", "--", "x"], 2, "NAME=VALUE"),
        (["submit", "--file", "missing.zip", "--", "x"], 2, "missing.zip"),
        (["run", "--result", "missing/r.zip", "--", "x"], 2, "missing is no folder"),
        (["run", "--result", f"{__file__}/r.zip", "--", "x"], 2, "is no folder"),
        (["run", "--result", ".", "--", "x"], 2, "is a directory"),
        (["fetch", "any", "missing/r.zip"], 2, "missing is no folder"),
        (["nonsense"], 2, "nonsense"),
        (["submit"], 2, "COMMAND"),
    ],
)
def test_mistakes_are_one_message_and_a_code(
    cli: Cli, arguments: list[str], code: int, words: str
) -> None:
    ran = cli(*arguments)
    assert (ran.returncode, ran.stdout) == (code, "")
    assert words in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_server_that_is_not_there_and_a_wrong_token_have_codes_of_their_own(cli: Cli) -> None:
    assert cli("list", TASKYARD_URL="http://127.0.0.1:1").returncode == 4
    assert cli("list", TASKYARD_TOKEN="tyk_a_b").returncode == 5


def _full(fd: int) -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), fd)


def _unread(fd: int) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, fd)


def ending(cli: Cli, take_away: Callable[[], None], *arguments: str) -> tuple[int, str]:
    """Run a command, with a stream taken away from it; return its exit code and stderr."""
    ran = subprocess.run(
        [BIN / "taskyard", *arguments],
        env=cli.env,
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=take_away,
    )
    return ran.returncode, ran.stderr


@pytest.mark.parametrize("code", [0, 3])
@pytest.mark.parametrize(("fd", "output"), [(1, "table"), (1, "json"), (2, "table")])
@pytest.mark.parametrize("take_away", [os.close, _unread, _full])
def test_run_follows_its_job_to_the_end_whoever_takes_its_output(
    cli: Cli,
    agent: HttpAgent,
    fd: int,
    output: str,
    take_away: Callable[[int], None],
    code: int,
) -> None:
    work(agent, code, "out\n" * 5000, "err\n")
    ended, told = ending(cli, lambda: take_away(fd), "run", "-o", output, "--", "anything")
    lost = take_away is _full and fd == 1
    assert ended == (code or int(lost))
    assert "Traceback" not in told
    assert ("No space left" in told) == lost
    assert cli.json("list")["jobs"][0]["exitCode"] == code


@pytest.mark.parametrize("arguments", [["list"], ["list", "-o", "json"], ["--help"], ["up", "-h"]])
@pytest.mark.parametrize(("take_away", "code"), [(os.close, 0), (_unread, 0), (_full, 1)])
def test_output_that_nobody_reads_is_no_error_and_a_full_disk_is_one(
    cli: Cli, arguments: list[str], take_away: Callable[[int], None], code: int
) -> None:
    ended, told = ending(cli, lambda: take_away(1), *arguments)
    assert ended == code
    assert told.count("No space left") == code
    assert len(told.splitlines()) == code


def test_what_stdout_has_no_code_for_is_printed_escaped(cli: Cli, agent: HttpAgent) -> None:
    work(agent, 3, "é✓\n")
    ran = cli("run", "--", "anything", PYTHONIOENCODING="ascii:strict")
    assert (ran.returncode, ran.stdout) == (3, "\\xe9\\u2713\n")


def test_help_loads_none_of_the_platform() -> None:
    script = (
        "import sys; from taskyard.cli import main\n"
        "sys.argv = ['taskyard', '--help']\n"
        "try: main()\n"
        "finally: print(sorted({'flask', 'celery', 'pymongo', 'httpx2'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ran.stdout.splitlines()[-1] == "[]"


def _on_terminal(cli: Cli, *arguments: str, **env: str) -> str:
    """Run a command on a terminal, and return what a person would see."""
    ours, theirs = pty.openpty()
    subprocess.run(
        [BIN / "taskyard", *arguments],
        env={**cli.env, "TERM": "xterm", "COLUMNS": "160", **env},
        stdout=theirs,
        timeout=60,
    )
    os.close(theirs)
    seen = b""
    try:
        while piece := os.read(ours, 4096):
            seen += piece
    except OSError:
        pass  # the terminal is closed
    os.close(ours)
    return seen.decode()


SLOW = {"bson", "celery", "flask", "kombu", "marshmallow", "pymongo", "rich"}


@pytest.mark.parametrize(
    ("arguments", "unwanted"),
    [
        (["--help"], {*SLOW, "httpx2"}),
        (["run", "--help"], SLOW),
        (["status", "--help"], SLOW),
    ],
)
def test_a_command_loads_only_what_it_needs(arguments: list[str], unwanted: set[str]) -> None:
    """A user waits for everything that a command loads."""
    source = (
        "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr));"
        f"sys.argv = ['taskyard', *{arguments}]; from taskyard.cli import main; main()"
    )
    ran = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert ran.returncode == 0
    assert "Usage: taskyard" in ran.stdout
    assert unwanted & {name.partition(".")[0] for name in ran.stderr.split()} == set()
