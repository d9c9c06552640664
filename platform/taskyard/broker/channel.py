"""A kombu channel over leased messages."""

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

#: The property that identifies a publish, so that its retries are one message. It is not sent: a
#: consumer that publishes a received message again makes a new publish.
_IDENTITY = "taskyard_identity"


class Channel(Declaring):
    """A channel whose messages are leased and whose bindings are in MongoDB."""

    Message = Message
    QoS = QoS
    # A body may be bytes (msgpack, compression), and the envelope around it is JSON.
    body_encoding = "base64"

    def __init__(self, connection: Any, **options: Any) -> None:
        #: By queue and consumer tag. Kombu keeps one callback per queue and connection, so one of
        #: two channels would be handed messages that were claimed for the other.
        self._callbacks: dict[str, dict[str, Callback]] = {}
        super().__init__(connection, **options)

    # --- publishing

    def prepare_message(self, *args: Any, **options: Any) -> Raw:
        """Return the message with its publish's identity, which stays the same for all retries:
        kombu prepares the message again for each, from the same properties.
        """
        message: Raw = super().prepare_message(*args, **options)
        message["properties"].setdefault(_IDENTITY, ObjectId())
        return message

    def basic_publish(self, message: Raw, exchange: str, routing_key: str, **options: Any) -> Any:
        """Publish the message. Looking up its queues counts towards the publish's time limit."""
        with self.broker.messages.patience(message["properties"].get("delivery_mode")):
            return super().basic_publish(message, exchange, routing_key, **options)

    def _put(self, queue: str, message: Raw, **_: Any) -> None:
        properties = message["properties"]
        headers = message.get("headers") or {}
        # Celery's headers; in a message that is no task the same names may mean anything.
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
        """Put a copy into each bound queue, so that a slow reader loses nothing."""
        for _key, _pattern, queue in self.get_table(exchange):
            self._put(queue, message)

    def _ttl_ms(self, queue: str, properties: Raw, task: Raw) -> int | None:
        """Return the shortest time to live that message, task and queue allow, or None."""
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
        """Consume from the queue, and keep it from expiring meanwhile."""
        super().basic_consume(queue, no_ack, callback, consumer_tag, **options)
        deliver = self.connection._callbacks[queue]
        self._callbacks.setdefault(queue, {})[consumer_tag] = (
            self._acknowledging(deliver) if no_ack else deliver
        )
        self.keep(queue)
        self._settle()
        self.connection.consumers_changed()

    def basic_cancel(self, consumer_tag: str) -> None:
        """Cancel the consumer with this tag."""
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
        """Set how many messages the channel may hold: more when the pool of a worker grows."""
        super().basic_qos(*args, **options)
        self.qos.make_use_of_room()

    def basic_get(self, queue: str, no_ack: bool = False, **_: Any) -> Any:
        """Return one message of the queue, or None if none is ready."""
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
        """Lease up to ``limit`` messages, and return them as kombu delivers them."""
        claimed = self.broker.messages.claim(queue, limit, self.broker.lease_ms)
        self.broker.leases.hold([one.delivery for one in claimed])
        opened = (raw for one in claimed if (raw := self._opened(one)) is not None)
        return Batch(opened, more=claimed.more)

    def deliver(self, raw: Raw, queue: str) -> None:
        """Hand the message to the queue's next consumer here; without one, give it back."""
        callbacks = self._callbacks.get(queue)
        if not callbacks:
            self.broker.leases.give_back(delivery_of(raw))
            return
        tag = next(iter(callbacks))
        callbacks[tag] = callback = callbacks.pop(tag)
        callback(raw)

    def _acknowledging(self, deliver: Callback) -> Callback:
        """Return the callback for ``no_ack``: it acknowledges a message when the message is
        delivered, not when it was claimed ahead of that.
        """

        def run(raw: Raw) -> None:
            self.broker.leases.acknowledge(delivery_of(raw))
            deliver(raw)

        return run

    def _get(self, queue: str, timeout: float | None = None) -> Raw:  # noqa: ARG002 - kombu's signature
        self._gather(queue)
        claimed = self.claim(queue, 1)
        # More than one when the claim reads back an earlier one whose answer was lost.
        for raw in claimed[1:]:
            self.broker.leases.give_back(delivery_of(raw))
            self.qos.put_back = True
        if not claimed:
            raise Empty
        return claimed[0]

    def _gather(self, queue: str) -> None:
        """Give back what was claimed here ahead of its delivery, and wait for that write."""
        if self.connection.intake.give_back([queue]):
            self.qos.put_back = True
        self._settle()

    def _settle(self) -> None:
        """Wait until what this channel put back is written: its next look must find it."""
        if self.qos.put_back:
            self.qos.put_back = False
            self.broker.leases.flush()

    def _opened(self, claimed: Claimed) -> Raw | None:
        """Return the envelope with its delivery tag, or None after burying what is no envelope."""
        try:
            raw: Raw = loads(claimed.payload)
            properties = raw["properties"]
            properties["delivery_tag"] = claimed.delivery.tag
            properties.setdefault("delivery_info", {})["redelivered"] = claimed.deliveries > 1
            if not isinstance(raw.get("headers"), dict | None):
                raise TypeError("its headers are no mapping")
            # Decoded here and not on delivery, where an error would end the consumer.
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
        """Release the message, where kombu would publish it again."""
        self.broker.leases.release(Delivery.of(message.delivery_tag))

    def close(self) -> None:
        """Cancel the consumers and close, even if MongoDB cannot be reached."""
        try:
            super().close()
        except PyMongoError:
            self.closed = True


def _copy(identity: ObjectId, queue: str) -> ObjectId:
    """Return the id of a publish's copy for this queue. It sorts as the publish's own id does."""
    at, process, count = identity.binary[:4], identity.binary[4:9], identity.binary[9:]
    return ObjectId(at + blake2b(queue.encode(), key=process, digest_size=5).digest() + count)


def _until_ms(instant: Any) -> int | None:
    """Return the milliseconds until the instant, or None if it cannot be read. The instant and
    "now" come from the same clock, the publisher's.
    """
    if not instant:
        return None
    try:
        at = datetime.fromisoformat(instant) if isinstance(instant, str) else instant
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
    except (ValueError, AttributeError):
        return None
    return round((at - datetime.now(UTC)).total_seconds() * 1000)
