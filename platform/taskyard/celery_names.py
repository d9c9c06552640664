"""Names of queues, shared by senders and consumers."""

from __future__ import annotations

#: Queue of the ticks: a worker that consumes it is a scheduler, any other is an agent.
SCHEDULER_QUEUE = "scheduler"


def queue_of(worker_id: str) -> str:
    """The queue that only this agent consumes."""
    return f"agent.{worker_id}"
