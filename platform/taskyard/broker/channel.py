"""Kombu's channel over leased messages."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import blake2b
from queue import Empty
from typing import Any

from bson import ObjectId
from kombu.transport import virtual
from kombu.transport.base import to_rabbitmq_queue_arguments
from kombu.utils.json import dumps, loads
from pymongo.errors import PyMongoError

from taskyard.broker.broker import Broker
from taskyard.broker.messages import Claimed, Delivery
from taskyard.broker.topology import Binding, QueueOptions

Raw = dict[str, Any]
Callback = Callable[[Raw], Any]

#: How long what is known of bindings and queues is relied on when it is enough.
_KNOWN_SECONDS = 5.0

#: A queue that goes with its last consumer goes so long after it: it may only be reconnecting.
AUTO_DELETE_MS = 300_000

#: The property that says which publish this is. It is not sent: who publishes a message that was
#: received publishes another.
_IDENTITY = "taskyard_identity"


class Message(virtual.Message):
    """A message that tells its channel when it cannot be decoded."""

    def decode(self) -> Any:
        """The decoded body. An undecodable one becomes a dead letter when it is acknowledged."""
        try:
            return super().decode()
        except Exception as error:
            self.channel.qos.undecodable[self.delivery_tag] = f"cannot be decoded: {error!r}"
            raise


class QoS(virtual.QoS):
    """Answers for deliveries: each acknowledgement, release and burial names its lease."""

    def __init__(self, channel: Channel, prefetch_count: int = 0) -> None:
        super().__init__(channel, prefetch_count)
        self._leases = channel.broker.leases
        #: Why, by delivery tag.
        self.undecodable: dict[str, str] = {}
        #: How many messages were answered; their pace is what claims go by.
        self.answers = 0
        #: Whether something was put back that may not be written yet.
        self.put_back = False

    def ack(self, delivery_tag: str) -> None:
        """Done: the message goes, or is buried when nobody could read it."""
        delivery = Delivery.of(delivery_tag)
        reason = self.undecodable.pop(delivery_tag, None)
        if reason is None:
            self._leases.acknowledge(delivery)
        else:
            self._leases.bury(delivery, reason)
        self._answered(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Refused: claimable at once, or buried."""
        delivery = Delivery.of(delivery_tag)
        reason = self.undecodable.pop(delivery_tag, "rejected")
        if requeue:
            self._leases.release(delivery)
            self.put_back = True
        else:
            self._leases.bury(delivery, reason)
        self._answered(delivery_tag)

    def restore_unacked(self) -> list[Any]:
        """Release all that was not answered."""
        self._flush()
        for tag in self._delivered:
            self._leases.release(Delivery.of(tag))
        self._delivered.clear()
        self.put_back = True
        return []

    def restore_unacked_once(self, stderr: Any = None) -> None:  # noqa: ARG002 - kombu's signature
        """The channel is gone: what nobody runs is released, what runs answers for itself."""
        self._on_collect.cancel()
        self.loosen()
        self._delivered.clear()
        self._delivered.restored = True

    def loosen(self) -> None:
        """Nobody consumes any more: keep no message that its consumer has dropped.

        A worker that stops drops what it has not started long before it closes the channel:
        that waits for what runs.
        """
        self._flush()
        for tag, message in self._delivered.items():
            if message is not None:
                self._leases.give_back_when_forgotten(message, Delivery.of(tag))
                # The tag stays: until it is answered it takes a place of the prefetch.
                self._delivered[tag] = None

    def _answered(self, delivery_tag: str) -> None:
        self._quick_ack(delivery_tag)
        self.answers += 1
        # A place is free again: the loop may wait for nothing else.
        if self.channel.connection is not None and self.channel.connection.intake.pending:
            self.channel.connection.inbox.ring()


