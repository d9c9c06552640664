"""What a job is made of on the command line."""

from __future__ import annotations

import subprocess

import pytest

from taskyard.agent.line import SHELL
from taskyard.cli.inputs import join_command
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
    """A job's command is parted at newlines, and each line goes to a shell of its own."""
    job = factories.queued_job(command=join_command(["printf", "[%s]", word, f"A={word}", word]))
    (line,) = job.lines
    ran = subprocess.run([SHELL, "-c", line], env={"IFS": "x"}, capture_output=True)
    assert ran.stdout.decode() == f"[{word}][A={word}][{word}]"
    assert ran.stderr == b""


def test_one_argument_is_the_script_that_it_is() -> None:
    assert join_command(["echo one\necho two"]) == "echo one\necho two"
