"""Carries links of the engine over InfiniBand, whichever provider there is: events to inputs, work to posts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from rdstool.errors import TransportError
from rdstool.protocol import events
from rdstool.protocol.ib.header import FRAME_BYTES
from rdstool.protocol.ib.link import IbLink
from rdstool.protocol.ib.memory import Access, Memory, Region
from rdstool.protocol.ib.port import REJECT_DATA
from rdstool.protocol.ib.private import service_id
from rdstool.protocol.ib.work import CompareSwapWork, FetchAddWork, Read, Send, Work, Write
from rdstool.protocol.link import BaseLink
from rdstool.transport.base import Tap, Wanted
from rdstool.transport.driver import Driver
from rdstool.transport.ib import provider as verbs

MakeProvider = Callable[[str], verbs.Provider]
"""InfiniBand at a local address. Raises ``TransportError``."""

PATH_MTU = 4096
SERVICE_LEVELS = 0xF
"""Bits of the type of service that make the service level (§7.7)."""


class _Memory:
    """One provider's memory, as the engine asks for it."""

    def __init__(self, provider: verbs.Provider) -> None:
        self._provider = provider

    def register(self, memory: Memory, access: Access) -> Region:
        """Make memory known."""
        return self._provider.register(memory, verbs.Access(int(access)))

    def deregister(self, region: Region) -> None:
        """Its keys are void."""
        self._provider.deregister(region)  # type: ignore[arg-type]  # regions come from this provider alone


