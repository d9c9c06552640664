"""What this process holds: one thread renews leases and writes acknowledgements.

It outlives channels and connections: a task that ends after a reconnect still acknowledges its
own delivery. Others only post to it; posting never waits and never raises.
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

#: Renewals that may fail in a row before a lease is over.
RENEWALS_PER_LEASE = 3

#: How often queues that expire are kept at most: Celery's own expire after 10 s. Those that
#: expire later are kept as often as they have to be.
KEEP_SECONDS = 3.0
KEEPS_PER_EXPIRY = 5

#: Those that expire sooner are kept so many times before.
LEAST_KEEPS_PER_EXPIRY = 3

#: Answers are gathered so long before the next write: one write costs as much as eight answers.
GATHER_SECONDS = 0.02

_RETRY_SECONDS = 0.5

Command = Callable[[], None]


@dataclass
class _Keeper:
    """Keeps a queue from expiring."""

    keep: Callable[[], None]
    every_seconds: float
    due_at: float


class Leases:
    """Deliveries that were handed out here and not answered yet."""

    def __init__(self, messages: Messages, lease_seconds: float) -> None:
        self._messages = messages
        self._lease_ms = round(lease_seconds * 1000)
        self._renew_every = lease_seconds / RENEWALS_PER_LEASE
        # Of all queues this one may be put to from a finalizer.
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        # Owned by the thread.
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
        """Have a message that nobody started claimable again; it does not count as delivered."""
        self._commands.put(lambda: self._unstarted.append(delivery))

    def bury(self, delivery: Delivery, reason: str) -> None:
        """Have the message moved to the dead letters."""
        self._commands.put(lambda: self._buried.append((delivery, reason)))

    def give_back_when_forgotten(self, message: Any, delivery: Delivery) -> None:
        """Give the message back when nobody can answer for it any more.

        A channel that closes drops what it delivered; a task that runs keeps its message, and a
        message that nobody keeps was never started.
        """
        forgotten = weakref.finalize(message, self._commands.put, lambda: self._forgotten(delivery))
        # Who ends while it holds a message may have started it.
        forgotten.atexit = False

    def sound(self) -> bool:
        """Whether what is held was renewed lately: else its own consumer could claim it anew."""
        return time.monotonic() < self._renewed_at + (RENEWALS_PER_LEASE - 1) * self._renew_every

    def keep(
        self, owner: object, keep: Callable[[], None] | None, *, expires_seconds: float = 0
    ) -> None:
        """Call ``keep`` several times before what it keeps now expires, until it is None."""

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
            return  # in a forked child there is no thread, and nothing of it to write
        written = threading.Event()
        # Set by what writes: another command would be taken together with this one, before it.
        self._commands.put(lambda: self._flushes.append(written))
        written.wait(seconds)

    def leave(self) -> None:
        """At the end of the process: what is held is others' at once."""
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
                # The first answer is written at once, those that follow it closely together.
                self._wrote = False
                time.sleep(GATHER_SECONDS)
            now = time.monotonic()
            if now >= renew_at:
                # Before the lease is over there is time for more than the next one in turn.
                renewed = self._guarded(self._renew)
                renew_at = now + (self._renew_every if renewed else 0)
            for keeper in [one for one in self._keepers.values() if now >= one.due_at]:
                keeper.due_at = now + keeper.every_seconds
                self._guarded(keeper.keep)

    def _take(self, wait_seconds: float) -> None:
        """All commands that are there; waits for the first one."""
        try:
            command = self._commands.get(timeout=max(0.0, wait_seconds))
            while True:
                self._guarded(command)
                command = self._commands.get_nowait()
        except queue.Empty:
            return

    def _guarded(self, act: Callable[[], None]) -> bool:
        """Whatever fails is tried again with the next round; the thread goes on."""
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
        """Until it is written the lease is held, or others would run what is done."""
        if self._done:
            if not self.sound():
                # This process slept. Others may have run and deleted what is done here, too.
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
            # Those behind it, and who waits for them, must not wait for ever.
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
