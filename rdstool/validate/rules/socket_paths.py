"""RDS-MPR: which path a socket's messages take."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rdstool.capture.columns import Ints
from rdstool.capture.gather import distinct
from rdstool.capture.streams import Stream, address_text
from rdstool.protocol.kinds import MessageKind
from rdstool.protocol.pathhash import path_of_port
from rdstool.validate.check import Batch, Check, Context
from rdstool.validate.rules.multipath_rules import HASH, ONE_PATH
from rdstool.validate.view import Mask, first_of_each

MAX_USES = 1 << 18
"""RDS sockets that are remembered, counted for each stream that they send on."""
SURE = 0.9
"""Confidence from which on a path is taken as known."""
PORT_RULE = "TCP source port"
"""Words of ``path_basis`` where the path does not come from the hash that is to be checked."""
_PORT_BITS = 16


class _Use(NamedTuple):
    """The first message that a socket sent on a flow."""

    flow: int
    port: int
    frame: int
    time: int
    number: int


_USE = np.dtype([(name, np.int64) for name in _Use._fields])


class SocketPathCheck(Check):
    """Remembers on which streams each socket sends, and concludes once the paths of all streams are known."""

    rules = (ONE_PATH, HASH)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._known: set[int] = set()
        self._uses = array("q")
        """The fields of one ``_USE`` after the other."""

    def feed(self, batch: Batch) -> None:
        """Take a batch."""
        view = batch.view
        data = np.flatnonzero((view.kind == MessageKind.DATA) & view.tcp & ~view.flagged & view.numbered)
        for key, row in first_of_each(view.flow[data] << _PORT_BITS | view.sport[data], data):
            if key in self._known:
                continue
            if len(self._known) >= MAX_USES:
                return
            self._known.add(key)
            at = int(view.frame[row]), int(view.time[row]), int(view.number[row])
            self._uses.extend((key >> _PORT_BITS, int(view.sport[row]), *at))

    def finish(self) -> None:
        """All sockets at once, as there can be a great many."""
        uses = np.frombuffer(self._uses, _USE)
        if not len(uses):
            return
        flows, place = np.unique(uses["flow"], return_inverse=True)
        sender = self._senders(flows)[place]
        _, first, socket = np.unique(sender << _PORT_BITS | uses["port"], return_index=True, return_inverse=True)
        if self.report.wants(ONE_PATH):
            self._moved(uses, socket)
        if self.report.wants(HASH):
            self._strays(uses, self._astray(uses, flows, place), first[socket], sender)

    def _senders(self, flows: Ints) -> Ints:
        """A number for who sends on each flow: the same one for all flows from one address to another."""
        numbers: dict[tuple[int, bytes], int] = {}
        senders = ((self._stream(flow).pair, self._source(flow)) for flow in flows.tolist())
        return np.array([numbers.setdefault(sender, len(numbers)) for sender in senders], np.int64)

    def _stream(self, flow: int) -> Stream:
        return self.context.streams[flow >> 1]

    def _source(self, flow: int) -> bytes:
        source, _ = self._stream(flow).ends(flow & 1)
        return source.address

    def _astray(self, uses: NDArray[np.void], flows: Ints, place: Ints) -> NDArray[np.intp]:
        """Uses of a path that the hash does not lead to, where both the path and the count of paths are known."""
        path = np.zeros(len(flows), np.int64)
        npaths = np.ones(len(flows), np.int64)
        for index, flow in enumerate(flows.tolist()):
            stream = self._stream(flow)
            if stream.path > 0 and stream.path_confidence >= SURE and stream.path_basis.startswith(PORT_RULE):
                path[index], npaths[index] = stream.path, self.context.path_counts.agreed(stream)
        at = np.flatnonzero(npaths[place] > 1)
        port, path, npaths = uses["port"][at], path[place[at]], npaths[place[at]]
        swapped = (port & 0xFF) << 8 | port >> 8
        strange: Mask = (path != _hashed(port, npaths)) & (path != _hashed(swapped, npaths))
        return at[strange]

    def _strays(self, uses: NDArray[np.void], astray: NDArray[np.intp], first: Ints, sender: Ints) -> None:
        """Report one use of each socket but the sender's first socket. ``first`` is the first use of a use's socket."""
        left_out: set[int] = set()
        for _, row in first_of_each(first[astray], astray):
            # The first socket after the kernel's module was loaded hashes with a number of its own.
            if int(sender[row]) not in left_out:
                left_out.add(int(sender[row]))
                continue
            use = _Use(*uses[row].item())
            stream = self._stream(use.flow)
            npaths = self.context.path_counts.agreed(stream)
            text = f"{address_text(self._source(use.flow))} sends from port {use.port} on path {stream.path}, "
            text += "the hash says "
            text += str(path_of_port(use.port, npaths))
            self.report.at(HASH, text, use.frame, use.time, stream=use.flow >> 1, number=use.number)

    def _moved(self, uses: NDArray[np.void], socket: Ints) -> None:
        """From a stream that is not the pair's first to another, while it lived on."""
        connections = self.context.connections
        # What moved where connections were made again is told by RDS-DLV.
        again = {pair for pair in connections.shared if connections.made_again(pair)}
        for old, new in _successive(uses, socket):
            pair = self._stream(new.flow).pair
            if pair in again:
                continue
            whole = all(self.context.continuity.whole(use.flow) for use in (old, new))
            ended = connections.closed.get(old.flow >> 1)
            lived = connections.last_frame.one(old.flow) > new.frame and (ended is None or ended.frame > new.frame)
            paths = [self._stream(use.flow).path for use in (old, new)]
            first = connections.of_pair(pair)[0]
            if paths[0] > 0 and paths[1] != 0 and old.flow >> 1 != first and lived and whole:
                self.report.at(
                    ONE_PATH,
                    f"{address_text(self._source(new.flow))} port {new.port} sends here, and on stream "
                    f"{old.flow >> 1} before (from frame {old.frame} on), which is still in use",
                    new.frame,
                    new.time,
                    stream=new.flow >> 1,
                    number=new.number,
                )


def _successive(uses: NDArray[np.void], socket: Ints) -> Iterator[tuple[_Use, _Use]]:
    """One use after the other of each socket that has several."""
    order = np.lexsort((uses["number"], uses["time"], uses["frame"], socket))
    same = socket[order[1:]] == socket[order[:-1]]
    for old, new in zip(order[:-1][same], order[1:][same], strict=True):
        yield _Use(*uses[old].item()), _Use(*uses[new].item())


def _hashed(port: Ints, npaths: Ints) -> Ints:
    """The path of messages from each port."""
    # There are far fewer ports than uses.
    key = port << 4 | npaths
    keys = distinct(key)
    paths = np.array([path_of_port(one >> 4, one & 0xF) for one in keys.tolist()], np.int64)
    return paths[np.searchsorted(keys, key)]
