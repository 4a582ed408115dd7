"""Real kernels for the tests of this folder. What a test gets by naming it as an argument:

``guest``
    A running kernel with RDS over TCP: the test runs once for each of Linux 6.1, 6.12 and the newest. It is booted
    once for all tests; each finds it alive, without sockets, connections, counters and changed sysctls of RDS.
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
from pathlib import Path

import pytest

import rdstool
from rdstool.errors import LabError
from rdstool.lab import Guest, Network
from rdstool.lab.capture import Capture
from rdstool.lab.fetch import SOURCES, fetch_kernel
from rdstool.validate.validator import validate
from tests.kit.once_more import once_more

LOGGER = logging.getLogger(__name__)
KERNELS = tuple(source.name for source in SOURCES)


@pytest.hookimpl(tryfirst=True)  # before xdist reads marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run a test of this folder once more where it fails: kernels in emulation have faults and delays of their own.

    Where two processes run the tests, those that use the same guest stay together.
    """
    own = [item for item in items if Path(__file__).parent in item.path.parents]
    once_more(own)
    if config.pluginmanager.hasplugin("xdist"):
        for item in own:
            item.add_marker(pytest.mark.xdist_group(_guest_of(item)))


def _guest_of(item: pytest.Item) -> str:
    """The guest that all tests share, or that of the module, by its kernel."""
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    kernel = next((value for value in parameters if value in KERNELS), "any")
    return kernel if "shared_guest" in getattr(item, "fixturenames", ()) else f"{item.path.stem} {kernel}"


@pytest.fixture(scope="session", params=KERNELS)
def shared_guest(request: pytest.FixtureRequest) -> Iterator[Guest]:
    """The guest with this kernel, which need not be running: pytest has the tests that use it follow each other."""
    with Network() as network:
        guest = Guest(fetch_kernel(request.param), network)
        yield guest
        guest.stop()


@pytest.fixture
def kernel(shared_guest: Guest) -> str:
    """The name of the guest's kernel."""
    return shared_guest.kernel.name


@pytest.fixture
def guest(shared_guest: Guest) -> Guest:
    """A running kernel, with nothing left of earlier tests in its RDS."""
    if not shared_guest.alive:
        return shared_guest.start()
    try:
        shared_guest.reset_rds()
    except LabError as problem:
        # Its kernel does not let go of what the test before left, or hangs: that is no fault of the next test.
        LOGGER.warning("%s is booted again: %s", shared_guest.kernel.name, problem)
        shared_guest.reboot()
    return shared_guest


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
