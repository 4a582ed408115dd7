"""IP addresses as the engine keeps them: canonical text, with the number that decides who connects.

Link-local addresses of IPv6 come with the name of their interface, as in ``fe80::1%eth0``: one network after the other
has the same ones. Other addresses have no such scope, and lose one that they come with, as in the kernel (§9.3).
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

_MAPPED = 0xFFFF << 32
"""High bits of ``::ffff:a.b.c.d``, by which IPv4 addresses are compared with others (protocol.md §0)."""


@lru_cache(maxsize=65_536)
def parsed(text: str) -> IPv4Address | IPv6Address:
    """The address of ``text``; IPv4 where it is IPv6-mapped. Raises ``ValueError`` where it is none."""
    address = ip_address(text)
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address.scope_id is not None and not address.is_link_local:
            return IPv6Address(int(address))
    return address


def canonical(text: str) -> str:
    """The one way to write this address. Raises ``ValueError`` where it is none."""
    return str(parsed(text))


def rank(address: str) -> int:
    """The number by which two addresses are compared: the smaller one opens the TCP connections (§4.2)."""
    value = parsed(address)
    return _MAPPED | int(value) if isinstance(value, IPv4Address) else int(value)


def same_family(one: str, other: str) -> bool:
    """Both IPv4 or both IPv6."""
    return parsed(one).version == parsed(other).version


def scope(address: str) -> str:
    """The interface of a link-local address; empty where there is none."""
    return address.partition("%")[2]


def same_but_for_scope(one: str, other: str) -> bool:
    """The same address, perhaps of different interfaces."""
    return int(parsed(one)) == int(parsed(other)) and same_family(one, other)


def lacks_scope(address: str) -> bool:
    """A link-local address that does not tell its interface. IPv4's need not."""
    value = parsed(address)
    return isinstance(value, IPv6Address) and value.is_link_local and not value.scope_id


def is_host(address: str) -> bool:
    """An address that one host can have: neither unspecified nor broadcast nor multicast (§9.3)."""
    value = parsed(address)
    broadcast = isinstance(value, IPv4Address) and int(value) == 0xFFFFFFFF
    return not (value.is_unspecified or value.is_multicast or broadcast)
