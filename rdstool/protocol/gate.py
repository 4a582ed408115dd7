"""The gate before paths 1 to 7: closed from the fan-out until what path 0 carried before it has been read (§5.6).

A socket's messages go to path 0 while the number of paths is unknown, and to another path afterwards. So that they
stay in order, the other paths wait. The kernel's rule is to wait until the peer's TCP has acknowledged path 0's
messages. What the peer's program reads first is still up to chance then, all the more where a TCP connection waits
unread for its path; so here an ordinary ping follows these messages, and its pong opens the gate. (A probe would not
do: its pong does not tell which probe it answers.)
"""

from __future__ import annotations

from collections.abc import Container, Sequence

from dissectors.wire.rds import PING_PORT, PROBE_PORT
from rdstool.protocol.host import Host
from rdstool.protocol.lane import Lane
from rdstool.protocol.outgoing import Outgoing
from rdstool.protocol.timers import Timer

_HIGHEST_PORT = 65_535


class Gate:
    """One connection's gate. Open until ``close``."""

    __slots__ = ("_early", "_node", "_paths", "_ports", "_timer", "closed", "port", "spoken")

    def __init__(self, node: Host, paths: Sequence[Lane], ports: Container[int]) -> None:
        """``ports`` are those that sockets have: the ping comes from another one."""
        self._node = node
        self._paths = paths
        self._ports = ports
        self._early = 0
        self._timer: Timer | None = None
        self.closed = False
        """Paths other than 0 do not send messages of sockets."""
        self.port = 0
        """Port to which the pong comes that opens the gate; 0 where no ping is on its way."""
        self.spoken = False
        """Messages of sockets went to path 0 because the number of paths was not known."""

    def close(self) -> None:
        """Wait for the messages of path 0, where there are any."""
        for messages in self._paths[0].queues():
            for message in messages:
                if message.socket is not None and not message.early:
                    message.early, message.unnoticed = True, False
                    self._early += 1
        self.closed = self.spoken or self._early > 0
        if self.closed and not self._early:
            # TCP has taken all of them already; they may still be unread.
            self._ping()

    def one_left(self) -> None:
        """Take note that one of the messages is acknowledged or given up."""
        self._early -= 1
        if self.closed and not self._early:
            self._ping()

    def _ping(self) -> None:
        node, first = self._node, self._paths[0]
        self.port = next(port for port in range(_HIGHEST_PORT, PROBE_PORT, -1) if port not in self._ports)
        node.counters.send_queued += 1
        node.counters.send_pong += 1
        first.control.append(Outgoing(None, self.port, PING_PORT))
        first.wake()
        self.stop_waiting()
        self._timer = node.timers.at(node.now + node.settings.handshake_patience_s, lambda _now: self.open())

    def open(self) -> None:
        """Let the other paths send, unless there are new messages to wait for."""
        if self.closed and not self._early:
            self.forget()
            self.spoken = False
            for path in self._paths[1:]:
                path.wake()

    def forget(self) -> None:
        """The peer was restarted: the ping is void, and the next fan-out closes the gate anew."""
        self.closed = False
        self.port = 0
        self.stop_waiting()

    def stop_waiting(self) -> None:
        """No timer opens the gate."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
