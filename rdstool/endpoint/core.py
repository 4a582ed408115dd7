"""A running engine with its transport: what asyncio's node and the blocking sockets are both made of."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rdstool.endpoint.log import LOGGER, log
from rdstool.protocol import events
from rdstool.protocol.config import Settings
from rdstool.protocol.node import Node as Engine
from rdstool.protocol.profile import LINUX_7, Profile
from rdstool.transport.driver import Driver
from rdstool.transport.loop import LoopNetwork, LoopTransport
from rdstool.transport.tcp import unacked
from rdstool.transport.tcp.transport import TcpTransport

if TYPE_CHECKING:
    from rdstool.endpoint.recorder import Recorder

CLOSE_POLL_S = 0.005
"""Between two looks at whether the peers have closed their sides."""


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """How a node runs."""

    settings: Settings = Settings()  # noqa: RUF009
    """Sysctls, buffer sizes, limits."""
    profile: Profile = LINUX_7
    """The kernel generation that it behaves as."""
    network: LoopNetwork | None = None
    """Reach only the nodes of this network, in this process; None for TCP."""
    pcap: Path | None = None
    """Write everything that is exchanged to this pcapng file."""


class Core:
    """Owns addresses, runs until ``stop``. Made and stopped in its event loop."""

    def __init__(
        self,
        addresses: tuple[str, ...],
        options: NodeOptions,
        loop: asyncio.AbstractEventLoop,
        hear: Callable[[events.Event], None],
        *,
        threaded: bool = False,
    ) -> None:
        self._hear = hear
        self.recorder: Recorder | None = None
        self.engine = Engine(
            random=random.SystemRandom(), settings=options.settings, profile=options.profile, now=Driver.now()
        )
        self.addresses = tuple(self.engine.add_address(each) for each in addresses)
        if options.pcap is not None:
            from rdstool.endpoint.recorder import Recorder  # noqa: PLC0415

            self.recorder = Recorder(options.pcap)
        self.driver = driver = Driver(self.engine, loop, threaded=threaded)
        driver.hear = self._told
        if options.network is not None:
            driver.transport = LoopTransport(driver, options.network, tap=self.recorder)
        else:
            driver.transport = TcpTransport(driver, tap=self.recorder)
            if not unacked.KNOWN:
                LOGGER.warning(unacked.LIMITATION)
        try:
            for address in self.addresses:
                driver.transport.listen(address)
        except BaseException:
            self.stop()
            raise

    def _told(self, event: events.Event) -> None:
        log(event)
        self._hear(event)

    async def finish(self, grace_s: float) -> None:
        """Close all sockets and connections; wait ``grace_s`` seconds at most until the peers have done so too."""
        driver = self.driver
        with driver.lock:
            self.engine.close(driver.now())
            driver.act()
        deadline = driver.now() + grace_s
        while driver.transport.open_links() and driver.now() < deadline:
            await asyncio.sleep(CLOSE_POLL_S)
        self.stop()

    def stop(self) -> None:
        """Give up everything at once."""
        with self.driver.lock:
            self.driver.stop()
            if self.recorder is not None:
                self.recorder.close()
                self.recorder = None
