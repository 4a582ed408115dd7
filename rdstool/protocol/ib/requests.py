"""From sendmsg's control messages to a message with its extension headers and its operation (§8.1, §8.3)."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from dissectors.wire.extensions import Extension, Rdma, RdmaBytes, build_extensions
from dissectors.wire.extensions import RdmaDest as RdmaDestHeader
from dissectors.wire.rds import MAX_MESSAGE_BYTES
from rdstool.protocol.control import (
    ATOMIC_BYTES,
    Atomic,
    CompareSwap,
    FetchAdd,
    RdmaArgs,
    RdmaControl,
    RdmaDest,
    RdmaMap,
)
from rdstool.protocol.errors import SocketError
from rdstool.protocol.host import Host
from rdstool.protocol.ib.memory import RdmaFlags, split_cookie
from rdstool.protocol.ib.operations import (
    AtomicOperation,
    MaskedOperation,
    ReadOperation,
    RemoteOperation,
    RemoteOutgoing,
    WriteOperation,
)
from rdstool.protocol.inbox import Inbox
from rdstool.protocol.outgoing import Outbox, Outgoing

_ADDRESSES = 1 << 64
MAX_PIECES = 1024
"""Pieces of local memory of one operation (``UIO_MAXIOV``)."""


def check(socket: Inbox, control: Sequence[RdmaControl], transport: str) -> None:
    """Raises ``SocketError``, as sendmsg(2) does for these control messages (§8.3, §9.5)."""
    if transport != "ib":
        if any(isinstance(item, RdmaDest) for item in control):
            raise SocketError(errno.EINVAL, "RDMA_DEST names no memory of this socket")
        raise SocketError(errno.EOPNOTSUPP, f"no RDMA over {transport}: use the transport ib")
    if len(control) > 1:
        raise SocketError(errno.EINVAL, "a message has one operation, or one piece of memory to offer")
    for item in control:
        match item:
            case RdmaArgs():
                _check_remote(item, _check_args(item))
            case RdmaDest(cookie=cookie):
                if socket.memory is None or cookie not in socket.memory:
                    raise SocketError(errno.EINVAL, f"{cookie:#x} is no memory of this socket")
            case RdmaMap():
                pass
            case FetchAdd() | CompareSwap():
                if memoryview(item.result).nbytes != ATOMIC_BYTES:
                    raise SocketError(errno.EFAULT, f"the result of an atomic needs {ATOMIC_BYTES} bytes")
                if _check_remote(item, ATOMIC_BYTES) % ATOMIC_BYTES:
                    where = f"{item.remote_offset} bytes into memory {item.cookie:#x}"
                    raise SocketError(errno.EINVAL, f"an atomic needs a multiple of {ATOMIC_BYTES}, not {where}")


def _check_remote(item: RdmaArgs | Atomic, size: int) -> int:
    """The peer's address, of which 64 bits are there."""
    address = split_cookie(item.cookie)[1] + item.remote_offset
    if not 0 <= address <= _ADDRESSES - size:
        raise SocketError(
            errno.EINVAL, f"no memory reaches {item.remote_offset} bytes from where {item.cookie:#x} begins"
        )
    return address


def _check_args(args: RdmaArgs) -> int:
    """Bytes that are to be moved."""
    if not args.local:
        raise SocketError(errno.EINVAL, "RDMA needs local memory")
    if len(args.local) > MAX_PIECES:
        raise SocketError(errno.EMSGSIZE, f"{len(args.local)} pieces of local memory, {MAX_PIECES} are allowed")
    size = sum(memoryview(piece).nbytes for piece in args.local)
    if size > MAX_MESSAGE_BYTES:
        raise SocketError(errno.EMSGSIZE, f"RDMA of {size} bytes, {MAX_MESSAGE_BYTES} are allowed")
    if args.remote_bytes is not None and size > args.remote_bytes:
        raise SocketError(errno.EINVAL, f"{size} bytes do not fit into the {args.remote_bytes} of the peer")
    reads = not args.flags & RdmaFlags.READWRITE
    if reads and any(memoryview(piece).readonly for piece in args.local):
        raise SocketError(errno.EFAULT, "RDMA READ needs memory that can be written: a bytearray, not bytes")
    return size


def make_message(
    socket: Outbox, node: Host, dport: int, payload: bytes, control: Sequence[RdmaControl], token: int | None
) -> Outgoing:
    """The message, after ``check``: memory is registered from here on, what it offers is already."""
    item = control[0]
    if isinstance(item, RdmaDest | RdmaMap):
        rkey, offset = split_cookie(item.cookie)
        exthdr = build_extensions([RdmaDestHeader(rkey, offset)])
        return Outgoing(socket, socket.port, dport, payload, token, exthdr)
    operation = _operation(socket, node, item)
    return RemoteOutgoing(socket, socket.port, dport, payload, _announce(node, operation), operation)


def _operation(socket: Outbox, node: Host, item: RdmaArgs | FetchAdd | CompareSwap) -> RemoteOperation:
    counters = node.counters
    if not isinstance(item, RdmaArgs):
        if isinstance(item, FetchAdd):
            counters.ib_atomic_fadd += 1
        else:
            counters.ib_atomic_cswp += 1
        return MaskedOperation(socket, item) if item.masked else AtomicOperation(socket, item)
    operation: RemoteOperation
    if item.flags & RdmaFlags.READWRITE:
        operation = WriteOperation(socket, item)
    else:
        operation = ReadOperation(socket, item, node.memory(socket.address))
    counters.send_rdma += 1
    counters.send_rdma_bytes += operation.length
    return operation


def _announce(node: Host, operation: RemoteOperation) -> bytes:
    """What tells the receiver that its memory was used. Kernels below 7.0 have room for one extension header (§2)."""
    if operation.direction is None:
        return build_extensions([])
    items: list[Extension] = [Rdma(operation.rkey)]
    if node.profile.several_extensions:
        items.append(RdmaBytes(operation.length, operation.direction))
    return build_extensions(items)
