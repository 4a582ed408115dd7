"""The process that holds a network namespace, and makes sockets and tap devices in it for the process that started it.

Run with the number of a connected socket as its argument. Each request is one JSON object; the answer is ``{}`` with a
file descriptor beside it, or ``{"error": ...}``. When the socket closes it ends, and the namespace with it.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any

REQUEST_BYTES = 4096
"""More than any request takes."""

_TUN = "/dev/net/tun"
_TUNSETIFF, _TUNSETPERSIST = 0x400454CA, 0x400454CB
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000


def make_socket(family: int, kind: int, protocol: int) -> int:
    """A socket; it stays in this namespace wherever it is used."""
    return socket.socket(family, kind, protocol).detach()


def make_tap(name: str) -> int:
    """A descriptor of a tap device, which is made the first time and lasts as long as the namespace."""
    device = os.open(_TUN, os.O_RDWR | os.O_CLOEXEC)
    # With the virtio header, segments of up to 64 KiB pass in one piece, as between a guest and its host.
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR))
    fcntl.ioctl(device, _TUNSETPERSIST, 1)
    return device


MAKERS: dict[str, Callable[..., int]] = {"socket": make_socket, "tap": make_tap}


def serve(channel: socket.socket) -> None:
    """Answer requests until the other side is gone."""
    while request := channel.recv(REQUEST_BYTES):
        wanted: dict[str, Any] = json.loads(request)
        try:
            made = MAKERS[wanted["make"]](*wanted["arguments"])
        except OSError as problem:
            channel.send(json.dumps({"error": problem.errno, "file": problem.filename}).encode())
            continue
        socket.send_fds(channel, [b"{}"], [made])
        os.close(made)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
