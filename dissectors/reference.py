"""The field reference, made from the tables: ``python -m dissectors.reference > docs/fields.md``."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from dissectors.wire import cm, extensions, infiniband, rds, stress
from dissectors.wire.table import Field, Kind, Table, table_of

CHAPTERS: tuple[tuple[str, str, tuple[type, ...]], ...] = (
    (
        "RDS message header",
        "In front of every message over TCP and of every fragment over InfiniBand.",
        (rds.RdsHeader,),
    ),
    (
        "RDS extension headers",
        "In `rds.exthdr`. Each begins with a type byte, given with the name; offsets count from the byte behind it.",
        tuple(extensions.EXTENSIONS.values()),
    ),
    (
        "RDS private data of RDMA-CM",
        "In the private data of ConnectRequest (behind the RDMA-CM IP header), ConnectReply and ConnectReject.",
        (cm.IpCm, cm.RdsPrivateV4, cm.RdsPrivateV6, cm.RdsReject),
    ),
    (
        "InfiniBand headers",
        "Link, network and transport headers of native InfiniBand and RoCE.",
        (
            infiniband.Lrh,
            infiniband.Grh,
            infiniband.Bth,
            infiniband.Deth,
            infiniband.Reth,
            infiniband.AtomicEth,
            infiniband.Aeth,
            infiniband.AtomicAckEth,
            infiniband.ImmDt,
            infiniband.Ieth,
        ),
    ),
    (
        "RDMA-CM messages",
        "Each is 232 bytes behind a Management Datagram.",
        (cm.Mad, cm.CmReq, cm.CmMra, cm.CmRej, cm.CmRep, cm.CmRtu, cm.CmDreq, cm.CmDrep),
    ),
    (
        "rds-stress",
        (
            "The payload of the messages of rds-stress, and the options that its active side sends over TCP port 4000. "
            "In their longer form the options have the version before and two more options behind them."
        ),
        (stress.StressMessage, stress.StressOptions, stress.StressVersion, stress.StressMore),
    ),
)
"""Title, introduction and header classes of each chapter."""

_TOP = """\
# Fields

Every header field that rdstool knows, by its display-filter name. Generated from the tables in `dissectors/wire`
by `python -m dissectors.reference`; not written by hand. The last part of a name is the field's name in Python,
in Scapy layers and in JSON. Offsets are bytes from the start of the header, with the bit, counted from the most
significant, where a field does not begin on a byte. All numbers are big-endian.
"""


def header_classes() -> Iterator[type]:
    """Every header class that has a table, in the order of the reference."""
    for _, _, classes in CHAPTERS:
        yield from classes


def reference() -> str:
    """The whole reference as Markdown."""
    parts = [_TOP]
    for title, introduction, classes in CHAPTERS:
        parts.append(f"## {title}\n\n{introduction}\n")
        parts.extend(_section(cls) for cls in classes)
    return "\n".join(parts)


def _section(cls: type) -> str:
    table = table_of(cls)
    kind = extensions.TYPE_OF.get(cls)
    title = table.title if kind is None else f"{table.title} (type {int(kind)})"
    size = "1 byte" if table.size == 1 else f"{table.size} bytes"
    lines = [f"### {title}", "", f"{size}. {_sentence(cls)} Source: {table.source}.", ""]
    lines += ["| Field | Offset | Bits | Type | Meaning |", "|---|---|---|---|---|"]
    lines += [row for field in table.fields for row in _rows(table, field)]
    return "\n".join([*lines, ""])


def _sentence(cls: type) -> str:
    return (cls.__doc__ or "").strip().splitlines()[0]


def _rows(table: Table, field: Field) -> Iterator[str]:
    """The field's row, and one for each of its named bits."""
    name = f"{table.prefix}.{field.name}"
    first = (table.size * 8 - field.shift - field.width) % 8
    offset = f"{field.offset}" if not first else f"{field.offset} bit {first}"
    kind = "number" if field.kind in {Kind.UINT, Kind.HEX} else field.kind.value
    meaning = field.meaning
    if field.values:
        meaning += ": " + ", ".join(f"{value} {label}" for value, label in field.values.items())
    yield f"| `{name}` | {offset} | {field.width} | {kind} | {_cell(meaning)} |"
    for bit in field.bits:
        yield f"| `{name}.{bit.name}` | {field.offset} | mask {bit.mask:#x} | flag | {_cell(bit.meaning)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(reference())
