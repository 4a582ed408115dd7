"""Addresses as socket options take them."""

from __future__ import annotations

import socket
import struct

import pytest

from rdstool.afrds.sockets import family_of, pack_address


@pytest.mark.parametrize(("address", "length"), [("192.0.2.1", 16), ("2001:db8::1", 28)])
def test_addresses_are_laid_out_as_the_kernel_has_them(address: str, length: int) -> None:
    packed = pack_address(address, 4000)
    assert len(packed) == length
    assert struct.unpack_from("=H", packed)[0] == family_of(address)
    assert struct.unpack_from(">H", packed, 2)[0] == 4000
    assert socket.inet_pton(family_of(address), address) in packed
