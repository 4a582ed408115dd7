"""Which connections there are, by the numbers that messages name them with."""

from __future__ import annotations

from collections import OrderedDict
from random import Random

from rdstool.transport.ib.roce.connection import RoceConnection

MAX_CONNECTIONS = 4_096
"""Connections of a device, those that are being made or ended included."""
MAX_FORGOTTEN = 1_024
"""Ended connections that are remembered, so that a late REQ of theirs begins nothing."""
FORGET_AFTER_S = 10.0


class Directory:
    """Connections by our communication ID, by the peer's, and by the peer's queue pair."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._by_local: dict[int, RoceConnection] = {}
        self._by_remote: dict[tuple[str, int], RoceConnection] = {}
        self._by_queue_pair: dict[tuple[str, int], RoceConnection] = {}
        self._ended: OrderedDict[tuple[str, int], float] = OrderedDict()
        """(peer, its communication ID) -> until when it is remembered"""

    def __len__(self) -> int:
        return len(self._by_local)

    @property
    def full(self) -> bool:
        """There is no room for more."""
        return len(self) >= MAX_CONNECTIONS

    def add(self, connection: RoceConnection) -> None:
        """Give it a communication ID."""
        while not (local_id := self._random.getrandbits(32)) or local_id in self._by_local:
            pass
        connection.local_id = local_id
        self._by_local[local_id] = connection

    def learn_id(self, connection: RoceConnection, remote_id: int) -> None:
        """The peer has told its communication ID."""
        connection.remote_id = remote_id
        self._by_remote[connection.peer, remote_id] = connection

    def learn_queue_pair(self, connection: RoceConnection, number: int) -> None:
        """The peer has told its queue pair."""
        connection.remote_number = number
        self._by_queue_pair[connection.peer, number] = connection

    def ours(self, peer: str, local_id: int) -> RoceConnection | None:
        """The connection that a peer names by our communication ID."""
        connection = self._by_local.get(local_id)
        return connection if connection is not None and connection.peer == peer else None

    def theirs(self, peer: str, remote_id: int) -> RoceConnection | None:
        """The connection that a peer names by its own communication ID."""
        return self._by_remote.get((peer, remote_id))

    def with_queue_pair(self, peer: str, number: int) -> RoceConnection | None:
        """The connection with a peer's queue pair."""
        return self._by_queue_pair.get((peer, number))

    def has_ended(self, peer: str, remote_id: int, now: float) -> bool:
        """A connection with this ID of the peer's was ended not long ago."""
        until = self._ended.get((peer, remote_id))
        return until is not None and now < until

    def remove(self, connection: RoceConnection, now: float) -> None:
        """Forget a queue pair that has ended."""
        self._by_local.pop(connection.local_id, None)
        remote = (connection.peer, connection.remote_id)
        if self._by_remote.get(remote) is connection:
            del self._by_remote[remote]
            self._ended[remote] = now + FORGET_AFTER_S
            if len(self._ended) > MAX_FORGOTTEN:
                self._ended.popitem(last=False)
        pair = (connection.peer, connection.remote_number)
        if self._by_queue_pair.get(pair) is connection:
            del self._by_queue_pair[pair]
