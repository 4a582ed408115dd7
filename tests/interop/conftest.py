"""Real kernels for the tests of this folder. What a test gets by naming it as an argument:

``guest``
    A running kernel with RDS over TCP: the test runs once for each of Linux 6.1, 6.12 and the newest. It is booted
    once for all of them; each test finds it alive, without sockets, connections, counters and changed sysctls of RDS.
    ``guest.rds`` has AF_RDS sockets in it, ``guest.rds.counters()`` and ``guest.rds.table("connections")`` what
    rds-info shows, ``guest.wire`` its faults: ``with guest.wire.netem("loss", "1%")``, ``guest.wire.cut()``.
    ``guest.kill()``, ``guest.start()`` and ``guest.reboot()`` (about 10 s) are allowed. ``guest.run(["command"])``
    runs anything in it.

``network``
    The network between that guest and the host, in a namespace of its own. The host has two addresses,
    ``network.smaller`` and ``network.larger`` (and ``smaller6``, ``larger6``), the guest ``network.guest`` between
    them, so that rdstool is in either role by its choice of address; ``network.nobody`` is free. What should talk to
    the guest has to be there: ``network.popen(["rdstool", "listen", ...])`` runs a program there, ``network.run`` waits
    for its end, ``network.socket()`` gives this process a socket there.

``own_guest``
    A guest that its module has to itself, in a network of its own (``own_guest.network``), which stays as tests leave
    it: for what ends some kernels' RDS, or cannot be taken back. The tests of such a module run kernel by kernel.

``capture``
    Records all frames between guest and host, from the beginning of the test: ``capture.stop()``, then read
    ``capture.path``. Where it loses a frame, the test fails.

``judged``
    The same, and at the end of the test ``rdstool validate`` has to find no error in it.

Messages are made of seeds on both sides: ``payload(seed, size)``, ``digest(data)`` from ``rdstool.lab``. One kernel
alone: ``make test TESTS="tests/interop -k newest"``. What a test waits for, it waits for by condition (``receive`` with
a timeout, ``receive_many``), never by time. A blocking send waits for the peer's handshake, as long as a minute: use
``flags=["nonblocking"]`` where the peer comes later. A peer without protocol, for raw headers, is in ``bare.py``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import pytest

import rdstool
from rdstool.errors import LabError
from rdstool.lab import Guest, Network
from rdstool.lab.capture import Capture
from rdstool.lab.fetch import SOURCES
from rdstool.validate.validator import validate
from tests.interop.spares import Spares, begin_guest
from tests.kit.once_more import once_more

LOGGER = logging.getLogger(__name__)
KERNELS = tuple(source.name for source in SOURCES)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run a test of this folder once more where it fails: kernels in emulation have faults and delays of their own.

    The tests of a module that has its guests to itself run kernel by kernel: pytest puts those together that have their
    kernel at the same place of their parameters, and each change of kernels is a boot.
    """
    once_more(item for item in items if Path(__file__).parent in item.path.parents)
    modules = {path: place for place, path in enumerate(dict.fromkeys(item.path for item in items))}
    items.sort(key=lambda item: (modules[item.path], KERNELS.index(_own_kernel(item) or KERNELS[0])))


def _own_kernel(item: pytest.Item) -> str | None:
    called = getattr(item, "callspec", None)
    return called and called.params.get("own_guest")


class Guests:
    """Guests by their kernels; all that the session needs boot at the same time."""

    def __init__(self, wanted: list[str]) -> None:
        self._wanted = wanted
        self._guests: dict[str, Guest] = {}
        self._fresh: set[str] = set()

    def get(self, name: str, *, as_new: bool = True) -> Guest:
        """The guest with this kernel, running; ``as_new``: with nothing left of earlier tests in its RDS."""
        if not self._guests:
            self._begin()
        guest = self._guests[name]
        if name in self._fresh:
            self._fresh.remove(name)
            guest.await_agent()
        elif not guest.alive:
            guest.start()
        elif as_new:
            try:
                guest.reset_rds()
            except LabError as problem:
                # Its kernel does not let go of what the test before left, or hangs: that is no fault of the next test.
                LOGGER.warning("%s is booted again: %s", name, problem)
                guest.reboot()
        return guest

    def stop(self) -> None:
        """Switch all off."""
        for guest in self._guests.values():
            guest.stop()
            assert guest.network is not None
            guest.network.stop()

    def _begin(self) -> None:
        for name in self._wanted:
            self._guests[name] = begin_guest(name)
            self._fresh.add(name)


@pytest.fixture(scope="package")
def guests(request: pytest.FixtureRequest) -> Iterator[Guests]:
    """All guests of these tests, which end with the last of them: without KVM even idle ones cost the others time."""
    asked = {item.callspec.params.get("kernel") for item in request.session.items if hasattr(item, "callspec")}
    made = Guests([name for name in KERNELS if name in asked])
    yield made
    made.stop()


@pytest.fixture(scope="package")
def spares(request: pytest.FixtureRequest) -> Iterator[Spares]:
    """Guests for modules that have them to themselves."""
    in_order = groupby((item.path, _own_kernel(item)) for item in request.session.items)
    made = Spares(kernel for (_, kernel), _ in in_order if kernel)
    yield made
    made.end()


@pytest.fixture(scope="module", params=KERNELS)
def own_guest(request: pytest.FixtureRequest, spares: Spares) -> Iterator[Guest]:
    """A running kernel of this module's own."""
    with spares.lend(request.param) as guest:
        yield guest


@pytest.fixture(params=KERNELS)
def kernel(request: pytest.FixtureRequest) -> str:
    """The name of the guest's kernel."""
    name: str = request.param
    return name


@pytest.fixture
def guest(guests: Guests, kernel: str) -> Guest:
    """A running kernel, as new."""
    return guests.get(kernel)


@pytest.fixture
def network(guest: Guest) -> Network:
    """The network between the guest and the host."""
    assert guest.network is not None
    return guest.network


@pytest.fixture
def capture(network: Network, tmp_path: Path) -> Iterator[Capture]:
    """All frames of the test."""
    with network.capture(tmp_path / "test.pcap") as recording:
        yield recording


@pytest.fixture
def judged(capture: Capture) -> Iterator[Capture]:
    """All frames of the test, in which rdstool validate finds no error."""
    yield capture
    capture.stop()
    with rdstool.open_capture(str(capture.path)) as frames:
        findings = list(validate(frames))
    assert [str(each) for each in findings if each.severity.name == "ERROR"] == []
