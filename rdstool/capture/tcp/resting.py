"""The connections of a capture by their ends. Most are at rest between two chunks, and there can be a great many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from struct import Struct

from rdstool.capture.streams import Stream, StreamTable
from rdstool.capture.tcp.connection import Connection
from rdstool.capture.tcp.group import Key
from rdstool.capture.tcp.half import Half

FEW = 1024
"""So many connections are kept as objects, at rest or not."""
_CONNECTION = Struct("<i??")
"""Number of the stream, ``flipped``, ``reset``."""
_HALF = Struct("<6qQ?")
"""The fields of ``Half`` that are not as at first when it is at rest."""
_BASE_NOT_KNOWN = -1


class Connections:
    """As a dictionary. What is at rest is kept as bytes, which take a fourth of the memory of objects."""

    def __init__(self, streams: StreamTable) -> None:
        self._streams = streams
        self._all: dict[Key, Connection | bytes] = {}

    def get(self, key: Key) -> Connection | None:
        """The connection between these ends."""
        found = self._all.get(key)
        if isinstance(found, bytes):
            found = self._all[key] = self._woken(found)
        return found

    def __getitem__(self, key: Key) -> Connection:
        found = self.get(key)
        if found is None:
            raise KeyError(key)
        return found

    def __setitem__(self, key: Key, connection: Connection) -> None:
        self._all[key] = connection

    def __delitem__(self, key: Key) -> None:
        del self._all[key]

    def rest(self, keys: Sequence[Key]) -> None:
        """Keep as bytes what is at rest of these; they may be known or not."""
        if len(self._all) <= FEW:
            return
        for key in keys:
            connection = self._all.get(key)
            if isinstance(connection, Connection) and all(half.at_rest for half in connection.halves):
                self._all[key] = _bytes_of(connection)

    def leave(self) -> Iterator[Connection]:
        """All connections, in the order in which their ends were met first. None is kept."""
        for one in self._all.values():
            yield self._woken(one) if isinstance(one, bytes) else one
        self._all.clear()

    def _woken(self, state: bytes) -> Connection:
        number, flipped, reset = _CONNECTION.unpack_from(state)
        stream = self._streams[number]
        halves = (_half(stream, 0, state), _half(stream, 1, state))
        return Connection(stream, flipped, halves, reset)


def _bytes_of(connection: Connection) -> bytes:
    state = _CONNECTION.pack(connection.stream.number, connection.flipped, connection.reset)
    for half in connection.halves:
        base = _BASE_NOT_KNOWN if half.base is None else half.base
        state += _HALF.pack(
            base, half.next, half.done, half.done_time, half.acked, half.boundary, half.last_sequence, half.ended
        )
    return state


def _half(stream: Stream, direction: int, state: bytes) -> Half:
    base, behind, done, time, acked, boundary, last_sequence, ended = _HALF.unpack_from(
        state, _CONNECTION.size + direction * _HALF.size
    )
    return Half(
        direction,
        stream.coverage[direction],
        base=None if base == _BASE_NOT_KNOWN else base,
        next=behind,
        done=done,
        done_time=time,
        acked=acked,
        boundary=boundary,
        last_sequence=last_sequence,
        ended=ended,
    )
