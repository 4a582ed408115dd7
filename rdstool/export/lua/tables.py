"""The wire tables and the field registry as Lua: ``ProtoField``s, and where they lie in their structures."""

from __future__ import annotations

from collections.abc import Iterator

from dissectors.wire.cm import SERVICE_ID_TCP, IpCm, RdsPrivateV4, RdsPrivateV6, RejectReason
from dissectors.wire.extensions import EXTENSIONS, HANDSHAKE, UEK_ONLY, ExtensionType
from dissectors.wire.rds import IB_CM_PORT, TCP_PORT, RdsHeader
from dissectors.wire.table import Field, Kind, Table, table_of
from rdstool.export.lua.derived import PLUGIN_FIELDS, PluginField
from rdstool.export.lua.text import block, names, quoted, row
from rdstool.export.lua.titles import title
from rdstool.fields import FieldInfo, FieldType, Part, registry

LEFT_TO_WIRESHARK = ("frame.", "tcp.", "infiniband.")
"""Fields that Wireshark has itself."""
NOT_IN_LUA = frozenset({"rds.sha256"})
"""Lua in Wireshark has no SHA-256."""
SET = '{ "Set", "Not set" }'
"""What Wireshark calls the two states of a flag."""
_RDMA = frozenset({ExtensionType.RDMA, ExtensionType.RDMA_DEST, ExtensionType.RDMA_BYTES})
_ADDRESSES = (Kind.IPV4, Kind.IPV6)


def plugin_fields() -> list[FieldInfo]:
    """The fields of the registry that the plugin registers."""
    return [
        info
        for info in registry().values()
        if not info.name.startswith(LEFT_TO_WIRESHARK) and info.name not in NOT_IN_LUA and info.name != "rds"
    ]


def fields_text() -> str:
    """All ``ProtoField``s, in the table ``fields`` by their filter names."""
    lines = ["-- Fields: the names are those of `rdstool fields`.", "", "local fields = {}", ""]
    lines += [f"fields[{quoted(info.name)}] = {_constructor(info)}" for info in plugin_fields()]
    lines += ["", "-- What only the plugin adds.", ""]
    lines += [
        f"fields[{quoted(own.name)}] = ProtoField.{own.kind}({quoted(own.name)}, {quoted(title(own.name))}"
        f"{_form(own)}, {quoted(own.meaning)})"
        for own in PLUGIN_FIELDS
    ]
    lines += [
        "",
        "-- A table of Wireshark, not of Lua: it takes whole lists only.",
        "local all_fields = {}",
        "for _, field in pairs(fields) do",
        "   table.insert(all_fields, field)",
        "end",
        "rds.fields = all_fields",
        "",
    ]
    return "\n".join(lines)


def layouts_text() -> str:
    """Where fields lie: offset and size in bytes."""
    header = table_of(RdsHeader)
    flags = header["flags"].bits
    services = {4: IB_CM_PORT, 6: TCP_PORT}
    parts = [
        "-- Where they lie: name, offset and size in bytes.\n",
        block("HEADER_FIELDS", (row(place) for place in _places(header))),
        "-- Flags: field, mask and name.",
        block("FLAG_FIELDS", (row((f"rds.flags.{bit.name}", int(bit.mask), bit.name.upper())) for bit in flags)),
        "-- Extension headers by type. `uncommon`: mainline kernels do not send it.",
        block("EXTENSIONS", _extensions()),
        "local EXT = {",
        *(f"   {kind.name} = {int(kind)}," for kind in _named()),
        "}",
        "\n-- RDMA-CM: IP header, RDS private data by IP version, services, reasons of a REJ.",
        block("CM_IP", (row(place) for place in _places(table_of(IpCm)))),
        block("CM_PRIVATE", _private()),
        block(
            "RDS_SERVICES",
            (
                f"[{quoted((SERVICE_ID_TCP | port).to_bytes(8, 'big'))}] = {version}"
                for version, port in services.items()
            ),
        ),
        f"local REJECT_REASONS = {names({int(reason): reason.name for reason in RejectReason})}\n",
    ]
    return "\n".join(parts)


