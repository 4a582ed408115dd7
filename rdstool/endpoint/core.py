"""A running engine with its transport: what asyncio's node and the blocking sockets are both made of."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rdstool.endpoint.log import LOGGER, log
from rdstool.errors import TransportError
from rdstool.protocol import events
from rdstool.protocol.config import Settings
from rdstool.protocol.kinds import Transport
from rdstool.protocol.node import Node as Engine
from rdstool.protocol.profile import LINUX_7, Profile
from rdstool.transport.driver import Driver
from rdstool.transport.ib.choice import provider_named
from rdstool.transport.ib.names import ROCE
from rdstool.transport.ib.transport import IbTransport, MakeProvider
from rdstool.transport.loop import LoopNetwork, LoopTransport
from rdstool.transport.scopes import named
from rdstool.transport.tcp import queues
from rdstool.transport.tcp.sockets import MakeSocket
from rdstool.transport.tcp.transport import TcpTransport

if TYPE_CHECKING:
    from rdstool.endpoint.recorder import FrameTaker, Recorder, Recording

KEPT_BYTES = 16 << 20
"""Bytes of freed memory that are kept for the next messages, about."""
CLOSE_POLL_S = 0.005
"""Seconds between two looks whether the peers have closed their sides."""


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """How a node runs."""

    settings: Settings = Settings()  # noqa: RUF009
    """Sysctls, buffer sizes, limits."""
    profile: Profile = LINUX_7
    """The kernel generation that it behaves as."""
    transport: Transport = Transport.TCP
    """What carries RDS."""
    provider: str | MakeProvider = ROCE
    """InfiniBand at a local address, for the transport IB: ``roce`` is RoCE v2 in this process, over UDP; ``verbs``
    is a device of this machine, with pyverbs; or what makes a ``rdstool.transport.ib.provider.Provider``."""
    network: LoopNetwork | None = None
    """Reach only the nodes of this network, in this process; None for TCP."""
    pcap: Path | None = None
    """Write everything that is exchanged to this pcapng file."""
    control: bool = False
    """Show the node's state to ``rdstool info``, and its frames to Wireshark, for the same user (docs/control.md).
    Where the system has no place for the socket, the node runs without it."""
    make_socket: MakeSocket = socket.socket
    """Makes the TCP sockets; another one than the usual makes them in another network namespace."""


class Core:
    """A node that owns addresses, and runs until ``stop``. Made and stopped in its event loop."""

    def __init__(
        self,
        addresses: tuple[str, ...],
        options: NodeOptions,
        loop: asyncio.AbstractEventLoop,
        hear: Callable[[events.Event], None],
        *,
        threaded: bool = False,
    ) -> None:
        keep_memory()
        self._hear = hear
        self._recorder: Recorder | None = None
        self._recording: Recording | None = None
        self.ending = ExitStack()
        """What to close when the node stops, under the driver's lock."""
        self.engine = Engine(
            random=random.SystemRandom(),
            settings=options.settings,
            profile=options.profile,
            transport=options.transport,
            now=Driver.now(),
            name=named,
        )
        self.addresses = tuple(self.engine.add_address(each) for each in addresses)
        self.driver = driver = Driver(self.engine, loop, threaded=threaded)
        driver.hear = self._told
        if options.network is not None:
            driver.transport = LoopTransport(driver, options.network)
        elif options.transport is Transport.IB:
            driver.transport = IbTransport(driver, _provider(options))
        else:
            driver.transport = TcpTransport(driver, make_socket=options.make_socket)
            if not queues.TELLS_UNACKNOWLEDGED:
                LOGGER.warning(queues.LIMITATION)
        try:
            if options.pcap is not None:
                from rdstool.endpoint.recorder import Recording  # noqa: PLC0415

                self._recording = Recording(options.pcap)
                self.record(self._recording.frame)
            for address in self.addresses:
                driver.transport.listen(address)
        except BaseException:
            with suppress(TransportError):
                self.stop()
            raise

    # ---- Recording, under the driver's lock

    def record(self, taker: FrameTaker) -> None:
        """Hand each frame of the traffic to ``taker`` from now on, in whatever thread it comes up.

        Raises ``TransportError`` where no program sees frames.
        """
        if self._recorder is None:
            from rdstool.endpoint.recorder import Recorder  # noqa: PLC0415

            recorder = Recorder()
            self.driver.transport.set_tap(recorder)
            self._recorder = recorder
        self._recorder.takers.append(taker)

    def share_recording(self, other: Core) -> None:
        """Write the traffic of another node to this one's recording too, where there is one."""
        if self._recording is not None:
            with other.driver.lock:
                other.record(self._recording.frame)

    def record_no_more(self, taker: FrameTaker) -> None:
        """``taker`` gets no more frames. Does nothing where it gets none."""
        recorder = self._recorder
        if recorder is None or taker not in recorder.takers:
            return
        recorder.takers.remove(taker)
        if not recorder.takers:
            self._recorder = None
            self.driver.transport.set_tap(None)

    # ---- Events

    def _told(self, event: events.Event) -> None:
        log(event)
        self._hear(event)

    async def finish(self, grace_s: float) -> None:
        """Close all sockets and connections; wait ``grace_s`` seconds at most until the peers have done so too.

        Raises ``TransportError``, when all is done, where the recording is not complete.
        """
        driver = self.driver
        with driver.turn:
            self.engine.close(driver.now())
            driver.act()
        deadline = driver.now() + grace_s
        while driver.transport.open_links() and driver.now() < deadline:
            await asyncio.sleep(CLOSE_POLL_S)
        self.stop()

    def stop(self) -> None:
        """Give up everything at once. Raises as ``finish``."""
        with self.driver.turn:
            self.driver.stop()
            self.ending.close()
            recording, self._recording = self._recording, None
            if recording is not None:
                recording.close()


def _provider(options: NodeOptions) -> MakeProvider:
    wanted = options.provider
    return provider_named(wanted, options.make_socket) if isinstance(wanted, str) else wanted


def keep_memory() -> None:
    """Have the C library keep memory that is freed.

    Else each long message waits for fresh pages, which takes longer than copying it. glibc learns from the first large
    block that is freed (mallopt(3), M_MMAP_THRESHOLD); the pages of this one are never touched.
    """
    bytes(KEPT_BYTES)
