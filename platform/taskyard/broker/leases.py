"""The leases that this process holds: one thread renews them and writes acknowledgements.

The thread outlives channels and connections: a task that ends after a reconnect still
acknowledges its own delivery. Other threads post commands; posting never waits and never raises.
"""

from __future__ import annotations

import atexit
import logging
import math
import multiprocessing
import os
import queue
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.util import Finalize
from typing import Any

from pymongo.errors import PyMongoError

from taskyard.broker.connection import may_pass
from taskyard.broker.deliveries import Delivery
from taskyard.broker.messages import Messages

logger = logging.getLogger(__name__)

#: Renewals in the time of one lease; the lease ends when that many in a row fail.
RENEWALS_PER_LEASE = 3

#: How often a queue that expires is kept alive (Celery's own expire after 10 s); a queue that
#: expires late is kept ``KEEPS_PER_EXPIRY`` times in that time.
KEEP_SECONDS = 3.0
KEEPS_PER_EXPIRY = 5

#: How many times a queue that expires too soon for ``KEEP_SECONDS`` is kept alive in that time.
LEAST_KEEPS_PER_EXPIRY = 3

#: How long answers are gathered before the next write: a write costs as much as eight answers.
GATHER_SECONDS = 0.02

_RETRY_SECONDS = 0.5

Command = Callable[[], None]


@dataclass
class _Keeper:
    """What keeps a queue from expiring, and when that is next due."""

    keep: Callable[[], None]
    every_seconds: float
    due_at: float


