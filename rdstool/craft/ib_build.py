"""What a scenario over InfiniBand sends: private data, frames of RDS, single packets; each right or wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import Any, NamedTuple

from dissectors.wire.cm import RDS_PRIVATE_V4, RDS_PRIVATE_V6, RdsPrivateV4, RdsPrivateV6
from dissectors.wire.infiniband import BTH, EXTENDED, RETH, Bth, Opcode
from dissectors.wire.rds import FRAGMENT_BYTES, HEADER_BYTES, MAX_MESSAGE_BYTES
from rdstool.craft.build import PAYLOAD_KEYS, Builder, hex_of, number_of, raw_bytes, text_of
from rdstool.craft.scenario import MESSAGES, OFFERED, REMOTE, Action
from rdstool.errors import UsageError
from rdstool.protocol.addresses import parsed

PRIVATE_ROOM = 56
"""Bytes of private data in a REQ of RDMA-CM's IP services."""
_U24, _U32, _U64 = (1 << 24) - 1, (1 << 32) - 1, (1 << 64) - 1
_OPCODES = {each.name.lower().replace("_", "-"): int(each) for each in Opcode}


class Target(NamedTuple):
    """The peer's memory that an operation names."""

    address: int
    rkey: int


def private_data(values: Mapping[str, Any], own: str, peer: str, tos: int) -> bytes:
    """The private data of a REQ, as honest as ``values`` let it be. Raises ``UsageError``."""
    if "private_hex" in values:
        data = hex_of(values["private_hex"], "private_hex")
    else:
        data = _greeting(values, own, peer, tos)
    size = number_of(values.get("private_size", len(data)), PRIVATE_ROOM, "private_size")
    if len(data) > PRIVATE_ROOM:
        raise UsageError(f"private data has {len(data)} bytes, there is room for {PRIVATE_ROOM}")
    return data[:size].ljust(size, b"\xff")


def _greeting(values: Mapping[str, Any], own: str, peer: str, tos: int) -> bytes:
    version4 = parsed(own).version == 4
    codec: Any = RDS_PRIVATE_V4 if version4 else RDS_PRIVATE_V6
    made: Any = (RdsPrivateV4 if version4 else RdsPrivateV6)(tos=tos)
    made.saddr, made.daddr = (_address(values.get(name, end), name) for name, end in (("saddr", own), ("daddr", peer)))
    for field in codec.table.fields:
        if field.name in values and field.name not in {"saddr", "daddr"}:
            setattr(made, field.name, number_of(values[field.name], field.mask, field.name))
    if len(made.saddr) != len(made.daddr) or len(made.saddr) != codec.table["saddr"].size:
        raise UsageError("saddr and daddr are addresses of the family that the scenario is played over")
    return bytes(codec.pack(made))


def _address(value: object, what: str) -> bytes:
    try:
        return ip_address(text_of(value, what)).packed
    except ValueError:
        raise UsageError(f"{what} is {value!r}, it is an IP address") from None


