"""Carries links of the engine over InfiniBand, in whichever thread looks after it, whichever provider there is."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from rdstool.errors import TransportError
from rdstool.transport.alarm import Alarm
from rdstool.transport.base import Tap
from rdstool.transport.driver import Driver
from rdstool.transport.ib import provider as verbs
from rdstool.transport.ib.glue import Glue
from rdstool.transport.lookout import READ

MakeProvider = Callable[[str], verbs.Provider]
"""InfiniBand at a local address. Raises ``TransportError``."""


class IbTransport(Glue):
    """All reliable connections of one node: a provider for each of its addresses."""

    def __init__(self, driver: Driver, make: MakeProvider) -> None:
        super().__init__(driver.engine, driver.now)
        self._driver = driver
        self._lookout = driver.lookout
        self._make = make
        self._alarm = Alarm(driver.loop, self._due)
        self._tap: verbs.Tap | None = None

    def listen(self, address: str) -> None:
        """Take connections for an address of the node. Raises ``TransportError``."""
        provider = self._make(address)
        try:
            provider.set_tap(self._tap)
        except TransportError:
            provider.close()
            raise
        self.add(address, provider)
        for fileno in provider.filenos():
            self._lookout.watch(fileno, READ, partial(self._readable, address))

    def settle(self) -> None:
        """Let the providers send and receive, and hand on what has happened."""
        super().settle()
        if self.stirred:
            self._driver.act_again()
        self._alarm.set(self._next_timer())

    def _readable(self, address: str, _events: int) -> int:
        self.stirred[address] = None
        return 0

    def _next_timer(self) -> float | None:
        return min((when for each in self.providers.values() if (when := each.next_timer()) is not None), default=None)

    def _due(self) -> None:
        with self._driver.turn:
            self.stirred.update(dict.fromkeys(self.providers))
            self._driver.act()

    def check_acks(self, *, polling: bool = False) -> None:
        """Acknowledgements come by themselves."""

    def set_tap(self, tap: Tap | None) -> None:
        """Tell this tap of each packet from now on, or none."""
        self._tap = None if tap is None else lambda _now, frame: tap.packet(frame)
        for provider in self.providers.values():
            provider.set_tap(self._tap)

    def open_links(self) -> int:
        """Connections that are open or being made."""
        return len(self.links)

    def close(self) -> None:
        """Disconnect what is still open, and let go of the providers."""
        self._alarm.stop()
        self.end_all()
        for provider in self.providers.values():
            provider.process(self._driver.now())
            for fileno in provider.filenos():
                self._lookout.forget(fileno)
            provider.close()
        self.providers.clear()
        self.stirred.clear()