class IbTransport:
    """All reliable connections of one node: a provider for each of its addresses."""

    def __init__(self, driver: Driver, make: MakeProvider) -> None:
        self._driver = driver
        self._loop = driver.loop
        self._engine = driver.engine
        self._make = make
        self._providers: dict[str, verbs.Provider] = {}
        self._links: dict[verbs.Connection, IbLink] = {}
        self._stirred: dict[str, None] = {}
        """Addresses whose provider has something to do."""
        self._timer: asyncio.TimerHandle | None = None
        self._tap: verbs.Tap | None = None

    # ---- What the engine wants

    def listen(self, address: str) -> None:
        """Take connections for an address of the node. Raises ``TransportError``."""
        provider = self._make(address)
        self._providers[address] = provider
        provider.set_tap(self._tap)
        provider.listen(service_id(address))
        self._engine.registrars[address] = _Memory(provider)
        for fileno in provider.filenos():
            self._loop.add_reader(fileno, partial(self._readable, address))

    def obey(self, wanted: Wanted) -> None:
        """Do what the engine asks for."""
        if isinstance(wanted, events.IbConnectWanted):
            self._connect(wanted)
        elif isinstance(wanted, events.AbortWanted):
            connection = wanted.link.handle
            if connection is not None:
                self._end(connection, wanted.link.owner.local)
            self._engine.connection_lost(wanted.link, "given up", self._driver.now())

    def _connect(self, wanted: events.IbConnectWanted) -> None:
        link = wanted.link
        try:
            connection = self._providers[wanted.local].connect(
                wanted.peer, service_id(wanted.peer), wanted.private_data, self._options(wanted.tos)
            )
            self._bind(link, connection)
        except TransportError as problem:
            self._engine.connect_failed(link, str(problem), self._driver.now())
        self._stirred[wanted.local] = None

    @staticmethod
    def _options(tos: int) -> verbs.ConnectionOptions:
        return verbs.ConnectionOptions(path_mtu=PATH_MTU, traffic_class=tos, service_level=tos & SERVICE_LEVELS)

    def _bind(self, link: IbLink, connection: verbs.Connection) -> None:
        link.handle = connection
        self._links[connection] = link
        self._post_receives(link, connection)

    def _post_receives(self, link: IbLink, connection: verbs.Connection) -> None:
        for _ in range(self._engine.ib.receives_to_post(link)):
            connection.post_receive(0, FRAME_BYTES)

    def _end(self, connection: verbs.Connection, address: str) -> None:
        if self._links.pop(connection, None) is not None:
            connection.disconnect()
            self._stirred[address] = None

    # ---- Sending

    def flush(self, link: BaseLink) -> bool:
        """Post what the engine has for a link; the loop hands it on and takes what comes."""
        connection = link.handle
        if not isinstance(link, IbLink) or connection not in self._links:
            return True
        try:
            for work in self._engine.ib.work_to_post(link):
                _post(connection, work)
        except TransportError:
            # It has ended, and its event is on the way.
            return True
        self._stirred[link.owner.local] = None
        return False

    def settle(self) -> None:
        """Let the providers send and receive, and hand on what has happened."""
        stirred, self._stirred = self._stirred, {}
        for address in stirred:
            provider = self._providers.get(address)
            if provider is None:
                continue
            filled: dict[verbs.Connection, IbLink] = {}
            for event in provider.process(self._driver.now()):
                self._handle(address, event, filled)
            for connection, link in filled.items():
                if connection in self._links:
                    self._post_receives(link, connection)
        if self._stirred:
            self._loop.call_soon(self._go_on)
        self._arm()

    def _handle(self, address: str, event: verbs.Event, filled: dict[verbs.Connection, IbLink]) -> None:
        engine, now = self._engine, self._driver.now()
        connection = event.connection
        if isinstance(event, verbs.ConnectRequested):
            self._requested(address, event, now)
            return
        link = self._links.get(connection)
        if link is None:
            return
        match event:
            case verbs.Completed(operation=verbs.Operation.RECEIVE):
                if event.status is verbs.Status.SUCCESS:
                    filled[connection] = link
                    engine.ib.frame_received(link, event.data, now)
            case verbs.Completed():
                engine.ib.work_completed(link, event.wr_id, event.status, now, event.original)
            case verbs.Established():
                engine.ib.established(link, event.private_data, now)
            case verbs.Refused():
                del self._links[connection]
                engine.ib.refused(link, event.private_data, now)
            case verbs.ConnectFailed(detail=detail):
                del self._links[connection]
                engine.connect_failed(link, detail, now)
            case verbs.Disconnected():
                del self._links[connection]
                engine.connection_lost(link, "ended by the peer", now)
            case verbs.Broken(detail=detail):
                self._end(connection, address)
                engine.connection_lost(link, detail, now)

    def _requested(self, address: str, event: verbs.ConnectRequested, now: float) -> None:
        connection, port = event.connection, self._engine.ib
        self._stirred[address] = None
        link = port.requested(address, connection.peer, event.private_data, now)
        if link is None:
            connection.reject(REJECT_DATA)
            return
        self._bind(link, connection)
        connection.accept(port.reply(link), self._options(link.owner.tos))

    # ---- The loop

    def _go_on(self) -> None:
        with self._driver.lock:
            if self._stirred:
                self._driver.act()

    def _readable(self, address: str) -> None:
        with self._driver.lock:
            self._stirred[address] = None
            self._driver.act()

    def _arm(self) -> None:
        due = min((when for each in self._providers.values() if (when := each.next_timer()) is not None), default=None)
        if self._timer is not None:
            if due is not None and self._timer.when() <= due and not self._timer.cancelled():
                return
            self._timer.cancel()
            self._timer = None
        if due is not None:
            self._timer = self._loop.call_at(due, self._timer_fired)

    def _timer_fired(self) -> None:
        with self._driver.lock:
            self._timer = None
            self._stirred.update(dict.fromkeys(self._providers))
            self._driver.act()

    def check_acks(self) -> None:
        """Acknowledgements come by themselves."""

    def set_tap(self, tap: Tap | None) -> None:
        """Tell this tap of each packet from now on, or none."""
        self._tap = None if tap is None else lambda _now, frame: tap.packet(frame)
        for provider in self._providers.values():
            provider.set_tap(self._tap)

    def open_links(self) -> int:
        """Connections that are open or being made."""
        return len(self._links)

    def close(self) -> None:
        """Disconnect what is still open, and let go of the providers."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for connection in list(self._links):
            connection.disconnect()
        self._links.clear()
        for provider in self._providers.values():
            provider.process(self._driver.now())
            for fileno in provider.filenos():
                self._loop.remove_reader(fileno)
            provider.close()
        self._providers.clear()
        self._stirred.clear()


def _post(connection: verbs.Connection, work: Work) -> None:
    match work:
        case Send():
            connection.post_send(work.id, work.frame, solicited=work.solicited, fence=work.fence)
        case Write():
            connection.post_write(work.id, work.data, work.address, work.rkey, fence=work.fence)
        case Read(into=region):
            into = verbs.Segment(region.address, region.length, region.lkey)
            connection.post_read(work.id, into, work.address, work.rkey, fence=work.fence)
        case CompareSwapWork():
            connection.post_compare_swap(work.id, work.address, work.rkey, work.compare, work.swap, fence=work.fence)
        case FetchAddWork():
            connection.post_fetch_add(work.id, work.address, work.rkey, work.add, fence=work.fence)
