"""Delivered messages and the answers to them: acknowledgement, release or burial."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kombu.transport import virtual

from taskyard.broker.deliveries import Delivery

if TYPE_CHECKING:
    from taskyard.broker.channel import Channel
    from taskyard.broker.leases import Leases


Raw = dict[str, Any]


def delivery_of(raw: Raw) -> Delivery:
    """Return the delivery that an envelope's tag names."""
    return Delivery.of(raw["properties"]["delivery_tag"])


class Message(virtual.Message):
    """A message that tells its channel when it cannot be decoded."""

    def decode(self) -> Any:
        """Return the decoded body. An undecodable message is buried when it is acknowledged."""
        try:
            return super().decode()
        except Exception as error:
            # Its ``repr`` would hold the whole body.
            reason = f"cannot be decoded: {type(error).__name__}: {error}"
            self.channel.qos.note_undecodable(self.delivery_tag, reason)
            raise


class QoS(virtual.QoS):
    """Answers for deliveries: each acknowledgement, release and burial names its lease."""

    def __init__(self, channel: Channel, prefetch_count: int = 0) -> None:
        super().__init__(channel, prefetch_count)
        #: Why messages cannot be decoded, by delivery tag.
        self.undecodable: dict[str, str] = {}
        #: How many messages were answered; their pace decides how many are claimed.
        self.answers = 0
        #: Whether messages were put back that may not be written yet.
        self.put_back = False

    @property
    def _leases(self) -> Leases:
        """This process's leases, also in a channel that was inherited through a fork."""
        leases: Leases = self.channel.broker.leases
        return leases

    def note_undecodable(self, delivery_tag: str, reason: str) -> None:
        """Remember why, until the message is answered; not with ``no_ack``: it may never be."""
        to_be_answered = delivery_tag in self._delivered and delivery_tag not in self._dirty
        if to_be_answered or self.channel.closed:
            self.undecodable[delivery_tag] = reason

    def ack(self, delivery_tag: str) -> None:
        """Have the message deleted, or buried if it could not be decoded."""
        delivery = Delivery.of(delivery_tag)
        reason = self.undecodable.pop(delivery_tag, None)
        if reason is None:
            self._leases.acknowledge(delivery)
        else:
            self._leases.bury(delivery, reason)
        self._answered(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Make the message claimable again if ``requeue``, else bury it."""
        delivery = Delivery.of(delivery_tag)
        reason = self.undecodable.pop(delivery_tag, "rejected")
        if requeue:
            self._leases.release(delivery)
            self.put_back = True
        else:
            self._leases.bury(delivery, reason)
        self._answered(delivery_tag)

    def restore_unacked(self) -> list[Any]:
        """Release all messages that were not answered."""
        self._flush()
        for tag in self._delivered:
            self._leases.release(Delivery.of(tag))
        self._delivered.clear()
        self.put_back = True
        return []

    def restore_unacked_once(self, stderr: Any = None) -> None:  # noqa: ARG002 - kombu's signature
        """The channel is gone: give back what no task runs; running tasks answer for theirs."""
        self._on_collect.cancel()
        self.loosen()
        self._delivered.clear()
        self._delivered.restored = True

    def loosen(self) -> None:
        """After the last consumer has gone: give back each message that nothing refers to any more.

        A worker that stops drops what it has not started long before it closes the channel:
        closing waits for running tasks.
        """
        self._flush()
        for tag, message in self._delivered.items():
            if message is not None:
                self._leases.give_back_when_forgotten(message, Delivery.of(tag))
                # The tag stays: until it is answered it takes a place of the prefetch.
                self._delivered[tag] = None

    def _answered(self, delivery_tag: str) -> None:
        if delivery_tag in self._delivered:
            # A message consumed with ``no_ack`` is not, and nothing would remove its tag again.
            self._quick_ack(delivery_tag)
        self.answers += 1
        self.make_use_of_room()

    def make_use_of_room(self) -> None:
        """Wake the loop when there may be more room: nothing else may wake it."""
        if self.channel.connection is not None and self.channel.connection.intake.pending:
            self.channel.connection.inbox.ring()
