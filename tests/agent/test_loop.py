"""The loop does not act on descriptors that are no longer watched."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from taskyard.agent.loop import Loop
from tests.helpers import eventually


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.stop()


def test_a_descriptor_that_was_closed_in_the_same_round_is_left_alone(loop: Loop) -> None:
    pipes = [os.pipe() for _ in range(2)]
    acted: list[int] = []

    def act(fd: int) -> None:
        acted.append(fd)
        for read, _ in pipes:
            loop.unwatch(read)

    for read, write in pipes:
        os.write(write, b"!")
        loop.watch(read, lambda fd=read: act(fd))  # type: ignore[misc] # bound early
    loop.start(lambda: None, lambda: None)
    eventually(lambda: acted)
    passed: list[bool] = []
    loop.post(lambda: passed.append(True))
    eventually(lambda: passed)
    assert len(acted) == 1
    for fds in pipes:
        for fd in fds:
            os.close(fd)