def _named() -> tuple[ExtensionType, ...]:
    return (
        ExtensionType.RDMA,
        ExtensionType.RDMA_DEST,
        ExtensionType.RDMA_BYTES,
        ExtensionType.NPATHS,
        ExtensionType.GEN_NUM,
        ExtensionType.SPORT_IDX,
    )


def _form(own: PluginField) -> str:
    """Arguments between the name and the description that a constructor wants."""
    if own.kind.startswith("uint"):
        return f", base.DEC, {names(own.values) if own.values else 'nil'}, nil"
    return ", base.NONE, nil, nil" if own.kind in {"framenum", "bool"} else ""


def _constructor(info: FieldInfo) -> str:
    name, label, meaning = quoted(info.name), quoted(title(info.name)), quoted(info.meaning)
    match info.type:
        case FieldType.NONE:
            return f"ProtoField.none({name}, {quoted(title(info.name, info.meaning))})"
        case FieldType.BOOL if info.mask:
            width = max(8, _owner_field(info).width)
            return f"ProtoField.bool({name}, {label}, {width}, {SET}, 0x{info.mask:x}, {meaning})"
        case FieldType.BOOL:
            return f"ProtoField.bool({name}, {label}, base.NONE, nil, nil, {meaning})"
        case FieldType.UINT:
            return _number(info, name, label, meaning)
        case FieldType.BYTES:
            return f"ProtoField.bytes({name}, {label}, base.NONE, {meaning})"
        case _:
            # Addresses too: one field has to hold IPv4 and IPv6.
            return f"ProtoField.string({name}, {label}, {meaning})"


def _number(info: FieldInfo, name: str, label: str, meaning: str) -> str:
    base = "base.HEX" if info.hexadecimal else "base.DEC"
    values = names(info.values) if info.values else "nil"
    width, mask = info.width, "nil"
    if info.part is Part.DERIVED and not info.hexadecimal:
        # Counts of a capture: Lua in Wireshark 4.0 gives no plain number to a field of 64 bits.
        width = min(width, 32)
    if width < 8:
        row_of = _owner_field(info)
        mask = f"0x{row_of.mask << (row_of.shift % 8):x}"
        width = 8
    return f"ProtoField.uint{width}({name}, {label}, {base}, {values}, {mask}, {meaning})"


def _owner_field(info: FieldInfo) -> Field:
    assert info.owner is not None
    return table_of(info.owner)[info.attribute]


def _places(table: Table) -> Iterator[tuple[str, int, int] | tuple[str, int, int, str]]:
    for field in table.fields:
        size = max(1, field.width // 8)
        place = f"{table.prefix}.{field.name}", field.offset, size
        yield (*place, "address") if field.kind in _ADDRESSES else place


def _extensions() -> Iterator[str]:
    for kind, owner in EXTENSIONS.items():
        table = table_of(owner)
        fields: list[str] = []
        for place in _places(table):
            fields.append(row(place))
            bits = table[place[0].rpartition(".")[2]].bits
            fields += [row((f"{place[0]}.{bit.name}", *place[1:3])) for bit in bits]
        marks = {"handshake": kind in HANDSHAKE, "rdma": kind in _RDMA}
        marks["uncommon"] = kind in UEK_ONLY or kind is ExtensionType.VERSION
        told = "".join(f", {name} = true" for name, is_so in marks.items() if is_so)
        own = f", field = {quoted(table.prefix)}" if table.prefix != "rds.exthdr" else ""
        yield (
            f"[{int(kind)}] = {{ name = {quoted(kind.name)}, size = {table.size}{own}{told}, "
            f"fields = {{ {', '.join(fields)} }} }}"
        )


def _private() -> Iterator[str]:
    for version, owner in ((4, RdsPrivateV4), (6, RdsPrivateV6)):
        table = table_of(owner)
        rows = ",\n         ".join(row(place) for place in _places(table))
        yield f"[{version}] = {{\n      size = {table.size},\n      fields = {{\n         {rows},\n      }},\n   }}"
