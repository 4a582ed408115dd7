"""Runs in a guest: RDMA of the kernel's RDS by its socket interface (include/uapi/linux/rds.h).

``serve ADDRESS PORT``: for each request that offers memory, read from it or write to it, then answer.
``ask ADDRESS PORT PEER PORT``: offer memory to a peer with each request, and tell what has become of it.

``add ADDRESS PORT PEER PORT COOKIE``: have the kernel add one to a number of a peer, and wait for the end of that.

A request is an operation (``r`` or ``w``), a length and a seed; answers and results are SHA-256 in hex.
"""

from __future__ import annotations

import ctypes
import hashlib
import socket
import struct
import sys
from collections.abc import Callable
from errno import EAGAIN

AF_RDS, SOL_RDS, SO_RDS_TRANSPORT = 21, 276, 8
ARGS, DEST, MAP, STATUS, ADD = 1, 2, 3, 4, 6
READWRITE, FENCE, USE_ONCE, NOTIFY = 0x01, 0x02, 0x08, 0x20
REQUEST = struct.Struct(">cII")
_LIMIT = 1 << 20


def content(seed: int, size: int) -> bytes:
    """Bytes that tell where they are from."""
    return hashlib.shake_128(seed.to_bytes(4, "big")).digest(size)


def open_socket(address: str, port: int) -> socket.socket:
    """Bound, over InfiniBand."""
    made = socket.socket(AF_RDS, socket.SOCK_SEQPACKET, 0)
    made.setsockopt(SOL_RDS, SO_RDS_TRANSPORT, 0)
    made.bind((address, port))
    return made


def receive(sock: socket.socket) -> tuple[bytes, tuple[str, int], dict[int, bytes]]:
    """A message or a notification."""
    data, control, _, source = sock.recvmsg(65536, 1024)
    return data, source, {kind: value for level, kind, value in control if level == SOL_RDS}


def serve(address: str, port: int) -> None:
    """Read and write what requests offer."""
    sock = open_socket(address, port)
    while True:
        data, source, control = receive(sock)
        if not data:
            continue
        operation, size, seed = REQUEST.unpack_from(data)
        cookie = int.from_bytes(control[DEST], sys.byteorder)
        memory = ctypes.create_string_buffer(content(seed, size) if operation == b"w" else size, size)
        vector = struct.pack("=QQ", ctypes.addressof(memory), size)
        where = ctypes.create_string_buffer(vector, len(vector))
        flags = NOTIFY | (READWRITE if operation == b"w" else FENCE)
        args = struct.pack("=QQQQQQQ", cookie, 0, size, ctypes.addressof(where), 1, flags, seed)
        sock.sendmsg([b"done"], [(SOL_RDS, ARGS, args)], 0, source)
        while STATUS not in control:
            _, _, control = receive(sock)
        token, status = struct.unpack_from("=Qi", control[STATUS])
        assert token == seed
        told = hashlib.sha256(memory.raw).hexdigest()
        sock.sendmsg([f"{status} {told}".encode()], [], 0, source)


def patiently(call: Callable[[], object]) -> None:
    """Until a connection is there: memory is mapped for one."""
    while True:
        try:
            call()
        except OSError as problem:
            if problem.errno != EAGAIN:
                raise
        else:
            return


def ask(address: str, port: int, peer: str, peer_port: int) -> None:
    """Offer memory, and tell what has become of it; requests come on standard input."""
    sock = open_socket(address, port)
    for line in sys.argv[6:]:
        operation, size, seed = line.split(",")
        length = int(size)
        first = content(int(seed), length) if operation == "r" else bytes(length)
        memory = ctypes.create_string_buffer(first, length)
        cookie = ctypes.c_uint64()
        args = struct.pack("=QQQQ", ctypes.addressof(memory), length, ctypes.addressof(cookie), READWRITE | USE_ONCE)
        request = REQUEST.pack(operation.encode(), length, int(seed))
        patiently(lambda: sock.sendmsg([request], [(SOL_RDS, MAP, args)], 0, (peer, peer_port)))  # noqa: B023
        data = b""
        while not data:
            data, _, _ = receive(sock)
        sys.stdout.write(f"{hashlib.sha256(memory.raw).hexdigest()} {data.decode()}\n")


def add(address: str, port: int, peer: str, peer_port: int) -> None:
    """One atomic operation."""
    sock = open_socket(address, port)
    found = ctypes.c_uint64()
    args = struct.pack("=9Q", int(sys.argv[6]), ctypes.addressof(found), 0, 1, 0, 0, 0, NOTIFY, 7)
    sock.sendmsg([b"added"], [(SOL_RDS, ADD, args)], 0, (peer, peer_port))
    receive(sock)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2], int(sys.argv[3]))
    elif sys.argv[1] == "add":
        add(sys.argv[2], int(sys.argv[3]), sys.argv[4], int(sys.argv[5]))
    else:
        ask(sys.argv[2], int(sys.argv[3]), sys.argv[4], int(sys.argv[5]))