class Channel(virtual.Channel):
    """A channel whose messages are leased and whose bindings are in MongoDB."""

    Message = Message
    QoS = QoS
    supports_fanout = True
    # Payloads are kept as JSON text; base64 would only make them larger.
    body_encoding = "base64"

    def __init__(self, connection: Any, **options: Any) -> None:
        self._transport = connection
        #: By queue and consumer tag. Kombu keeps one callback for a queue of a connection, so that
        #: of two channels one would be handed what was claimed for the other.
        self._callbacks: dict[str, dict[str, Callback]] = {}
        self._options: dict[str, QueueOptions] = {}
        self._auto_delete: set[str] = set()
        #: By queue, what was bound here: to be bound again when it had expired meanwhile.
        self._bindings: dict[str, set[Binding]] = {}
        self._tables: dict[str, tuple[float, set[Any]]] = {}
        self._ttls: dict[str, tuple[float, int | None]] = {}
        super().__init__(connection, **options)

    @property
    def broker(self) -> Broker:
        """This process's own, also for a channel that came through a fork."""
        broker: Broker = self._transport.broker
        return broker

    # --- publishing

    def prepare_message(self, *args: Any, **options: Any) -> Raw:
        """The message. Kombu prepares it again for each retry, over the same properties."""
        message: Raw = super().prepare_message(*args, **options)
        message["properties"].setdefault(_IDENTITY, ObjectId())
        return message

    def _put(self, queue: str, message: Raw, **_: Any) -> None:
        properties = message["properties"]
        headers = message.get("headers") or {}
        identity = properties.get(_IDENTITY)
        sent = {name: value for name, value in properties.items() if name != _IDENTITY}
        self.broker.messages.publish(
            queue,
            dumps({**message, "properties": sent}),
            identity=None if identity is None else _copy(identity, queue),
            priority=self._get_message_priority(message),
            delay_ms=max(0, _until_ms(headers.get("eta")) or 0),
            ttl_ms=self._ttl_ms(queue, properties, headers),
            delivery_mode=properties.get("delivery_mode"),
        )

    def _put_fanout(self, exchange: str, message: Raw, _routing_key: str, **_: Any) -> None:
        """A copy for each queue: readers cannot overwrite what another has not read."""
        for _key, _pattern, queue in self.broker.topology.bound(exchange):
            self._put(queue, message)

    def _ttl_ms(self, queue: str, properties: Raw, headers: Raw) -> int | None:
        """The shortest of what message, task and queue allow."""
        known = self._ttls.get(queue)
        if known is None or known[0] < time.monotonic():
            ttl = self.broker.topology.message_ttl_ms(queue)
            known = self._ttls[queue] = (time.monotonic() + 12 * _KNOWN_SECONDS, ttl)
        own = properties.get("expiration")
        limits = [known[1], int(own) if own else None, _until_ms(headers.get("expires"))]
        return min((max(0, limit) for limit in limits if limit is not None), default=None)

    # --- consuming

    def basic_consume(
        self, queue: str, no_ack: bool, callback: Any, consumer_tag: str, **options: Any
    ) -> None:
        """Consume from the queue; it lives as long as it has a consumer."""
        super().basic_consume(queue, no_ack, callback, consumer_tag, **options)
        deliver = self.connection._callbacks[queue]
        self._callbacks.setdefault(queue, {})[consumer_tag] = (
            self._acknowledging(deliver) if no_ack else deliver
        )
        options_ = self._options.get(queue, QueueOptions())
        if options_.expires_ms is None and queue in self._auto_delete:
            options_ = replace(options_, expires_ms=AUTO_DELETE_MS)
        if options_.expires_ms is not None:
            topology, bindings = self.broker.topology, self._bindings.setdefault(queue, set())
            self.broker.leases.keep(
                (id(self), queue), lambda: topology.keep(queue, options_, tuple(bindings))
            )
        self._settle()
        self.connection.consumers_changed()

    def basic_cancel(self, consumer_tag: str) -> None:
        """Consume no more."""
        queue = self._tag_to_queue.get(consumer_tag)
        super().basic_cancel(consumer_tag)
        if queue is None:
            return
        callbacks = self._callbacks[queue]
        callbacks.pop(consumer_tag)
        if not callbacks:
            self.broker.leases.keep((id(self), queue), None)
        if not self._consumers:
            self.qos.loosen()
        if self.connection is not None:
            self.connection.consumers_changed()

    def basic_get(self, queue: str, no_ack: bool = False, **_: Any) -> Any:
        """One message, or None."""
        try:
            raw = self._get(queue)
        except Empty:
            return None
        message = self.Message(raw, channel=self)
        if no_ack:
            self.broker.leases.acknowledge(Delivery.of(message.delivery_tag))
        else:
            self.qos.append(message, message.delivery_tag)
        return message

    @property
    def consumed(self) -> list[str]:
        """The queues with a consumer on this channel."""
        return list(dict.fromkeys(self._active_queues))

    def claim(self, queue: str, limit: int) -> list[Raw]:
        """Up to ``limit`` messages as kombu delivers them, leased."""
        claimed = self.broker.messages.claim(queue, limit, self.broker.lease_ms)
        self.broker.leases.hold([one.delivery for one in claimed])
        return [raw for one in claimed if (raw := self._opened(one)) is not None]

    def deliver(self, raw: Raw, queue: str) -> None:
        """Hand it to one of the queue's consumers here, in turn; without one it is released."""
        callbacks = self._callbacks.get(queue)
        if not callbacks:
            self.broker.leases.give_back(Delivery.of(raw["properties"]["delivery_tag"]))
            return
        tag = next(iter(callbacks))
        callbacks[tag] = callback = callbacks.pop(tag)
        callback(raw)

    def _acknowledging(self, deliver: Callback) -> Callback:
        """For ``no_ack``: gone when it is delivered, not when it was claimed ahead of that."""

        def run(raw: Raw) -> None:
            self.broker.leases.acknowledge(Delivery.of(raw["properties"]["delivery_tag"]))
            deliver(raw)

        return run

    def _get(self, queue: str, timeout: float | None = None) -> Raw:  # noqa: ARG002 - kombu's signature
        self._gather(queue)
        for raw in self.claim(queue, 1):
            return raw
        raise Empty

    def _gather(self, queue: str) -> None:
        """What was claimed ahead of its delivery here, or put back, is in the queue again."""
        if self.connection.intake.give_back([queue]):
            self.qos.put_back = True
        self._settle()

    def _settle(self) -> None:
        """A channel's commands are carried out in order: who looks finds what it put back."""
        if self.qos.put_back:
            self.qos.put_back = False
            self.broker.leases.flush()

    def _opened(self, claimed: Claimed) -> Raw | None:
        """The envelope, with the lease as its delivery tag; None for one that is none."""
        try:
            raw: Raw = loads(claimed.payload)
            properties = raw["properties"]
            properties["delivery_tag"] = claimed.delivery.tag
            properties.setdefault("delivery_info", {})["redelivered"] = claimed.deliveries > 1
            # Here and not when it is delivered: there an error would end the consumer.
            encoding = properties.pop("body_encoding", None)
            raw["body"] = self.decode_body(raw["body"], encoding) if raw.get("body") else None
        except Exception as error:
            self.broker.leases.bury(claimed.delivery, f"is no message: {error!r}")
            return None
        return raw

    # --- queues and bindings

    def prepare_queue_arguments(self, arguments: Raw, **options: Any) -> Raw:
        """A queue's ``expires`` and ``message_ttl`` as arguments; kombu drops them otherwise."""
        prepared: Raw = to_rabbitmq_queue_arguments(arguments, **options)
        return prepared

    def _new_queue(self, queue: str, **declared: Any) -> None:
        arguments = declared.get("arguments") or {}
        options = QueueOptions(arguments.get("x-expires"), arguments.get("x-message-ttl"))
        if declared.get("auto_delete"):
            self._auto_delete.add(queue)
        self._options[queue] = options
        self.broker.topology.declare(queue, options)

    def _has_queue(self, queue: str, **_: Any) -> bool:
        return self.broker.topology.exists(queue)

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str | None, queue: str) -> None:
        options = self._options.get(queue, QueueOptions())
        self.broker.topology.bind(exchange, routing_key, pattern, queue, options)
        self._bindings.setdefault(queue, set()).add((exchange, routing_key, pattern))
        self._tables.pop(exchange, None)

    def queue_unbind(
        self,
        queue: str,
        exchange: str | None = None,
        routing_key: str = "",
        arguments: Any = None,
        **options: Any,
    ) -> None:
        """Take a binding back, here and for others."""
        super().queue_unbind(queue, exchange, routing_key, arguments, **options)
        self.broker.topology.unbind(exchange or "", routing_key, queue)
        bindings = self._bindings.get(queue, set())
        bindings -= {one for one in bindings if one[:2] == (exchange or "", routing_key)}
        self._tables.pop(exchange or "", None)

    def queue_delete(
        self, queue: str, if_unused: bool = False, if_empty: bool = False, **_: Any
    ) -> None:
        """Delete the queue with its bindings and messages."""
        if if_empty and self._size(queue):
            return
        if if_unused and any(queue in one._active_queues for one in self.connection.channels):
            return
        self.broker.leases.keep((id(self), queue), None)
        self._bindings.pop(queue, None)
        self.broker.topology.drop(queue)
        self.broker.messages.drop(queue)
        self.state.queue_bindings_delete(queue)
        self._tables.clear()

    def get_table(self, exchange: str) -> set[Any]:
        """Bindings of the exchange, ours and others'."""
        known = self._tables.get(exchange)
        if known is None or known[0] < time.monotonic():
            local = set(self.state.exchanges.get(exchange, {}).get("table", ()))
            bound = local | self.broker.topology.bound(exchange)
            known = self._tables[exchange] = (time.monotonic() + _KNOWN_SECONDS, bound)
        return known[1]

    def _lookup(self, exchange: str, routing_key: str, default: str | None = None) -> list[str]:
        """Queues for a message; what is not known is read anew before it is taken to be none."""
        found: list[str] = super()._lookup(exchange, routing_key, None)
        if not found and self._tables.pop(exchange, None) is not None:
            found = super()._lookup(exchange, routing_key, default)
        return found

    def _size(self, queue: str) -> int:
        self._gather(queue)
        return self.broker.messages.count(queue)

    def _purge(self, queue: str) -> int:
        self._gather(queue)
        return self.broker.messages.purge(queue)

    def _restore(self, message: Any) -> None:
        """Kombu would publish it anew; here it is released."""
        self.broker.leases.release(Delivery.of(message.delivery_tag))

    def close(self) -> None:
        """Cancel the consumers; a database that is away does not hold this up."""
        try:
            super().close()
        except PyMongoError:
            self.closed = True


def _copy(identity: ObjectId, queue: str) -> ObjectId:
    """The id of a publish's copy for this queue, as orderly as the publish's own."""
    at, process, count = identity.binary[:4], identity.binary[4:9], identity.binary[9:]
    return ObjectId(at + blake2b(queue.encode(), key=process, digest_size=5).digest() + count)


def _until_ms(instant: Any) -> int | None:
    """Milliseconds from now on the clock that gave the instant: the publisher's own."""
    if not instant:
        return None
    try:
        at = datetime.fromisoformat(instant) if isinstance(instant, str) else instant
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
    except (ValueError, AttributeError):
        return None
    return round((at - datetime.now(UTC)).total_seconds() * 1000)
