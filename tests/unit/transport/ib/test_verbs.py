"""The verbs provider where there is no device: what it says, and that its structures are those of the libraries.

What it does with a device is in tests/interop/test_verbs.py.
"""

from __future__ import annotations

import subprocess
import sys
from ctypes import Structure, sizeof
from pathlib import Path

import pytest

from rdstool.transport.ib.verbs import layouts
from tests.unit.cli.running import environment, rdstool

ROOT = Path(__file__).parents[4]
DEBIAN_PYTHON = "/usr/bin/python3"
"""The one that python3-pyverbs is for."""
NOBODY = "192.0.2.77"
"""An address that no device of this machine has."""
MAKE = f"from rdstool.transport.ib.verbs import make_provider, presence; {{}}make_provider('{NOBODY}')"
ENVIRONMENT = "/usr/bin/python3 -m venv --system-site-packages"


def complaint(python: str, *arguments: str) -> str:
    """The last line that a program writes to stderr."""
    done = subprocess.run(
        [python, *arguments],
        env=environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode
    return done.stderr.splitlines()[-1]


def test_a_python_that_does_not_see_pyverbs_is_told_which_one_does() -> None:
    told = complaint(sys.executable, "-S", "-c", MAKE.format(""))
    assert f"{sys.executable} does not see Debian's pyverbs: run rdstool in an environment made with" in told
    assert told.endswith(ENVIRONMENT)


def test_a_machine_without_pyverbs_is_told_what_to_install() -> None:
    elsewhere = "presence._DEBIAN_PACKAGES = presence.Path('/nonexistent'); "
    told = complaint(sys.executable, "-S", "-c", MAKE.format(elsewhere))
    assert "pyverbs is missing: apt install python3-pyverbs" in told
    assert told.endswith(ENVIRONMENT)


def test_a_machine_without_a_device_is_told_how_to_make_one() -> None:
    told = complaint(DEBIAN_PYTHON, "-c", MAKE.format(""))
    assert "RDMA device" in told
    assert "modprobe rdma_rxe, then rdma link add rxe0 type rxe netdev DEVICE" in told


def test_pyverbs_does_not_set_up_the_log_of_the_program() -> None:
    program = (
        "import logging\nfrom rdstool.transport.ib.verbs import presence\n"
        "try: presence.check()\nexcept Exception: pass\n"
        "import sys; assert 'pyverbs.cmid' in sys.modules; sys.exit(str(logging.getLogger().handlers))"
    )
    assert complaint(DEBIAN_PYTHON, "-c", program) == "[]"


@pytest.mark.parametrize("command", [["send", "-m", "x"], ["listen"], ["ping"]])
def test_commands_say_it_in_one_line(command: list[str]) -> None:
    name, *rest = command
    done = rdstool(name, NOBODY, *rest, "--transport", "ib", "--provider", "verbs", *FROM.get(name, []))
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("rdstool: error: ")
    assert ENVIRONMENT in line or "RDMA device" in line


FROM = {"send": ["--from", NOBODY], "ping": ["-I", NOBODY]}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--provider", "verbs"], "--provider verbs is for InfiniBand: add --transport ib"),
        (["--provider", "iwarp", "--transport", "ib"], "--provider iwarp is not known: take one of roce, verbs"),
        (["--provider", "verbs", "--transport", "ib", "--pcap", "x.pcapng"], "--pcap needs --provider roce"),
    ],
)
def test_what_does_not_go_together_is_refused(arguments: list[str], told: str) -> None:
    done = rdstool("ping", "127.0.0.1", *arguments)
    assert done.returncode == 2
    assert told in done.stderr


# ---- Structures: offsets that a C compiler found with the headers of rdma-core 44 on a 64-bit machine.

OFFSETS: list[tuple[type[Structure], str, int]] = [
    (layouts.Id, "route", 32),
    (layouts.Id, "ps", 344),
    (layouts.Id, "port_num", 348),
    (layouts.Id, "pd", 400),
    (layouts.Id, "qp_type", 408),
    (layouts.Route, "destination", 128),
    (layouts.Route, "num_paths", 304),
    (layouts.Parameters, "qp_num", 16),
    (layouts.Event, "status", 20),
    (layouts.Event, "parameters", 24),
    (layouts.QueuePairAttributes, "cap", 36),
    (layouts.QueuePairAttributes, "ah_attr", 56),
    (layouts.QueuePairAttributes, "alt_ah_attr", 88),
    (layouts.QueuePairAttributes, "pkey_index", 120),
    (layouts.QueuePairAttributes, "max_rd_atomic", 126),
    (layouts.QueuePairAttributes, "alt_timeout", 134),
    (layouts.QueuePairAttributes, "rate_limit", 136),
    (layouts.AddressHandle, "dlid", 24),
    (layouts.AddressHandle, "port_num", 30),
    (layouts.MemoryRegion, "lkey", 36),
    (layouts.MemoryRegion, "rkey", 40),
]
SIZES: list[tuple[type[Structure], int]] = [
    (layouts.Id, 416),
    (layouts.QueuePairAttributes, 144),
    (layouts.AddressHandle, 32),
]


@pytest.mark.parametrize(("structure", "field", "offset"), OFFSETS)
def test_fields_are_where_the_headers_have_them(structure: type[Structure], field: str, offset: int) -> None:
    assert getattr(structure, field).offset == offset


@pytest.mark.parametrize(("structure", "size"), SIZES)
def test_structures_are_as_large_as_in_the_headers(structure: type[Structure], size: int) -> None:
    assert sizeof(structure) == size
