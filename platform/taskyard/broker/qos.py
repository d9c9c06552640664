"""Messages that were delivered, and the answers that they get."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kombu.transport import virtual

from taskyard.broker.deliveries import Delivery

if TYPE_CHECKING:
    from taskyard.broker.channel import Channel
    from taskyard.broker.leases import Leases


Raw = dict[str, Any]


def delivery_of(raw: Raw) -> Delivery:
    """The delivery that an envelope stands for."""
    return Delivery.of(raw["properties"]["delivery_tag"])


class Message(virtual.Message):
    """A message that tells its channel when it cannot be decoded."""

    def decode(self) -> Any:
        """The decoded body. An undecodable one becomes a dead letter when it is acknowledged."""
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
        #: Why, by delivery tag.
        self.undecodable: dict[str, str] = {}
        #: How many messages were answered; their pace is what claims go by.
        self.answers = 0
        #: Whether something was put back that may not be written yet.
        self.put_back = False

    @property
    def _leases(self) -> Leases:
        """This process's own, also for a channel that came through a fork."""
        leases: Leases = self.channel.broker.leases
        return leases

    def note_undecodable(self, delivery_tag: str, reason: str) -> None:
        """Remember why, until it is answered; who consumes with ``no_ack`` never does."""
        to_be_answered = delivery_tag in self._delivered and delivery_tag not in self._dirty
        if to_be_answered or self.channel.closed:
            self.undecodable[delivery_tag] = reason

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
        if delivery_tag in self._delivered:
            # What was consumed with ``no_ack`` is not, and nobody would take its tag away again.
            self._quick_ack(delivery_tag)
        self.answers += 1
        self.make_use_of_room()

    def make_use_of_room(self) -> None:
        """There is room again or more than before: the loop may wait for nothing else."""
        if self.channel.connection is not None and self.channel.connection.intake.pending:
            self.channel.connection.inbox.ring()
