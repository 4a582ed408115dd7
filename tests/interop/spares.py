"""Guests that a module of tests has to itself: while one is in use, the one after it boots."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rdstool.lab import Guest, Network
from rdstool.lab.fetch import fetch_kernel


class Spares:
    """Guests in networks of their own, lent one after the other. ``kernels`` are those that will be asked for."""

    def __init__(self, kernels: Iterable[str]) -> None:
        self._expected = deque(kernels)
        self._booting: Guest | None = None

    @contextmanager
    def lend(self, kernel: str) -> Iterator[Guest]:
        """A guest with this kernel as it has booted, which ends with the context."""
        guest = self._begun(kernel)
        try:
            guest.await_agent()
            if self._expected:
                self._booting = begin_guest(self._expected[0])
            yield guest
        finally:
            _end(guest)

    def end(self) -> None:
        """End the one that nobody has taken."""
        if self._booting is not None:
            _end(self._booting)

    def _begun(self, kernel: str) -> Guest:
        ready, self._booting = self._booting, None
        if self._expected and self._expected[0] == kernel:
            self._expected.popleft()
        if ready is not None and ready.kernel.name == kernel and ready.alive:
            return ready
        if ready is not None:
            _end(ready)
        return begin_guest(kernel)


def begin_guest(kernel: str) -> Guest:
    """A guest in a network of its own, which boots."""
    guest = Guest(fetch_kernel(kernel), Network().start())
    guest.begin()
    return guest


def _end(guest: Guest) -> None:
    guest.kill()
    assert guest.network is not None
    guest.network.stop()
