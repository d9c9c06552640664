"""Kombu's channel over leased messages."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import blake2b
from queue import Empty
from typing import Any

from bson import ObjectId
from kombu.utils.json import dumps, loads
from pymongo.errors import PyMongoError

from taskyard.broker.declaring import Declaring
from taskyard.broker.deliveries import Batch, Claimed, Delivery
from taskyard.broker.qos import Message, QoS, Raw, delivery_of

Callback = Callable[[Raw], Any]

#: The property that says which publish this is. It is not sent: who publishes a message that was
#: received publishes another.
_IDENTITY = "taskyard_identity"


class Channel(Declaring):
    """A channel whose messages are leased and whose bindings are in MongoDB."""

    Message = Message
    QoS = QoS
    # A body may be bytes (msgpack, compression), and the envelope around it is JSON.
    body_encoding = "base64"

    def __init__(self, connection: Any, **options: Any) -> None:
        #: By queue and consumer tag. Kombu keeps one callback for a queue of a connection, so that
        #: of two channels one would be handed what was claimed for the other.
        self._callbacks: dict[str, dict[str, Callback]] = {}
        super().__init__(connection, **options)

    # --- publishing

    def prepare_message(self, *args: Any, **options: Any) -> Raw:
        """The message. Kombu prepares it again for each retry, over the same properties."""
        message: Raw = super().prepare_message(*args, **options)
        message["properties"].setdefault(_IDENTITY, ObjectId())
        return message

    def basic_publish(self, message: Raw, exchange: str, routing_key: str, **options: Any) -> Any:
        """Publish it. Its queues are looked up in the time that this may take."""
        with self.broker.messages.patience(message["properties"].get("delivery_mode")):
            return super().basic_publish(message, exchange, routing_key, **options)

    def _put(self, queue: str, message: Raw, **_: Any) -> None:
        properties = message["properties"]
        headers = message.get("headers") or {}
        # Celery's; in a message that is no task the same names may mean anything.
        task = headers if "task" in headers else {}
        identity = properties.get(_IDENTITY)
        sent = {name: value for name, value in properties.items() if name != _IDENTITY}
        self.broker.messages.publish(
            queue,
            dumps({**message, "properties": sent}),
            identity=None if identity is None else _copy(identity, queue),
            priority=self._get_message_priority(message),
            delay_ms=max(0, _until_ms(task.get("eta")) or 0),
            ttl_ms=self._ttl_ms(queue, properties, task),
            delivery_mode=properties.get("delivery_mode"),
        )

    def _put_fanout(self, exchange: str, message: Raw, _routing_key: str, **_: Any) -> None:
        """A copy for each queue: readers cannot overwrite what another has not read."""
        for _key, _pattern, queue in self.get_table(exchange):
            self._put(queue, message)

    def _ttl_ms(self, queue: str, properties: Raw, task: Raw) -> int | None:
        """The shortest of what message, task and queue allow."""
        own = properties.get("expiration")
        limits = [
            self.message_ttl_ms(queue),
            int(own) if own else None,
            _until_ms(task.get("expires")),
        ]
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
        self.keep(queue)
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
            del self._callbacks[queue]
            self.let_go(queue)
        if not self._consumers:
            self.qos.loosen()
        if self.connection is not None:
            self.connection.consumers_changed()

    def basic_qos(self, *args: Any, **options: Any) -> None:
        """Set how many messages it may be given: more when the pool of a worker grows."""
        super().basic_qos(*args, **options)
        self.qos.make_use_of_room()

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

    def claim(self, queue: str, limit: int) -> Batch[Raw]:
        """Up to ``limit`` messages as kombu delivers them, leased."""
        claimed = self.broker.messages.claim(queue, limit, self.broker.lease_ms)
        self.broker.leases.hold([one.delivery for one in claimed])
        opened = (raw for one in claimed if (raw := self._opened(one)) is not None)
        return Batch(opened, more=claimed.more)

    def deliver(self, raw: Raw, queue: str) -> None:
        """Hand it to one of the queue's consumers here, in turn; without one it is released."""
        callbacks = self._callbacks.get(queue)
        if not callbacks:
            self.broker.leases.give_back(delivery_of(raw))
            return
        tag = next(iter(callbacks))
        callbacks[tag] = callback = callbacks.pop(tag)
        callback(raw)

    def _acknowledging(self, deliver: Callback) -> Callback:
        """For ``no_ack``: gone when it is delivered, not when it was claimed ahead of that."""

        def run(raw: Raw) -> None:
            self.broker.leases.acknowledge(delivery_of(raw))
            deliver(raw)

        return run

    def _get(self, queue: str, timeout: float | None = None) -> Raw:  # noqa: ARG002 - kombu's signature
        self._gather(queue)
        claimed = self.claim(queue, 1)
        # After a claim whose answer was lost it may be all of that.
        for raw in claimed[1:]:
            self.broker.leases.give_back(delivery_of(raw))
            self.qos.put_back = True
        if not claimed:
            raise Empty
        return claimed[0]

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
            if not isinstance(raw.get("headers"), dict | None):
                raise TypeError("its headers are no mapping")
            # Here and not when it is delivered: there an error would end the consumer.
            encoding = properties.pop("body_encoding", None)
            if raw.get("body"):
                raw["body"] = self.decode_body(raw["body"], encoding)
        except Exception as error:
            self.broker.leases.bury(claimed.delivery, f"is no message: {error!r}")
            return None
        return raw

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
