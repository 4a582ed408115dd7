"""Messages from what a scenario says: any header field by its name in the table, right or wrong."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from dissectors.wire.checksum import header_checksum
from dissectors.wire.congestion import PORTS, bitmap_of
from dissectors.wire.errors import CodecError
from dissectors.wire.extensions import CODECS, EXTENSION_BYTES, EXTENSIONS, ExtensionType
from dissectors.wire.rds import MAX_MESSAGE_BYTES, MAX_PATHS, PING_PORT, PROBE_PORT, RDS_HEADER, Flags, RdsHeader
from dissectors.wire.table import table_of
from rdstool.craft.scenario import Action
from rdstool.errors import UsageError

HEADER_FIELDS = frozenset(field.name for field in RDS_HEADER.table.fields)
PORT_FIELDS = frozenset({"sport", "dport"})
PAYLOAD_KEYS = ("payload", "payload_hex", "payload_size")
BYTES_KEYS = ("hex", "random", "zeros")
_OURS, _THEIRS = "ours", "theirs"
_FLAGS = {flag.name.lower(): int(flag) for flag in Flags if flag.name}


class Builder:
    """Builds the messages of one run."""

    def __init__(self, ports: Mapping[str, int], generation: int) -> None:
        self._ports = ports
        self._generation = generation
        """What our probes tell, where the scenario does not say."""

    def port(self, value: object, what: str = "a port") -> int:
        """A port by number or name. Raises ``UsageError``."""
        if isinstance(value, str):
            if value not in self._ports:
                known = ", ".join(self._ports) or "none"
                raise UsageError(f"{what}: there is no port named {value!r} (there are: {known})")
            return self._ports[value]
        return number_of(value, 0xFFFF, what)

    def message(self, action: Action, values: Mapping[str, Any], sequence: int) -> bytes:
        """A whole message; ``sequence`` counts where the scenario does not say another. Raises ``UsageError``."""
        payload = self.payload(action, values)
        header = RdsHeader(sequence=sequence, length=len(payload))
        self._shape(action, header)
        for name in HEADER_FIELDS & values.keys() - {"checksum"}:
            setattr(header, name, self._field(name, values[name]))
        try:
            packed = RDS_HEADER.pack(header)
        except CodecError as problem:
            raise UsageError(str(problem)) from None
        if "checksum" in values:
            header.checksum = _checksum(values["checksum"], packed)
            packed = RDS_HEADER.pack(header)
        return packed + payload

    def _shape(self, action: Action, header: RdsHeader) -> None:
        """What makes a message of this kind."""
        ours, theirs = self._ports.get(_OURS, 0), self._ports.get(_THEIRS, 0)
        match action:
            case Action.PING:
                header.sport, header.dport = ours, PING_PORT
            case Action.PONG:
                header.sport, header.dport = PING_PORT, theirs
            case Action.PROBE:
                header.sport, header.dport, header.exthdr = PROBE_PORT, PING_PORT, self._announcement()
            case Action.PROBE_REPLY:
                header.sport, header.dport, header.exthdr = PING_PORT, PROBE_PORT, self._announcement()
            case Action.CONGESTION:
                header.sequence, header.flags = 0, int(Flags.CONG_BITMAP)
            case _:
                header.sport, header.dport = ours, theirs

    def _announcement(self) -> bytes:
        return _extensions([{"NPATHS": MAX_PATHS}, {"GEN_NUM": self._generation}, {"SPORT_IDX": 0}])

    def _field(self, name: str, value: Any) -> int | bytes:
        if name in PORT_FIELDS:
            return self.port(value, name)
        if name == "flags":
            return _flags(value)
        if name == "exthdr":
            return _extensions(value)
        field = RDS_HEADER.table[name]
        if isinstance(field.default, bytes):
            return hex_of(value, name).ljust(field.size, b"\0")
        return number_of(value, field.mask, name)

    def payload(self, action: Action, values: Mapping[str, Any]) -> bytes:
        """What is behind the header. Raises ``UsageError``."""
        given = [key for key in PAYLOAD_KEYS if key in values]
        if len(given) > 1:
            raise UsageError(f"{given[0]} and {given[1]} are two payloads")
        if "payload" in values:
            return text_of(values["payload"], "payload").encode()
        if "payload_hex" in values:
            return hex_of(values["payload_hex"], "payload_hex")
        if "payload_size" in values:
            return bytes(number_of(values["payload_size"], MAX_MESSAGE_BYTES, "payload_size"))
        if action is Action.CONGESTION:
            ports = values.get("congested", [])
            if ports == "all":
                return bitmap_of(range(PORTS))
            if not isinstance(ports, list):
                raise UsageError('congested is a list of ports, or "all"')
            return bitmap_of(self.port(each, "congested") for each in ports)
        return b""


def raw_bytes(values: Mapping[str, Any]) -> bytes:
    """The bytes of a ``bytes`` step. Raises ``UsageError``."""
    given = [key for key in BYTES_KEYS if key in values]
    if len(given) != 1:
        raise UsageError(f"bytes take one of {', '.join(BYTES_KEYS)}")
    if given[0] == "hex":
        return hex_of(values["hex"], "hex")
    size = number_of(values[given[0]], MAX_MESSAGE_BYTES, given[0])
    if given[0] == "zeros":
        return bytes(size)
    return random.Random(number_of(values.get("seed", 0), 1 << 63, "seed")).randbytes(size)  # noqa: S311


def number_of(value: object, most: int, what: str) -> int:
    """A whole number from 0 on. Raises ``UsageError``."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise UsageError(f"{what} is {value!r}, it can be 0 to {most}")
    return value


