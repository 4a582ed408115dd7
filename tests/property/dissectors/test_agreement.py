"""One table, many artefacts: the codec, the Scapy layer and the NumPy dtype of each agree on any values."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.packet import Packet, Raw

from dissectors import reference
from dissectors.extensions import EXTENSION_LAYERS, RDSUnread
from dissectors.layers import WireLayer, scapy_name
from dissectors.wire.codec import Codec
from dissectors.wire.extensions import EXTENSIONS, TYPE_OF
from dissectors.wire.table import Field, Kind, Table, table_of
from rdstool.capture.columns import dtype_of

HEADERS = list(reference.header_classes())
NUMPY_WIDTHS = {8, 16, 32, 64}


def layer_of(header: type) -> type[Packet]:
    """The Scapy layer of a header class."""
    if header in TYPE_OF:
        return EXTENSION_LAYERS[TYPE_OF[header]]

    def below(root: type[WireLayer]) -> list[type[WireLayer]]:
        return [root, *(layer for child in root.__subclasses__() for layer in below(child))]

    return next(layer for layer in below(WireLayer) if vars(layer).get("wire") is header)


def values_of(table: Table) -> st.SearchStrategy[dict[str, Any]]:
    """Any values that the table's fields can hold."""

    def value(field: Field) -> st.SearchStrategy[Any]:
        if isinstance(field.default, bytes):
            return st.binary(min_size=field.size, max_size=field.size)
        return st.integers(0, field.mask)

    return st.fixed_dictionaries({field.name: value(field) for field in table.fields})


def to_scapy(field: Field, value: Any) -> Any:
    """The value in the form that the Scapy field takes."""
    if field.kind is Kind.IPV4:
        return str(IPv4Address(value))
    if field.kind is Kind.IPV6:
        return str(IPv6Address(value))
    if field.name == "exthdr":
        return [RDSUnread(load=value)]
    return Raw(value) if field.name == "private" else value


def from_scapy(field: Field, value: Any) -> Any:
    """The value of a Scapy field in the form that the codec has."""
    if field.kind is Kind.IPV4:
        return IPv4Address(value).packed
    if field.kind is Kind.IPV6:
        return IPv6Address(value).packed
    if field.name == "exthdr":
        return b"".join(bytes(item) for item in value).ljust(field.size, b"\0")
    if field.name == "private":
        return bytes(value).ljust(field.size, b"\0")
    return value if isinstance(value, bytes) else int(value)


@pytest.mark.parametrize("header", HEADERS, ids=lambda cls: cls.__name__)
@given(data=st.data())
def test_codec_and_scapy_layer_write_and_read_the_same(header: type, data: st.DataObject) -> None:
    table = table_of(header)
    values = data.draw(values_of(table))
    packed = Codec(header).pack(header(**values))
    layer = layer_of(header)
    lead = b"" if header not in TYPE_OF else bytes((TYPE_OF[header],))

    built = layer(**{scapy_name(field.name): to_scapy(field, values[field.name]) for field in table.fields})
    assert bytes(built)[: len(lead) + table.size] == lead + packed

    read = layer(lead + packed + bytes(getattr(layer, "trailer_bytes", 0)))
    assert {f.name: from_scapy(f, getattr(read, scapy_name(f.name))) for f in table.fields} == values
    assert Codec(header).unpack_from(packed) == header(**values)


@pytest.mark.parametrize(
    "header",
    [cls for cls in HEADERS if table_of(cls).byte_aligned],
    ids=lambda cls: cls.__name__,
)
@given(data=st.data())
def test_codec_and_columns_read_the_same(header: type, data: st.DataObject) -> None:
    table = table_of(header)
    if any(isinstance(field.default, int) and field.width not in NUMPY_WIDTHS for field in table.fields):
        with pytest.raises(TypeError):
            dtype_of(table)
        return
    values = data.draw(values_of(table))
    row = np.frombuffer(Codec(header).pack(header(**values)), dtype_of(table))[0]
    for field in table.fields:
        item = row[field.name]
        assert (item.tobytes() if isinstance(field.default, bytes) else int(item)) == values[field.name]


def test_every_extension_takes_part() -> None:
    assert set(EXTENSIONS.values()) <= set(HEADERS)
