"""What every provider refuses, and its words for it."""

from __future__ import annotations

from rdstool.errors import TransportError
from rdstool.protocol.addresses import canonical, is_host, same_family
from rdstool.transport.ib.provider import ATOMIC_BYTES

_ADDRESSES = 1 << 64
_KEYS = 1 << 32


def reachable(peer: str, own: str) -> str:
    """The peer's address in its canonical form. Raises ``TransportError`` where ``own`` cannot reach it."""
    try:
        peer = canonical(peer)
    except ValueError:
        raise TransportError(f"{peer} is not an IP address") from None
    if not is_host(peer) or not same_family(peer, own):
        raise TransportError(f"{peer} is no host that {own} can reach: give an address of its family")
    return peer


def check_remote(address: int, rkey: int) -> None:
    """Raises ``TransportError`` where no memory of a peer can have these."""
    if not 0 <= address < _ADDRESSES or not 0 <= rkey < _KEYS:
        raise TransportError(f"no remote memory has address {address} and key {rkey}: 64 and 32 bits are there")


def check_atomic(address: int, rkey: int) -> None:
    """The same for an atomic operation, which needs a whole number there."""
    if address % ATOMIC_BYTES:
        raise TransportError(f"an atomic operation needs an address that {ATOMIC_BYTES} divides, not {address:#x}")
    check_remote(address, rkey)