def text_of(value: object, what: str) -> str:
    """A text. Raises ``UsageError``."""
    if not isinstance(value, str):
        raise UsageError(f"{what} is {value!r}, it is a text")
    return value


def hex_of(value: object, what: str) -> bytes:
    """Bytes that are written as hexadecimal digits. Raises ``UsageError``."""
    try:
        return bytes.fromhex(text_of(value, what))
    except ValueError:
        raise UsageError(f"{what} is {value!r}, it is pairs of hexadecimal digits") from None


def _flags(value: object) -> int:
    if not isinstance(value, list):
        return number_of(value, 0xFF, "flags")
    total = 0
    for name in value:
        if name not in _FLAGS:
            raise UsageError(f"there is no flag {name!r}: they are {', '.join(_FLAGS)}")
        total |= _FLAGS[name]
    return total


def _checksum(value: object, packed: bytes) -> int:
    right = header_checksum(packed)
    if value == "good":
        return right
    if value == "bad":
        return right ^ 0xFFFF or 1
    if isinstance(value, str):
        raise UsageError(f'checksum is {value!r}: it is a number, "good" or "bad"')
    return number_of(value, 0xFFFF, "checksum")


def _extensions(value: object) -> bytes:
    """The 16 bytes: hexadecimal digits, or a list with a table or digits for each extension header."""
    if isinstance(value, str):
        data = hex_of(value, "exthdr")
    elif isinstance(value, list):
        data = b"".join(_extension(item) for item in value)
    else:
        raise UsageError("exthdr is a list of extension headers, or hexadecimal digits")
    if len(data) > EXTENSION_BYTES:
        raise UsageError(f"exthdr has {len(data)} bytes, there is room for {EXTENSION_BYTES}")
    return data.ljust(EXTENSION_BYTES, b"\0")


def _extension(item: object) -> bytes:
    if isinstance(item, str):
        return hex_of(item, "exthdr")
    if not isinstance(item, dict) or len(item) != 1:
        raise UsageError("an extension header is { NAME = value }, as { NPATHS = 8 }, or hexadecimal digits")
    ((name, value),) = item.items()
    kinds = {kind.name: kind for kind in EXTENSIONS}
    if name not in kinds:
        raise UsageError(f"there is no extension header {name!r}: they are {', '.join(kinds)}")
    kind = ExtensionType(kinds[name])
    fields = table_of(EXTENSIONS[kind]).fields
    given = value if isinstance(value, dict) else {fields[0].name: value}
    sizes = {field.name: field.mask for field in fields if not isinstance(field.default, bytes)}
    for key, number in given.items():
        if key not in sizes:
            raise UsageError(f"{name} has no field {key!r}: they are {', '.join(sizes)}")
        number_of(number, sizes[key], f"{name}.{key}")
    codec: Any = CODECS[kind]
    return bytes((kind,)) + bytes(codec.pack(EXTENSIONS[kind](**given)))