class IbBuilder(Builder):
    """Builds what one run sends over InfiniBand."""

    def __init__(self, ports: Mapping[str, int]) -> None:
        super().__init__(ports, 0)

    def check(self, action: Action, values: Mapping[str, Any]) -> None:
        """Raises ``UsageError`` where a step cannot be built."""
        if action in MESSAGES:
            self.frames(action, values, 1, 0)
        elif action is Action.BYTES:
            raw_bytes(values)
        elif action is Action.CONNECT and not {"saddr", "daddr"} & values.keys():
            private_data(values, "192.0.2.1", "192.0.2.2", 0)
        elif action is Action.PACKET:
            self.packet(values, 0, 0, self.carried(values, 1, 0))
        elif action in REMOTE:
            target(values, 0)
            for name in ("size", "add", "compare", "swap"):
                number_of(values.get(name, 0), MAX_MESSAGE_BYTES if name == "size" else _U64, name)

    def frames(self, action: Action, values: Mapping[str, Any], sequence: int, ack: int) -> list[bytes]:
        """The SENDs of a message: a header each, with a good checksum where nothing else is said.

        ``sequence`` and ``ack`` count where the scenario does not say others. Raises ``UsageError``.
        """
        natural = {"checksum": "good", "ack": ack}
        message = self.message(action, {**natural, **values}, sequence)
        header, payload = message[:HEADER_BYTES], message[HEADER_BYTES:]
        frames, at = [], 0
        for size in _fragments(values, len(payload)):
            frames.append(header + payload[at : at + size])
            at += size
        return frames

    def carried(self, values: Mapping[str, Any], sequence: int, ack: int) -> bytes:
        """What a packet has behind its headers: a whole message, or bytes. Raises ``UsageError``."""
        if "carries" not in values:
            return self.payload(Action.MESSAGE, values)
        names = {each.value: each for each in MESSAGES}
        if values["carries"] not in names:
            raise UsageError(f"carries is {values['carries']!r}, it is one of {', '.join(sorted(names))}")
        return b"".join(self.frames(names[values["carries"]], values, sequence, ack))

    def packet(self, values: Mapping[str, Any], number: int, psn: int, carried: bytes) -> bytes:
        """BTH, extended headers, payload and padding for queue pair ``number``, without ICRC. Raises ``UsageError``."""
        opcode = _opcode(values.get("opcode", "send-only"))
        ahead = values.get("ahead", 0)
        if not isinstance(ahead, int) or isinstance(ahead, bool) or abs(ahead) > _U24:
            raise UsageError(f"ahead is {ahead!r}, it can be {-_U24} to {_U24}")
        if values.get("icrc", "good") not in {"good", "bad"}:
            raise UsageError(f'icrc is {values["icrc"]!r}: it is "good" or "bad"')
        pad = -len(carried) & 3
        bth = Bth(opcode=opcode, padcount=pad, dqpn=number, ackreq=1, psn=(psn + ahead) & _U24)
        _fill(bth, BTH, {name: value for name, value in values.items() if name != "opcode"})
        head = bytes(BTH.pack(bth))
        for codec in EXTENDED.get(opcode, ()):
            extended = codec.cls()
            if codec is RETH:
                extended.dlen = len(carried)
            _fill(extended, codec, values)
            head += bytes(codec.pack(extended))
        return head + carried + bytes(pad)


def target(values: Mapping[str, Any], cookie: int | None) -> Target:
    """What an operation uses; ``cookie`` is that of the memory that the peer offers. Raises ``UsageError``."""
    rkey, address = values.get("rkey", 0), number_of(values.get("address", 0), _U64, "address")
    if rkey != OFFERED:
        return Target(address, number_of(rkey, _U32, "rkey"))
    assert cookie is not None
    return Target((cookie >> 32) + address, cookie & _U32)


def _fragments(values: Mapping[str, Any], size: int) -> Sequence[int]:
    """Bytes of payload behind each header."""
    if "fragments" not in values:
        return [min(FRAGMENT_BYTES, size - at) for at in range(0, size, FRAGMENT_BYTES)] or [0]
    given = values["fragments"]
    if not isinstance(given, list) or not given:
        raise UsageError("fragments is a list of numbers of bytes")
    if not any(key in values for key in PAYLOAD_KEYS):
        raise UsageError("fragments divide a payload: give one")
    return [number_of(each, FRAGMENT_BYTES, "a fragment") for each in given]


def _opcode(value: object) -> int:
    if isinstance(value, str):
        if value not in _OPCODES:
            raise UsageError(f"there is no opcode {value!r}: they are {', '.join(_OPCODES)}")
        return _OPCODES[value]
    return number_of(value, 0xFF, "opcode")


def _fill(header: Any, codec: Any, values: Mapping[str, Any]) -> None:
    """Set the fields that the scenario names."""
    for field in codec.table.fields:
        if field.name in values:
            setattr(header, field.name, number_of(values[field.name], field.mask, field.name))
