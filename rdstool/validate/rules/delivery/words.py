"""How findings about messages are worded: each names the message, its sendings and what is known of them."""

from __future__ import annotations

from rdstool.capture.streams import StreamTable
from rdstool.protocol.receive_rule import Expected, Verdict
from rdstool.validate.rules.delivery.journal import Sent


class Words:
    """Words for the messages of a capture's streams."""

    def __init__(self, streams: StreamTable) -> None:
        self._streams = streams

    def ends(self, flow: int) -> str:
        """Such as ``10.0.0.1 > 10.0.0.2``."""
        source, destination = self._streams[flow >> 1].ends(flow & 1)
        return f"{source.host} > {destination.host}"

    def name(self, sent: Sent) -> str:
        """Which message it is."""
        ports = f"port {sent.sport} to {sent.dport}"
        return f"{self.ends(sent.flow)} sequence {sent.sequence}, {ports}, {sent.length} bytes"

    def seen(self, sent: Sent) -> str:
        """Where one sending stands."""
        stream = self._streams[sent.flow >> 1]
        path = f", path {stream.path}" if stream.path >= 0 else ""
        return f"in frame {sent.frame} on stream {stream.number}{path}"

    def told(self, sent: Sent) -> str:
        """The message, where it was sent, and whether that was acknowledged."""
        return f"{self.name(sent)}: sent {self.seen(sent)} (message {sent.number}), {acknowledged(sent)}"

    def fate(self, sent: Sent, verdict: Verdict, expected: Expected, *, known: bool) -> str:
        """What the receiver does with one sending. ``known``: what it expects is."""
        text = f"{self.seen(sent)} {flagged(sent)}, {acknowledged(sent)}"
        if not known:
            return text
        wants = f"{expected.low}" if expected.low == expected.high else f"{expected.low} to {expected.high}"
        return f"{text}: the receiver's path expects {wants}, so it is {verdict.value}"


def acknowledged(sent: Sent) -> str:
    """Which frame acknowledged it, if any."""
    return f"acknowledged in frame {sent.acked}" if sent.acked else "not acknowledged"


def flagged(sent: Sent) -> str:
    """Whether it carries RETRANSMITTED."""
    return "flagged" if sent.flagged else "not flagged"
