"""The scene of the browser tests: a running platform with jobs of every kind."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from taskyard.client import Client
from tests.processes.conftest import Up

HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"

#: Output that tries to control a terminal or a page.
HOSTILE_OUTPUT = (
    "printf '%s\\n' '" + HOSTILE.replace("'", "'\\''") + "';"
    r"printf '\033]0;owned\007\033]8;;http://evil.example\007link\033]8;;\007\033[2J\033[H\n';"
    r"printf '\033[31mred \033[1;38;5;40mgreen\033[0m plain \033[8mconcealed\033[0m\n';"
    r"printf 'user \342\200\256nimda\n'; echo to stderr >&2"
)

BUILD = r"""set -e
for n in 1 2 3 4 5 6; do printf '\033[1m[%s/6]\033[0m compiling part %s\n' $n $n; sleep 0.02; done
printf '\033[33mwarning:\033[0m deprecated call in part 3\n' >&2
printf '\033[32mok\033[0m  6 parts, 0 errors\n'"""


@dataclass(kw_only=True)
class Scene:
    """A platform, a client of its API, and the ids of the submitted jobs by name."""

    up: Up
    url: str
    token: str
    client: Client
    jobs: dict[str, str] = field(default_factory=dict)

    def submit(self, name: str, command: str, **wanted: Any) -> str:
        self.jobs[name] = self.client.submit(command, requiredCpu=0.1, **wanted)
        return self.jobs[name]

    def page(self, name: str) -> str:
        return f"{self.url}/jobs/{self.jobs[name]}"


@contextmanager
def set_scene(up: Up) -> Iterator[Scene]:
    """Submit jobs that succeed and fail, one that waits for ever, one that runs and prints."""
    found = re.search(r"operator token +(tyk_\S+)", up.out)
    assert found, up.out
    with Client(up.url, found[1]) as client:
        scene = Scene(up=up, url=up.url, token=found[1], client=client)
        fill(scene)
        yield scene


def fill(scene: Scene) -> None:
    """Submit the jobs, and wait for the ends of those that end by themselves."""
    scene.submit("build", BUILD)
    scene.submit("failed", "echo looking; echo 'no such part' >&2; exit 3")
    scene.submit("hostile", HOSTILE_OUTPUT)
    scene.submit(
        "retried", "echo try $TASKYARD_ATTEMPT; echo no >&2; exit 1", maxRetries=2, retryOnExit=True
    )
    scene.submit("late", "sleep 60", timeoutMs=300, maxRetries=0)
    for name in list(scene.jobs):
        scene.client.wait(scene.jobs[name])
    scene.submit("waits", "python3 train.py --epochs 40", labels=["gpu"])
    scene.submit("cancelled", "python3 report.py", labels=["gpu"])
    scene.client.cancel(scene.jobs["cancelled"], reason="not needed any more")
    scene.submit("runs", "n=0; while true; do n=$((n+1)); echo line $n; sleep 0.2; done")
