"""Queues, exchanges and bindings of a channel, kept in MongoDB for all processes."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from amqp.protocol import queue_declare_ok_t
from kombu.transport import virtual
from kombu.transport.base import to_rabbitmq_queue_arguments
from kombu.utils.uuid import uuid

from taskyard.broker.broker import Broker
from taskyard.broker.stored import COUNTED
from taskyard.broker.topology import Binding, QueueOptions

Raw = dict[str, Any]

#: How long an exchange's kind and a queue's message TTL are cached.
_KIND_SECONDS = 5.0
_OPTIONS_SECONDS = 60.0

#: Most entries of a cache: a worker answers each sender of remote control in another queue.
_KNOWN = 1_000

#: The exchange to which kombu binds a queue when none is named.
_DEFAULT_EXCHANGE = "amq.direct"

#: How long an ``auto_delete`` queue outlives its last consumer, which may only be reconnecting.
AUTO_DELETE_MS = 300_000


class Declaring(virtual.Channel):
    """The half of a channel that declares, binds and looks up queues and exchanges."""

    supports_fanout = True

    def __init__(self, connection: Any, **options: Any) -> None:
        self._transport = connection
        self._options: dict[str, QueueOptions] = {}
        #: What was bound here, by queue: bound again in case it has expired meanwhile.
        self._bindings: dict[str, set[Binding]] = {}
        self._kinds: dict[str, tuple[float, str | None]] = {}
        self._ttls: dict[str, tuple[float, int | None]] = {}
        super().__init__(connection, **options)

    @property
    def broker(self) -> Broker:
        """This process's broker, also in a channel that was inherited through a fork."""
        broker: Broker = self._transport.broker
        return broker

    def prepare_queue_arguments(self, arguments: Raw, **options: Any) -> Raw:
        """Return a queue's ``expires`` and ``message_ttl`` as arguments; kombu would drop them."""
        prepared: Raw = to_rabbitmq_queue_arguments(arguments, **options)
        return prepared

    def queue_declare(
        self, queue: str | None = None, passive: bool = False, **declared: Any
    ) -> Any:
        """Declare the queue; if ``passive``, only check that it exists. Returns its length.

        A declaration counts up to ``COUNTED`` messages: each publisher and each worker begins
        with one, and a backlog must not delay it.
        """
        if passive:
            return super().queue_declare(queue, passive, passively=True, **declared)
        queue = queue or f"amq.gen-{uuid()}"
        self._new_queue(queue, **declared)
        return queue_declare_ok_t(queue, self.broker.messages.count(queue, COUNTED), 0)

    def _new_queue(self, queue: str, passively: bool = False, **declared: Any) -> None:
        """Store a declared queue. Kombu also calls this for a passive declaration, which stores
        nothing.
        """
        arguments = declared.get("arguments") or {}
        options = QueueOptions(
            _milliseconds(queue, "x-expires", arguments),
            _milliseconds(queue, "x-message-ttl", arguments),
            bool(declared.get("auto_delete")),
        )
        if not passively:
            self._options[queue] = options
            self.broker.topology.declare(queue, options)
        elif options != QueueOptions():
            self._options.setdefault(queue, options)

    def _has_queue(self, queue: str, **_: Any) -> bool:
        return self.broker.topology.exists(queue)

    def queue_bind(
        self,
        queue: str,
        exchange: str | None = None,
        routing_key: str = "",
        arguments: Any = None,
        **_: Any,
    ) -> None:
        """Bind the queue, even if this connection did so before: the binding may have expired."""
        exchange = exchange or _DEFAULT_EXCHANGE
        kind = self.typeof(exchange)
        _, pattern, _ = kind.prepare_bind(queue, exchange, routing_key, arguments)
        binding = Binding(exchange, routing_key, pattern, kind.type)
        self.broker.topology.bind(binding, queue, self._options.get(queue))
        self._bindings.setdefault(queue, set()).add(binding)

    def queue_unbind(
        self,
        queue: str,
        exchange: str | None = None,
        routing_key: str = "",
        arguments: Any = None,  # noqa: ARG002 - kombu's signature
        **_: Any,
    ) -> None:
        """Remove a binding, from MongoDB and from what this connection would bind again."""
        exchange = exchange or _DEFAULT_EXCHANGE
        self.broker.topology.unbind(exchange, routing_key, queue)
        for channel in self.connection.channels:
            channel._unbound(queue, exchange, routing_key)

    def _unbound(self, queue: str, exchange: str, routing_key: str) -> None:
        bindings = self._bindings.get(queue, set())
        bindings -= {one for one in bindings if one[:2] == (exchange, routing_key)}

    def exchange_delete(
        self,
        exchange: str,
        if_unused: bool = False,
        nowait: bool = False,  # noqa: ARG002 - kombu's signature
    ) -> None:
        """Delete the exchange and its bindings; queues keep their messages and other bindings."""
        bound = self.get_table(exchange)
        if if_unused and bound:
            return
        for routing_key, _, queue in bound:
            self.queue_unbind(queue, exchange, routing_key)
        self.state.exchanges.pop(exchange, None)
        self._kinds.pop(exchange, None)

    def queue_delete(
        self, queue: str, if_unused: bool = False, if_empty: bool = False, **_: Any
    ) -> None:
        """Delete the queue with its bindings and messages."""
        if if_empty and self._size(queue):
            return
        if if_unused and any(queue in one._active_queues for one in self.connection.channels):
            return
        self.let_go(queue)
        for known in (self._bindings, self._options, self._ttls):
            known.pop(queue, None)
        self.broker.topology.drop(queue)
        self.broker.messages.drop(queue)

    def typeof(self, exchange: str, default: str = "direct") -> Any:
        """Return the exchange's type. Celery does not declare the exchange when it publishes to a
        ``Broadcast`` queue: its kind is then the one that is stored with its bindings.
        """
        if exchange in self.state.exchanges:
            return super().typeof(exchange, default)
        until, kind = self._kinds.get(exchange, (0.0, None))
        if kind is None or until < time.monotonic():
            kind = self.broker.topology.kind(exchange)
            if len(self._kinds) >= _KNOWN:
                self._kinds.clear()
            self._kinds[exchange] = time.monotonic() + _KIND_SECONDS, kind
        return self.exchange_types[kind or default]

    def get_table(self, exchange: str) -> set[Any]:
        """Return the exchange's bindings, read anew: other processes bind and unbind, too. One that
        was made while the exchange was of another kind gets the pattern of its present kind.
        """
        kind = self.typeof(exchange)
        return {
            (key, pattern or kind.prepare_bind(queue, exchange, key, None)[1], queue)
            for key, pattern, queue in self.broker.topology.bound(exchange)
        }

    def message_ttl_ms(self, queue: str) -> int | None:
        """Return how long messages of the queue live at most, or None for no limit."""
        known = self._ttls.get(queue)
        if known is None or known[0] < time.monotonic():
            ttl = self.broker.topology.message_ttl_ms(queue)
            if len(self._ttls) >= _KNOWN:
                self._ttls.clear()
            known = self._ttls[queue] = (time.monotonic() + _OPTIONS_SECONDS, ttl)
        return known[1]

    def keep(self, queue: str) -> None:
        """Keep a queue that expires alive while it is consumed here, until ``let_go``."""
        options = self._options.get(queue, QueueOptions())
        if options.expires_ms is None and options.auto_delete:
            options = replace(options, expires_ms=AUTO_DELETE_MS)
        if options.expires_ms is None:
            return
        topology, bindings = self.broker.topology, self._bindings.setdefault(queue, set())

        def keep() -> None:
            topology.keep(queue, options, tuple(bindings))

        self.broker.leases.keep((id(self), queue), keep, expires_seconds=options.expires_ms / 1000)
        # Now, too: the consumer may leave or die before the first regular call.
        keep()

    def let_go(self, queue: str) -> None:
        """Let the queue expire: it is no longer consumed here."""
        self.broker.leases.keep((id(self), queue), None)


def _milliseconds(queue: str, name: str, arguments: Raw) -> int | None:
    """The value of the argument, if it is given. Raises ValueError if it is not a number."""
    value: int | None = arguments.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float | None):
        raise ValueError(f"queue {queue!r}: {name} must be a number, not {value!r}")
    return value
