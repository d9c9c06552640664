"""Snippets: a job's inputs as commands to paste, which submit the same job again."""

from __future__ import annotations

import json
import shlex
import subprocess

import pytest

from taskyard.cli import run as cli_run
from taskyard.dashboard import presenters, snippets
from tests import factories

JOB = factories.queued_job(
    command='echo "it\'s"\n$HOME `id`',
    required_cpu=0.5,
    required_ram_mb=512,
    timeout_ms=1500,
    max_retries=0,
    priority=9,
    retry_on_exit=True,
    labels=["gpu", "a/b"],
    env={"NAME": "two words", "OTHER": "$(id)"},
)


#: Characters that a page escapes because they are invisible, and ones special to shells.
HIDDEN = [
    "echo one\r\necho two",
    "echo \u200d1 zero-width, then a digit",
    "a'b\\c \x1b[0m $HOME `id` \x7f é",
    "\U000e0041",
]


def test_the_request_carries_what_is_not_usual_and_no_shell_reads_it() -> None:
    words = shlex.split(snippets.as_curl(JOB, "http://host").replace("\\\n", " "))
    body = json.loads(words[words.index("--json") + 1])
    assert body == {
        "command": JOB.command,
        "requiredCpu": 0.5,
        "requiredRamMb": 512,
        "timeoutMs": 1500,
        "maxRetries": 0,
        "priority": 9,
        "labels": ["gpu", "a/b"],
        "env": {"NAME": "two words", "OTHER": "$(id)"},
        "retryOnExit": True,
    }
    assert words[-1] == "http://host/api/jobs/create"


@pytest.mark.parametrize("command", HIDDEN)
def test_what_is_hidden_is_the_same_when_the_line_is_pasted(command: str) -> None:
    job = factories.queued_job(command=command, env={"NAME": command}, filename="f")
    for line in (snippets.as_command(job), snippets.as_curl(job, "http://host")):
        assert presenters.visible(line) == line
    line = f"printf '%s\\0' {snippets.as_command(job)}"
    words = subprocess.run(["bash", "-c", line], capture_output=True, check=True).stdout
    assert words.decode().split("\0")[2:-1] == ["--env", f"NAME={command}", "--", command]
    read = shlex.split(snippets.as_curl(job, "http://host").replace("\\\n", " "))
    assert json.loads(read[read.index("--json") + 1])["command"] == command


@pytest.mark.parametrize("cpu", [0.5, 2.0, 1 / 3, 0.1 + 0.2, 1000.125])
def test_a_number_on_the_command_line_is_the_jobs(cpu: float) -> None:
    words = shlex.split(snippets.as_command(factories.queued_job(required_cpu=cpu)))
    assert float(words[words.index("--cpu") + 1]) == cpu


def test_a_plain_job_is_a_plain_request() -> None:
    job = factories.queued_job(command="true")
    assert '{"command": "true"}' in snippets.as_curl(job, "http://host")
    assert snippets.as_command(job) == "taskyard run -- true"


def test_the_command_line_reads_its_line_as_it_was_meant() -> None:
    words = shlex.split(snippets.as_command(JOB))
    assert words[:2] == ["taskyard", "run"]
    read = cli_run.run_command.make_context("run", words[2:]).params
    assert (read["command"], read["cpu"], read["ram"]) == ((JOB.command,), 0.5, 512)
    assert (read["timeout"], read["retries"], read["priority"]) == (1500, 0, 9)
    assert (read["label"], dict(read["env"])) == (("gpu", "a/b"), dict(JOB.env))
    assert read["retry_on_exit"] is True
