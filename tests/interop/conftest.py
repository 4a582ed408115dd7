"""Real kernels for the tests of this folder. What a test gets by naming it as an argument:

``guest``
    A running kernel with RDS over TCP: the test runs once for each of Linux 6.1, 6.12 and the newest. Each is booted
    once for all tests; a test finds it alive, without sockets, connections, counters and changed sysctls of RDS.
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
    A guest that its module has to itself (``own_guest.network`` is its network), which stays as tests leave it: for
    what ends some kernels' RDS, or cannot be taken back. Where a test ``runs_again``, it is to be booted anew.

``meeting``
    RDS over Soft-RoCE in such a guest of the module's own, and nodes on our side that last as long (``infiniband.py``).

``capture``
    Records all frames between guest and host, from the beginning of the test: ``capture.stop()``, then read
    ``capture.path``. Where it loses a frame, the test fails.

``judged``
    The same, and at the end of the test ``rdstool validate`` has to find no error in it.

Tests that share a guest run one after the other, in one process. ``make test`` has several processes, for a guest
without KVM keeps one processor busy, and no more. A process has one guest at a time: even idle ones cost time.

Messages are made of seeds on both sides: ``payload(seed, size)``, ``digest(data)`` from ``rdstool.lab``. One kernel
alone: ``make test TESTS="tests/interop -k newest"``. What a test waits for, it waits for by condition (``receive`` with
a timeout, ``receive_many``), never by time. A blocking send waits for the peer's handshake, as long as a minute: use
``flags=["nonblocking"]`` where the peer comes later. A peer without protocol, for raw headers, is in ``bare.py``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

import rdstool
from rdstool.errors import LabError
from rdstool.lab import Guest, Network
from rdstool.lab.capture import Capture
from rdstool.lab.fetch import SOURCES, fetch_kernel
from rdstool.validate.validator import validate
from tests.interop.infiniband import Meeting
from tests.kit.once_more import once_more, runs_again

LOGGER = logging.getLogger(__name__)
KERNELS = tuple(source.name for source in SOURCES)
SHARED = "shared"


def pytest_itemcollected(item: pytest.Item) -> None:
    """Run a test of this folder once more where it fails: kernels in emulation have faults and delays of their own."""
    once_more([item])
    item.add_marker(pytest.mark.xdist_group(" ".join(guest_of(item))))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bring those together that share a guest: each change of guests is a boot."""
    places: dict[tuple[str, str], int] = {}
    for item in items:
        places.setdefault(guest_of(item), len(places))
    items.sort(key=lambda item: places[guest_of(item)])


def guest_of(item: pytest.Item) -> tuple[str, str]:
    """Whose guest a test uses, and with which kernel: all tests' or its module's, or such as the test boots itself."""
    parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    if "kernel" in parameters:
        return SHARED, str(parameters["kernel"])
    return item.nodeid.partition("::")[0], str(parameters.get("own_guest", ""))


class Guests:
    """Guests in networks of their own, one at a time."""

    def __init__(self) -> None:
        self._running: Guest | None = None

    def shared(self, kernel: str, *, as_new: bool = True) -> Guest:
        """The one with this kernel, running; ``as_new``: with nothing left of earlier tests in its RDS."""
        guest = self._running
        if guest is None or guest.kernel.name != kernel:
            return self.another(kernel)
        if not guest.alive:
            guest.start()
        elif as_new:
            try:
                guest.reset_rds()
            except LabError as problem:
                # Its kernel does not let go of what the test before left, or hangs: that is no fault of the next test.
                LOGGER.warning("%s is booted again: %s", kernel, problem)
                guest.reboot()
        return guest

    def another(self, kernel: str) -> Guest:
        """One as it has booted, in place of the one before."""
        self.end()
        self._running = Guest(fetch_kernel(kernel), Network().start())
        return self._running.start()

    def end(self) -> None:
        """End the one that runs."""
        if self._running is not None:
            self._running.kill()
            assert self._running.network is not None
            self._running.network.stop()
            self._running = None


@pytest.fixture(scope="package")
def guests() -> Iterator[Guests]:
    """The guest that runs."""
    made = Guests()
    yield made
    made.end()


@pytest.fixture(scope="module", params=KERNELS)
def own_guest(request: pytest.FixtureRequest, guests: Guests) -> Iterator[Guest]:
    """A running kernel of this module's own."""
    yield guests.another(request.param)
    guests.end()


@pytest.fixture(scope="module")
def lasting(own_guest: Guest) -> Iterator[Meeting]:
    """RDS over Soft-RoCE in that kernel.

    It is not shared: unloading rds_rdma between tests ends some kernels, and what is done to it leaves connections
    that it tries to make again.
    """
    with Meeting(own_guest) as made:
        yield made


@pytest.fixture
def meeting(lasting: Meeting, request: pytest.FixtureRequest) -> Meeting:
    """The same for one test."""
    if runs_again(request.node):
        lasting.renew()
    return lasting


@pytest.fixture(params=KERNELS)
def kernel(request: pytest.FixtureRequest) -> str:
    """The name of the guest's kernel."""
    name: str = request.param
    return name


@pytest.fixture
def guest(guests: Guests, kernel: str) -> Guest:
    """A running kernel, as new."""
    return guests.shared(kernel)


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
