"""No process of a job outlives the job, its lease or its agent, wherever the process went."""

from __future__ import annotations

import contextlib
import errno
import resource
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from taskyard.agent import processes, tree
from taskyard.agent.attempt import fence
from taskyard.context import Platform
from tests.agent.conftest import Bench, keepers, until
from tests.helpers import eventually

#: A daemon by the book: forked twice, in a session of its own, no environment, no open file.
#: With ``low`` it changes the limit that is its tag; with ``named`` it keeps its environment.
DAEMON = textwrap.dedent(
    """
    import os, resource, sys
    if os.fork(): os._exit(0)
    if "low" in sys.argv: resource.setrlimit(resource.RLIMIT_RTTIME, (1000, 1000))
    os.setsid()
    if os.fork(): os._exit(0)
    os.closerange(0, 256)
    os.chdir("/")
    seen = os.environ if "named" in sys.argv else {}
    os.execve("/bin/sleep", ["sleep", sys.argv[1]], seen)
    """
)


#: A process with a keeper of its own. Each line on stdin is the seconds of a lease and a command to
#: run; it renews all leases.
AGENT = textwrap.dedent(
    """
    import os, sys, threading, time
    from pathlib import Path
    from taskyard.agent.loop import Loop
    from taskyard.agent.processes import Processes

    class Ends:
        def opened(self, key, pipes): pass
        def exited(self, key, code, printed): print("exited", key, code, flush=True)
        def failed(self, key, reason, is_full=False): print("failed", key, reason, flush=True)
        def lapsed(self, key): print("lapsed", key, flush=True)

    loop = Loop()
    processes = Processes(loop, Ends())
    processes.start()
    loop.start(lambda: None, lambda: None)
    leases = {}

    def renew():
        while True:
            for key, lives in list(leases.items()):
                processes.extend([key], time.monotonic() + lives)
            time.sleep(0.1)  # the pace of the renewals, as an agent has one

    threading.Thread(target=renew, daemon=True).start()
    for number, line in enumerate(sys.stdin):
        lives, _, command = line.strip().partition(" ")
        until = time.monotonic() + float(lives)
        processes.spawn(
            str(number), command, cwd=Path("/"), env=dict(os.environ), until=until, after=""
        )
        leases[str(number)] = float(lives)
        print("started", number, flush=True)
    """
)


