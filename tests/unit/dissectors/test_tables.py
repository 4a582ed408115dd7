"""Every table has its Scapy layer, its page in the reference, and names that Scapy leaves free."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from scapy.packet import Packet

import dissectors.all  # noqa: F401 - layers are known from when they are defined on
from dissectors import reference
from dissectors.extensions import EXTENSION_LAYERS
from dissectors.layers import WireLayer, scapy_name
from dissectors.wire import cm, extensions, infiniband, rds, stress
from dissectors.wire.extensions import EXTENSIONS
from dissectors.wire.table import table_of

MODULES = (rds, extensions, infiniband, cm, stress)
HEADERS = [
    item
    for module in MODULES
    for item in vars(module).values()
    if isinstance(item, type) and "TABLE" in vars(item) and item.__module__ == module.__name__
]


def layers(root: type[WireLayer] = WireLayer) -> set[type[WireLayer]]:
    """All layers that are made from a table."""
    below = {cls for child in root.__subclasses__() for cls in layers(child)}
    return below | ({root} if hasattr(root, "wire") else set())


@pytest.mark.parametrize("header", HEADERS, ids=lambda cls: cls.__name__)
def test_every_table_has_one_layer(header: type) -> None:
    made = [layer for layer in layers() if layer.wire is header]
    made += [layer for kind, layer in EXTENSION_LAYERS.items() if EXTENSIONS[kind] is header]  # type: ignore[misc]
    assert len(made) == 1
    names = [field.name for field in made[0].fields_desc if field.name not in {"type", "icrc", "pad"}]
    assert names == [scapy_name(field.name) for field in table_of(header).fields]


@pytest.mark.parametrize("header", HEADERS, ids=lambda cls: cls.__name__)
def test_no_field_hides_a_name_of_scapys(header: type) -> None:
    for field in table_of(header).fields:
        assert not hasattr(Packet, scapy_name(field.name))
        assert scapy_name(field.name) not in Packet.__slots__


def test_a_name_that_scapy_uses_gets_an_underscore() -> None:
    assert scapy_name("direction") == "direction_"
    assert scapy_name("sequence") == "sequence"


def test_the_reference_lists_every_table() -> None:
    assert sorted(cls.__name__ for cls in reference.header_classes()) == sorted(cls.__name__ for cls in HEADERS)


def test_the_committed_reference_is_up_to_date(root: Path) -> None:
    """``python -m dissectors.reference > docs/fields.md`` brings it up to date."""
    assert (root / "docs" / "fields.md").read_text(encoding="utf-8") == reference.reference()


@pytest.mark.parametrize(
    "name",
    ["rds.sequence", "rds.flags.retransmitted", "rds.exthdr.npaths", "rds.exthdr.rdma.rkey", "infiniband.bth.psn"],
)
def test_the_reference_has_the_names_of_filters(name: str) -> None:
    assert f"| `{name}` |" in reference.reference()


@pytest.mark.parametrize("module", ["dissectors", "dissectors.reference"])
def test_the_tables_need_no_scapy(module: str) -> None:
    wire = "rds extensions congestion checksum codec table errors infiniband cm icrc stress"
    imports = ", ".join([module, *(f"dissectors.wire.{name}" for name in wire.split())])
    loaded = "any(name.split('.')[0] in ('scapy', 'numpy', 'rdstool') for name in sys.modules)"
    code = f"import sys, {imports}; sys.exit({loaded})"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_scapy_is_enough_for_the_layers() -> None:
    code = (
        "import sys; from dissectors.rds import RDS; RDS().summary(); "
        "sys.exit(any(name.split('.')[0] in ('numpy', 'rdstool') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