class Leases:
    """Deliveries that were handed out here and not answered yet."""

    def __init__(self, messages: Messages, lease_seconds: float) -> None:
        self._messages = messages
        self._lease_ms = round(lease_seconds * 1000)
        self._renew_every = lease_seconds / RENEWALS_PER_LEASE
        # The only kind of queue to which a finalizer may put.
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        # Changed by the thread alone.
        self._held: set[Delivery] = set()
        self._lost: set[Delivery] = set()
        self._done: list[Delivery] = []
        self._released: list[Delivery] = []
        self._unstarted: list[Delivery] = []
        self._buried: list[tuple[Delivery, str]] = []
        self._renewed_at = time.monotonic()
        self._wrote = False
        self._flushes: list[threading.Event] = []
        self._keepers: dict[object, _Keeper] = {}
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._run, name="broker-leases", daemon=True)
        self._thread.start()
        atexit.register(self.leave)
        if multiprocessing.parent_process() is not None:
            # A forked child of multiprocessing ends without ``atexit``.
            Finalize(None, self.leave, exitpriority=0)

    def hold(self, deliveries: Sequence[Delivery]) -> None:
        """Renew these deliveries from now on."""
        self._commands.put(lambda: self._held.update(deliveries))

    def acknowledge(self, delivery: Delivery) -> None:
        """Have the message deleted soon."""
        self._commands.put(lambda: self._done.append(delivery))

    def release(self, delivery: Delivery) -> None:
        """Have the message claimable again soon."""
        self._commands.put(lambda: self._released.append(delivery))

    def give_back(self, delivery: Delivery) -> None:
        """Have a message that nobody started claimable again soon; the delivery does not count."""
        self._commands.put(lambda: self._unstarted.append(delivery))

    def bury(self, delivery: Delivery, reason: str) -> None:
        """Have the message moved to the dead letters."""
        self._commands.put(lambda: self._buried.append((delivery, reason)))

    def give_back_when_forgotten(self, message: Any, delivery: Delivery) -> None:
        """Give the message back when nothing refers to it any more.

        A channel that closes drops the messages that it delivered. A running task keeps its
        message, so a message that nothing keeps was never started.
        """
        forgotten = weakref.finalize(message, self._commands.put, lambda: self._forgotten(delivery))
        # A message that is still kept when the process ends may have been started.
        forgotten.atexit = False

    def sound(self) -> bool:
        """Return whether the leases were renewed lately: this process could otherwise claim again
        what it holds.
        """
        return time.monotonic() < self._renewed_at + (RENEWALS_PER_LEASE - 1) * self._renew_every

    def keep(
        self, owner: object, keep: Callable[[], None] | None, *, expires_seconds: float = 0
    ) -> None:
        """Call ``keep`` regularly, several times in ``expires_seconds``; None ends that."""

        def change() -> None:
            self._keepers.pop(owner, None)
            if keep is not None:
                every = min(
                    max(KEEP_SECONDS, expires_seconds / KEEPS_PER_EXPIRY),
                    max(GATHER_SECONDS, expires_seconds / LEAST_KEEPS_PER_EXPIRY),
                )
                self._keepers[owner] = _Keeper(keep, every, time.monotonic() + every)

        self._commands.put(change)

    def flush(self, seconds: float = 5.0) -> None:
        """Wait until everything posted so far is written."""
        if os.getpid() != self._pid:
            return  # a forked child has no such thread, and nothing to write
        written = threading.Event()
        # Set after the write: a command that set it would run before the others are written.
        self._commands.put(lambda: self._flushes.append(written))
        written.wait(seconds)

    def leave(self) -> None:
        """Release everything at the end of the process, so that others may claim it at once."""
        self._commands.put(self._messages.release_unknown)
        self._commands.put(lambda: self._released.extend(self._held))
        self.flush()

    def _forgotten(self, delivery: Delivery) -> None:
        if delivery in self._held:
            self._unstarted.append(delivery)

    def _run(self) -> None:
        renew_at = write_at = time.monotonic()
        while True:
            keep_at = min((keeper.due_at for keeper in self._keepers.values()), default=math.inf)
            self._take(min(renew_at, keep_at, write_at) - time.monotonic())
            write_at = math.inf if self._guarded(self._write) else 0.0
            if self._wrote:
                # The first answer is written at once; those that follow it closely, together.
                self._wrote = False
                time.sleep(GATHER_SECONDS)
            now = time.monotonic()
            if now >= renew_at:
                # A failed renewal is tried again at once: before the lease ends there is time for
                # more than the regular ones.
                renewed = self._guarded(self._renew)
                renew_at = now + (self._renew_every if renewed else 0)
            for keeper in [one for one in self._keepers.values() if now >= one.due_at]:
                keeper.due_at = now + keeper.every_seconds
                self._guarded(keeper.keep)

    def _take(self, wait_seconds: float) -> None:
        """Run all commands that were posted; waits for the first one."""
        try:
            command = self._commands.get(timeout=max(0.0, wait_seconds))
            while True:
                self._guarded(command)
                command = self._commands.get_nowait()
        except queue.Empty:
            return

    def _guarded(self, act: Callable[[], None]) -> bool:
        """Run ``act`` and return whether it succeeded; the thread goes on after any error. What is
        to be written or renewed is tried again with the next round; a posted command is not.
        """
        try:
            act()
            return True
        except PyMongoError as error:
            logger.warning("broker: %s; trying again", type(error).__name__)
            time.sleep(_RETRY_SECONDS)
        except Exception:
            logger.exception("broker: a defect")
            time.sleep(_RETRY_SECONDS)
        return False

    def _write(self) -> None:
        """Write the answers. A lease is held until its answer is written, or others would run the
        task again.
        """
        if self._done:
            if not self.sound():
                # This process slept. Others may have run and deleted these messages, too.
                self._renew()
            late = {*self._messages.acknowledge(self._done), *self._lost.intersection(self._done)}
            for delivery in late:
                logger.warning(
                    "broker: the acknowledgement of %s came after its lease", delivery.tag
                )
            self._written(self._done)
        for back in (self._released, self._unstarted):
            if back:
                self._messages.release(back, undo_count=back is self._unstarted)
                self._written(back)
        while self._buried:
            self._bury(*self._buried[0])
            self._buried.pop(0)
        while self._flushes:
            self._flushes.pop().set()

    def _bury(self, delivery: Delivery, reason: str) -> None:
        try:
            self._messages.bury(delivery, reason)
        except Exception as error:
            if may_pass(error):
                raise
            # The burials behind this one, and callers of ``flush``, must not wait for ever.
            logger.error("broker: %s cannot be buried: %.500s", delivery.tag, error)
            self._messages.release([delivery])
        self._written([delivery])

    def _written(self, answered: list[Delivery]) -> None:
        self._held.difference_update(answered)
        self._lost.difference_update(answered)
        answered.clear()
        self._wrote = True

    def _renew(self) -> None:
        began = time.monotonic()
        held = [*self._held]
        lost = set(held) - self._messages.renew(held, self._lease_ms)
        self._held -= lost
        self._lost |= lost
        self._renewed_at = began
        for delivery in lost:
            logger.warning("broker: the lease of %s is lost: it may run elsewhere", delivery.tag)