def sleepers(seconds: str) -> list[psutil.Process]:
    """Return the processes of ``sleep seconds`` that this run of the tests has started."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.cmdline() == ["sleep", seconds]:
                found.append(process)
    return found


@pytest.fixture
def daemon(tmp_path: Path) -> str:
    """A command line that leaves a daemon behind; tests append how many seconds it sleeps."""
    script = tmp_path / "daemon.py"
    script.write_text(DAEMON)
    return f"{sys.executable} {script}"


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that runs ``AGENT``, to be killed or stopped as an agent may be."""
    # The processes that it leaves become our children, so that the test can see them.
    tree.become_subreaper()
    script = tmp_path / "agent.py"
    script.write_text(AGENT)
    process = subprocess.Popen(
        [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    yield process
    process.kill()
    process.communicate()
    # Its keeper is our child by now: the next test must not find it.
    eventually(lambda: not keepers())


def tell(agent: subprocess.Popen[bytes], lives_seconds: float, command: str) -> None:
    assert agent.stdin is not None
    agent.stdin.write(f"{lives_seconds} {command}\n".encode())
    agent.stdin.flush()


def await_sleepers(*seconds: str) -> None:
    """Wait until each of these sleeps runs."""
    eventually(lambda: all(sleepers(one) for one in seconds))


def heard(agent: subprocess.Popen[bytes]) -> str:
    assert agent.stdout is not None
    return agent.stdout.readline().decode().strip()


def refuse_keepers(monkeypatch: pytest.MonkeyPatch, times: int) -> list[object]:
    """Let the next ``times`` starts of a keeper fail; return a list that gains each of them."""
    start, refused = subprocess.Popen, list[object]()

    def starts(*arguments: Any, **options: Any) -> Any:
        if len(refused) < times:
            refused.append(arguments)
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        return start(*arguments, **options)

    monkeypatch.setattr(subprocess, "Popen", starts)
    return refused


@pytest.mark.parametrize("background", ["setsid sleep {0} &", "(setsid sleep {0} &);"])
def test_what_called_setsid_ends_with_its_job(bench: Bench, background: str) -> None:
    seconds = f"{4000 + len(background)}"
    job = bench.run(f"{background.format(seconds)} sleep .3; echo done")
    assert bench.printed(job) == "done\n"
    assert sleepers(seconds) == []


def test_a_daemon_without_environment_ends_with_its_job_and_spares_others(
    bench: Bench, daemon: str
) -> None:
    other = bench.give(f"{daemon} 4102; sleep 60")
    eventually(lambda: sleepers("4102"))
    job = bench.run(f"{daemon} 4101; sleep .3")
    assert job.status == "COMPLETED"
    assert sleepers("4101") == []
    assert sleepers("4102"), "the daemon of a job that still runs"
    bench.runner.cancel(other)
    assert bench.ended(other).status == "FAILED"
    assert sleepers("4102") == []


def test_a_daemon_that_has_shed_its_tag_ends_with_its_job_if_it_can_be_told_whose_it_is(
    bench: Bench, daemon: str
) -> None:
    other = bench.give(f"{daemon} 4115 low named; sleep 60")
    eventually(lambda: sleepers("4115"))
    bench.run(f"{daemon} 4114 low named; sleep .3")
    assert sleepers("4114") == []
    assert sleepers("4115"), "the daemon of a job that still runs"
    bench.runner.cancel(other)
    bench.ended(other)
    assert sleepers("4115") == []


def test_a_daemon_that_has_shed_all_that_tells_whose_it_is_ends_once_no_job_runs(
    bench: Bench, daemon: str
) -> None:
    other = bench.give("echo begun; sleep 60")
    eventually(lambda: bench.printed(other))
    bench.run(f"{daemon} 4116 low; sleep .3")
    bench.runner.cancel(other)
    eventually(lambda: not sleepers("4116"))


def test_a_daemon_that_has_shed_all_that_tells_whose_it_is_ends_with_all_that_ran_when_it_began(
    bench: Bench, daemon: str, tmp_path: Path
) -> None:
    """A busy agent is never without a job, so the end of a daemon cannot wait for that."""
    go = tmp_path / "go"
    earlier = bench.give("echo begun; sleep 60")
    eventually(lambda: bench.printed(earlier))
    between = bench.give(f"{daemon} 4118 low; {until(go)}")
    await_sleepers("4118")
    go.touch()
    bench.ended(between)
    assert sleepers("4118"), "it may be the earlier one's"
    later = bench.give(f"{daemon} 4119 low; sleep 60")
    await_sleepers("4119")
    bench.runner.cancel(earlier)
    eventually(lambda: not sleepers("4118"))
    assert sleepers("4119"), "the daemon of a job that still runs"
    bench.runner.cancel(later)
    eventually(lambda: not sleepers("4119"))


def test_a_daemon_ends_with_the_timeout_of_its_job(bench: Bench, daemon: str) -> None:
    job = bench.run(f"{daemon} 4103; sleep 60", timeout_ms=1500, max_retries=0)
    assert "timed out" in (job.error_message or "")
    assert sleepers("4103") == []


def test_sigterm_reaches_what_called_setsid(platform: Platform, tmp_path: Path) -> None:
    bench = Bench(platform, tmp_path / "w", kill_grace_seconds=10)
    mark = tmp_path / "mark"
    script = tmp_path / "script"
    script.write_text(f"trap 'echo term > {mark}; exit' TERM\necho ready\nsleep 60 & wait\n")
    lease = bench.give(f"setsid sh {script}", timeout_ms=60_000)
    eventually(lambda: bench.printed(lease))
    bench.runner.cancel(lease)
    bench.ended(lease)
    bench.runner.drain(0)
    assert mark.read_text() == "term\n"


def test_what_a_shell_does_not_wait_for_has_the_grace_too(
    platform: Platform, tmp_path: Path
) -> None:
    bench = Bench(platform, tmp_path / "w", kill_grace_seconds=10)
    mark = tmp_path / "mark"
    script = tmp_path / "script"
    script.write_text(
        f"trap 'sleep 0.5; echo done > {mark}; exit' TERM\necho ready\nsleep 60 & wait\n"
    )
    # SIGTERM ends the outer shell at once; the inner one has to clean up first.
    lease = bench.give(f"sh {script} && true", timeout_ms=60_000)
    eventually(lambda: bench.printed(lease))
    bench.runner.cancel(lease)
    ended = bench.ended(lease)
    bench.runner.drain(0)
    assert mark.read_text() == "done\n"
    assert ended.exit_code == 143


def test_what_ignores_sigterm_is_killed_when_the_grace_is_over_though_its_shell_is_gone(
    platform: Platform, tmp_path: Path
) -> None:
    bench = Bench(platform, tmp_path / "w", kill_grace_seconds=0.5)
    lease = bench.give("sh -c 'trap \"\" TERM; echo ready; sleep 4110' && true", timeout_ms=60_000)
    eventually(lambda: bench.printed(lease))
    bench.runner.cancel(lease)
    bench.ended(lease)
    bench.runner.drain(0)
    assert not sleepers("4110")


def test_nothing_outlives_an_agent_that_is_killed(
    agent: subprocess.Popen[bytes], daemon: str
) -> None:
    tell(agent, 60, f"{daemon} 4104; setsid sleep 4105 & sleep 4106")
    await_sleepers("4104", "4105", "4106")
    agent.send_signal(signal.SIGKILL)
    agent.wait()
    eventually(lambda: not any(sleepers(seconds) for seconds in ("4104", "4105", "4106")))


def test_nothing_outlives_its_lease_while_the_agent_is_stopped(
    agent: subprocess.Popen[bytes], daemon: str
) -> None:
    tell(agent, 3, f"{daemon} 4107; sleep 4108")
    tell(agent, 60, "sleep 4109")
    await_sleepers("4107", "4108", "4109")
    agent.send_signal(signal.SIGSTOP)
    eventually(lambda: not sleepers("4107") and not sleepers("4108"))
    assert sleepers("4109"), "its lease is longer"
    agent.send_signal(signal.SIGCONT)
    said = [heard(agent) for _ in range(4)]
    assert said == ["started 0", "started 1", "lapsed 0", "exited 0 137"]


def test_a_keeper_that_does_not_answer_is_replaced_and_what_it_kept_is_ended(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = bench.give("sleep 4113", max_retries=0)
    eventually(lambda: sleepers("4113"))
    (keeper,) = keepers()
    kept = bench.runner._running.processes

    def renew() -> bool:
        """Renew once, as presence does; return whether the job has ended."""
        bench.runner.extend([lease], time.monotonic() + 60)
        return bench.store.jobs.get(lease.job_id).is_terminal

    said_at = kept._said_at
    eventually(lambda: renew() or kept._said_at > said_at)
    assert keeper.is_running(), "it answers"
    monkeypatch.setattr(processes, "_SILENCE_SECONDS", 0.5)
    keeper.suspend()
    eventually(renew)
    assert "its keeper process died" in (bench.ended(lease).error_message or "")
    assert sleepers("4113") == []
    assert bench.run("true").status == "COMPLETED"


def test_a_keeper_that_cannot_be_started_in_anothers_place_is_started_later(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that has run out of processes or files has some again when jobs have ended."""
    lease = bench.give("sleep 4114", max_retries=0)
    eventually(lambda: sleepers("4114"))
    refuse_keepers(monkeypatch, 2)
    monkeypatch.setattr(processes, "AGAIN_SECONDS", 0.01)
    (keeper,) = keepers()
    keeper.kill()
    assert "its keeper process died" in (bench.ended(lease).error_message or "")
    eventually(keepers)
    assert bench.run("true").status == "COMPLETED"


def test_keepers_that_end_at_once_are_not_started_without_a_pause(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It happens when the agent's environment is replaced under it, or no memory is left."""
    start, started = subprocess.Popen, list[object]()

    def starts(*arguments: Any, **options: Any) -> Any:
        started.append(arguments)
        return start(*arguments, **options)

    bench.run("true")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    monkeypatch.setattr(subprocess, "Popen", starts)
    monkeypatch.setattr(processes, "AGAIN_SECONDS", 3600)
    (keeper,) = keepers()
    keeper.kill()
    eventually(lambda: "agent.keeper_missing" in capsys.readouterr().err)
    back = bench.await_status(bench.give("true"), "QUEUED")
    assert "its keeper process ended before it said anything" in back.history[-1]["reason"]
    assert len(started) == 1


@pytest.mark.usefixtures("no_thread_left")
def test_a_keeper_is_started_later_on_a_host_that_has_no_thread_left_either(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = refuse_keepers(monkeypatch, 1)
    monkeypatch.setattr(processes, "AGAIN_SECONDS", 0.01)
    (keeper,) = eventually(keepers)
    keeper.kill()
    eventually(lambda: refused and keepers())
    assert bench.run("true").status == "COMPLETED"


def test_an_agent_that_has_no_keeper_takes_nothing_for_a_while(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It used to claim and give back the same job, as fast as MongoDB could write."""

    def refuse(*_arguments: Any, **_options: Any) -> Any:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    # The keeper has to speak first: one that ends before that is missing for another reason.
    bench.run("true")
    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "Popen", refuse)
        patched.setattr(processes, "AGAIN_SECONDS", 0.01)
        (keeper,) = keepers()
        keeper.kill()
        eventually(lambda: not keepers())
        back = bench.await_status(bench.give("echo hi"), "QUEUED")
        assert "its keeper process could not be started: [Errno 11]" in back.history[-1]["reason"]
        worker = bench.store.workers.get("w1")
        assert "could not be started" in str(worker.trouble(bench.store.clock.now()))
    eventually(keepers)
    assert bench.run("true").status == "COMPLETED"


@pytest.mark.parametrize("is_follower", [False, True])
def test_a_host_that_has_no_room_for_a_line_rests_and_the_attempt_has_not_been(
    bench: Bench, is_follower: bool
) -> None:
    """A job used to fail four times there within a second or two, and so for good."""
    cpu = 8.0 if is_follower else 0.1
    (lead,) = bench.take("echo begun; sleep 600", required_cpu=cpu)
    eventually(lambda: bench.printed(lead))
    (keeper,) = keepers()
    soft, hard = resource.prlimit(keeper.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(keeper.pid, resource.RLIMIT_NOFILE, (3, hard))
    (lease,) = bench.take("echo hi", required_cpu=cpu, max_retries=0)
    bench.runner.cancel(lead)
    back = bench.await_status(lease, "QUEUED")
    assert (back.attempts, back.history[-1]["verb"]) == (0, "release")
    assert "Too many open files" in back.history[-1]["reason"]
    worker = bench.store.workers.get("w1")
    assert "Too many open files" in str(worker.trouble(bench.store.clock.now()))
    resource.prlimit(keeper.pid, resource.RLIMIT_NOFILE, (soft, hard))
    assert bench.run("true").status == "COMPLETED"


def test_what_is_asked_for_after_its_lease_is_not_started(agent: subprocess.Popen[bytes]) -> None:
    tell(agent, -0.1, "sleep 4110")
    assert heard(agent) == "started 0"
    assert heard(agent) == "failed 0 its lease was over before it began"
    assert sleepers("4110") == []


def test_the_death_of_the_keeper_ends_what_it_kept_and_another_takes_its_place(
    agent: subprocess.Popen[bytes], daemon: str
) -> None:
    tell(agent, 60, f"{daemon} 4111; sleep 4112")
    await_sleepers("4111", "4112")
    assert heard(agent) == "started 0"
    (keeper,) = psutil.Process(agent.pid).children()
    keeper.kill()
    assert heard(agent) == "failed 0 its keeper process died"
    assert sleepers("4111") == []
    assert sleepers("4112") == []
    tell(agent, 60, "exit 3")
    assert {heard(agent), heard(agent)} == {"started 1", "exited 1 3"}


def test_an_agent_may_open_all_files_it_can_and_its_jobs_what_it_came_with(tmp_path: Path) -> None:
    script = tmp_path / "agent.py"
    script.write_text(AGENT)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    agent = subprocess.Popen(
        ["sh", "-c", f"ulimit -Sn 512; exec {sys.executable} {script}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    tell(agent, 60, f"ulimit -Sn > {tmp_path}/line; ulimit -Hn > {tmp_path}/hard")
    assert {heard(agent), heard(agent)} == {"started 0", "exited 0 0"}
    limits = [resource.prlimit(pid, resource.RLIMIT_NOFILE) for pid in _with_keeper(agent)]
    agent.kill()
    agent.communicate()
    assert limits == [(hard, hard), (hard, hard)]
    assert (tmp_path / "line").read_text() == "512\n"
    assert (tmp_path / "hard").read_text() == f"{hard}\n"


def test_an_agent_that_has_ended_leaves_the_limit_of_files_as_it_was() -> None:
    """Celery restarts itself in the same process: its jobs would then get the raised limit."""
    script = (
        "import resource\n"
        "from taskyard.agent.loop import Loop\n"
        "from taskyard.agent.processes import Processes\n"
        "processes = Processes(Loop(), None)\n"
        "processes.start()\n"
        "processes.stop()\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])\n"
    )
    command = ["sh", "-c", 'ulimit -Sn 512; exec "$@"', "-", sys.executable, "-c", script]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.stdout == "512\n"


def _with_keeper(agent: subprocess.Popen[bytes]) -> list[int]:
    (keeper,) = psutil.Process(agent.pid).children()
    return [agent.pid, keeper.pid]


def test_an_agent_in_a_job_tags_within_that_jobs_tag() -> None:
    """A job may run an agent of its own, as these tests do when they are run as a job."""
    script = (
        "import os, resource\n"
        "from taskyard.agent import tree\n"
        "outer = tree.Tags(); first, second = outer.take(), outer.take()\n"
        "inner = tree.Tags(); inner.take(); last = inner.take()\n"
        "assert first > second > last\n"
        "assert outer.of(os.getpid()) == second, 'the inner tags are the outer job\\'s'\n"
        "assert inner.of(os.getpid()) == last\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def test_a_process_began_between_two_looks_at_the_clock_unless_it_cannot_be_seen() -> None:
    before = tree.ticks()
    with subprocess.Popen(["sleep", "0"]) as process:
        assert before <= tree.began(process.pid) <= tree.ticks()
    assert tree.began(process.pid) > tree.ticks()


def test_the_fence_falls_before_the_lease_ends() -> None:
    assert fence(100.0, 15) == 114.0
    assert fence(100.0, 3) == pytest.approx(102.7)


def test_a_running_job_costs_the_keeper_nothing_while_nothing_happens(bench: Bench) -> None:
    lease = bench.give("sleep 60")
    bench.await_status(lease, "RUNNING")
    (keeper,) = eventually(keepers)

    def rests() -> bool:
        """Whether the keeper does nothing for a second; at first it may still be starting."""
        before, began = sum(keeper.cpu_times()[:2]), time.monotonic()
        eventually(lambda: time.monotonic() - began > 1)
        return sum(keeper.cpu_times()[:2]) - before < 0.1

    eventually(rests)
