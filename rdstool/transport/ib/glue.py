"""Joins engine and provider: the provider's events become the engine's inputs, its work becomes posts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from rdstool.errors import RdsError, TransportError
from rdstool.protocol import events
from rdstool.protocol.ib.header import FRAME_BYTES
from rdstool.protocol.ib.link import IbLink
from rdstool.protocol.ib.port import REJECT_DATA
from rdstool.protocol.ib.private import service_id
from rdstool.protocol.ib.work import CompareSwapWork, FetchAddWork, Read, Send, Work, Write
from rdstool.protocol.info import SERVICE_LEVELS
from rdstool.protocol.link import BaseLink
from rdstool.protocol.node import Node
from rdstool.transport.base import Wanted
from rdstool.transport.ib import provider as verbs

_RECEIVE, _SUCCESS = verbs.Operation.RECEIVE, verbs.Status.SUCCESS


class Glue:
    """All reliable connections of one node. Who has a loop, or a simulated one, calls it."""

    def __init__(self, engine: Node, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._clock = clock
        self.providers: dict[str, verbs.Provider] = {}
        """Providers by local address."""
        self.links: dict[verbs.Connection, IbLink] = {}
        self.stirred: dict[str, None] = {}
        """Addresses whose provider has something to do."""

    def add(self, address: str, provider: verbs.Provider) -> None:
        """Take connections for an address of the node."""
        self.providers[address] = provider
        provider.listen(service_id(address))
        self._engine.registrars[address] = provider

    # ---- What the engine wants

    def obey(self, wanted: Wanted) -> None:
        """Do what the engine asks for."""
        if isinstance(wanted, events.IbConnectWanted):
            self._connect(wanted)
        elif isinstance(wanted, events.AbortWanted):
            connection = wanted.link.handle
            if connection is not None:
                self._end(connection, wanted.link.owner.local)
            self._engine.connection_lost(wanted.link, "given up", self._clock())

    def _connect(self, wanted: events.IbConnectWanted) -> None:
        link = wanted.link
        try:
            provider = self.providers[wanted.local]
            options = replace(self._options(wanted.tos), path_mtu=provider.path_mtu(wanted.peer))
            connection = provider.connect(wanted.peer, service_id(wanted.peer), wanted.private_data, options)
            self._bind(link, connection)
        except TransportError as problem:
            self._engine.connect_failed(link, str(problem), self._clock())
        self.stirred[wanted.local] = None

    @staticmethod
    def _options(tos: int) -> verbs.ConnectionOptions:
        return verbs.ConnectionOptions(traffic_class=tos, service_level=tos & SERVICE_LEVELS)

    def _bind(self, link: IbLink, connection: verbs.Connection) -> None:
        link.handle = connection
        self.links[connection] = link
        self._post_receives(link, connection)

    def _post_receives(self, link: IbLink, connection: verbs.Connection) -> None:
        connection.post_receive(0, FRAME_BYTES, self._engine.ib.receives_to_post(link))

    def _end(self, connection: verbs.Connection, address: str) -> None:
        if self.links.pop(connection, None) is not None:
            connection.disconnect()
            self.stirred[address] = None

    # ---- Sending

    def flush(self, link: BaseLink) -> bool:
        """Post what the engine has for a link; the loop hands it on and takes what comes."""
        connection = link.handle
        if not isinstance(link, IbLink) or connection not in self.links:
            return True
        try:
            for work in self._engine.ib.work_to_post(link):
                if type(work) is Send:
                    number, frame, solicited, fence, signaled = work
                    connection.post_send(number, frame, solicited=solicited, fence=fence, signaled=signaled)
                else:
                    _post(connection, work)
        except TransportError:
            # It has ended, and its event is on the way.
            return True
        self.stirred[link.owner.local] = None
        return False

    def settle(self) -> None:
        """Let the providers that have something to do send and receive, and hand on what has happened."""
        stirred, self.stirred = self.stirred, {}
        for address in stirred:
            provider = self.providers.get(address)
            if provider is None:
                continue
            now = self._clock()
            frames: dict[verbs.Connection, list[bytes]] = {}
            for event in provider.process(now):
                if type(event) is not verbs.Completed:
                    self._deliver(frames, now)
                    self._handle(address, event, now)
                elif event[2] is _RECEIVE:
                    if event[3] is _SUCCESS:
                        frames.setdefault(event[0], []).append(event[4])
                else:
                    self._completed(event, now)
            self._deliver(frames, now)

    def _deliver(self, received: dict[verbs.Connection, list[bytes]], now: float) -> None:
        """Hand on what SENDs have brought, and post receives in their place."""
        for connection, frames in received.items():
            link = self.links.get(connection)
            if link is not None:
                self._engine.ib.frames_received(link, frames, now)
                self._post_receives(link, connection)
        received.clear()

    def _completed(self, event: verbs.Completed, now: float) -> None:
        connection, wr_id, _, status, _, original, _ = event
        link = self.links.get(connection)
        if link is not None:
            self._engine.ib.work_completed(link, wr_id, status, now, original)

    def _handle(self, address: str, event: verbs.Event, now: float) -> None:
        engine = self._engine
        connection = event.connection
        if isinstance(event, verbs.ConnectRequested):
            self._requested(address, event, now)
            return
        link = self.links.get(connection)
        if link is None:
            return
        match event:
            case verbs.Established():
                engine.ib.established(link, event.private_data, now)
            case verbs.Refused():
                del self.links[connection]
                engine.ib.refused(link, event.private_data, now)
            case verbs.ConnectFailed(detail=detail):
                del self.links[connection]
                engine.connect_failed(link, detail, now)
            case verbs.Disconnected():
                del self.links[connection]
                engine.connection_lost(link, "ended by the peer", now)
            case verbs.Broken(detail=detail):
                self._end(connection, address)
                engine.connection_lost(link, detail, now)

    def _requested(self, address: str, event: verbs.ConnectRequested, now: float) -> None:
        connection, port = event.connection, self._engine.ib
        self.stirred[address] = None
        link = port.requested(address, connection.peer, event.private_data, now)
        try:
            if link is None:
                connection.reject(REJECT_DATA)
                return
            self._bind(link, connection)
            connection.accept(port.reply(link), self._options(link.owner.tos))
        except RdsError as problem:
            # The peer has given up meanwhile, or it is too much for the provider.
            if link is not None:
                self._end(connection, address)
                self._engine.connection_lost(link, str(problem), now)

    def end_all(self) -> None:
        """Disconnect what is still open; the engine is not told."""
        for connection in list(self.links):
            connection.disconnect()
        self.links.clear()


def _post(connection: verbs.Connection, work: Work) -> None:
    match work:
        case Write():
            connection.post_write(work.id, work.data, work.address, work.rkey, fence=work.fence)
        case Read(into=region):
            into = verbs.Segment(region.address, region.length, region.lkey)
            connection.post_read(work.id, into, work.address, work.rkey, fence=work.fence)
        case CompareSwapWork():
            connection.post_compare_swap(work.id, work.address, work.rkey, work.compare, work.swap, fence=work.fence)
        case FetchAddWork():
            connection.post_fetch_add(work.id, work.address, work.rkey, work.add, fence=work.fence)
