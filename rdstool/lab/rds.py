"""The counterpart in the guest: real AF_RDS sockets, driven from the host."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from dissectors.wire.rds import MAX_MESSAGE_BYTES
from rdstool.afrds.numbers import SOL_RDS, Option

SEND_TIMEOUT_S = 90.0
"""For sends that block; it is only spent where the peer does not come, or does not read."""

RECEIVE_TIMEOUT_S = 90.0
"""For messages that a test expects; it is only spent where they do not come."""


class Call(Protocol):
    """Calls the agent, as ``Guest.call`` does."""

    def __call__(self, what: str, *, wait_s: float = 0.0, **arguments: Any) -> Any:
        """Ask the agent."""


@dataclass(frozen=True, slots=True)
class RdsSocket:
    """A socket in the guest."""

    number: int
    """Number by which the agent knows it."""
    address: str
    """Empty where it is not bound."""
    port: int

    @property
    def end(self) -> tuple[str, int]:
        """Its address and port."""
        return self.address, self.port


@dataclass(frozen=True, slots=True)
class Message:
    """What a socket in the guest received."""

    socket: int
    """The number of the socket."""
    source: tuple[str, int] | None
    """The sender's address and port; None where only control messages came."""
    length: int
    """Bytes received."""
    sha256: str
    """SHA-256 of these bytes in hexadecimal."""
    flags: int
    """What ``recvmsg`` gave: MSG_TRUNC …"""
    control: tuple[tuple[int, int, bytes], ...]
    """Control messages: level, type, data."""
    data: bytes | None = None
    """The bytes, where they were asked for."""


class Rds:
    """Sockets and tables of the guest's RDS. Methods raise ``GuestError``, with the name of the errno."""

    def __init__(self, call: Call) -> None:
        self._call = call

    # ---- Sockets

    def open(
        self,
        address: str | None = None,
        port: int = 0,
        *,
        transport: str | None = None,
        sndbuf: int | None = None,
        rcvbuf: int | None = None,
    ) -> RdsSocket:
        """A socket, bound where an address is given; ``transport`` pins it to ``tcp`` or ``ib``. Buffers in bytes."""
        return self._open(1, address, port, transport, sndbuf, rcvbuf)[0]

    def open_many(
        self,
        count: int,
        address: str,
        *,
        transport: str | None = None,
        sndbuf: int | None = None,
        rcvbuf: int | None = None,
    ) -> list[RdsSocket]:
        """``count`` sockets on ports that the kernel picks."""
        return self._open(count, address, 0, transport, sndbuf, rcvbuf)

    def _open(
        self, count: int, address: str | None, port: int, transport: str | None, sndbuf: int | None, rcvbuf: int | None
    ) -> list[RdsSocket]:
        told = self._call(
            "sockets.open",
            address=address,
            port=port,
            transport=transport,
            sndbuf=sndbuf,
            rcvbuf=rcvbuf,
            many=count,
        )
        return [RdsSocket(each["socket"], each.get("address", ""), each.get("port", 0)) for each in told]

    def close(self, *sockets: RdsSocket) -> None:
        """Close sockets."""
        self._call("sockets.close", sockets=[each.number for each in sockets])

    def close_all(self) -> None:
        """Close all sockets that were opened through the agent."""
        self._call("sockets.close")

    def connect(self, sock: RdsSocket, to: RdsSocket | tuple[str, int]) -> None:
        """Set the default destination."""
        address, port = _end(to)
        self._call("sockets.connect", sock=sock.number, address=address, port=port)

    # ---- Messages

    def send(
        self,
        sock: RdsSocket,
        to: RdsSocket | tuple[str, int] | None,
        *,
        size: int = 0,
        seed: int = 0,
        data: bytes | None = None,
        flags: Iterable[str] = (),
        control: Iterable[tuple[int, int, bytes]] = (),
        timeout_s: float = SEND_TIMEOUT_S,
    ) -> int:
        """Send ``data``, or ``payload(seed, size)``; what ``sendmsg`` returned.

        ``flags`` are ``nonblocking``, ``oob``; ``control`` has control messages: level, type, data. A kernel that has
        not heard of the peer yet lets a blocking send wait for the peer's handshake, and takes the message all the
        same when ``timeout_s`` is over. A full send queue gives ETIMEDOUT then.
        """
        return int(
            self._call(
                "sockets.send",
                wait_s=timeout_s,
                timeout=timeout_s,
                sock=sock.number,
                to=None if to is None else list(_end(to)),
                size=size,
                seed=seed,
                data=None if data is None else _encode(data),
                flags=list(flags),
                control=[(level, kind, _encode(value)) for level, kind, value in control],
            )
        )

    def send_many(
        self,
        messages: Sequence[tuple[RdsSocket, RdsSocket | tuple[str, int], int, int]],
        *,
        nonblocking: bool = False,
        stop: bool = True,
        timeout_s: float = SEND_TIMEOUT_S,
    ) -> list[str | None]:
        """Send messages, each (socket, destination, size, seed), in one go: for thousands of them.

        For each that was tried, None or the errno's name. With ``stop``, the first that fails is the last one tried.
        ``timeout_s`` is for each message; a call that takes longer than two minutes more than it is an error, so
        split very long plans.
        """
        plan = [(sock.number, *_end(to), size, seed) for sock, to, size, seed in messages]
        told: list[str | None] = self._call(
            "sockets.send_many",
            wait_s=timeout_s,
            messages=plan,
            nonblocking=nonblocking,
            stop=stop,
            timeout=timeout_s,
        )
        return told

    def receive(
        self,
        sock: RdsSocket,
        *,
        timeout_s: float = RECEIVE_TIMEOUT_S,
        size: int = MAX_MESSAGE_BYTES,
        flags: Iterable[str] = (),
        data: bool = False,
    ) -> Message:
        """Receive one message, at most ``size`` bytes of it; its bytes too with ``data``.

        ``flags`` are ``peek``, ``trunc``, ``oob``. Raises ``GuestError`` with errno ETIMEDOUT where none comes.
        """
        told = self._call(
            "sockets.receive",
            wait_s=timeout_s,
            sock=sock.number,
            timeout=timeout_s,
            size=size,
            flags=list(flags),
            data=data,
        )
        return _message(told)

    def receive_many(
        self, sockets: Sequence[RdsSocket], count: int, *, timeout_s: float = RECEIVE_TIMEOUT_S
    ) -> list[Message]:
        """Receive ``count`` messages from several sockets, each socket's in their order; fewer after the timeout."""
        told = self._call(
            "sockets.receive_many",
            wait_s=timeout_s,
            sockets=[each.number for each in sockets],
            messages=count,
            timeout=timeout_s,
        )
        return [_message(each) for each in told]

    def poll(self, sock: RdsSocket, *events: str, timeout_s: float = 0.0) -> list[str]:
        """Wait for any of ``in``, ``out``, ``band`` (POLLWRBAND); those that there are."""
        told: list[str] = self._call(
            "sockets.poll", wait_s=timeout_s, sock=sock.number, events=list(events), timeout=timeout_s
        )
        return told

    # ---- Options

    def cancel_sent_to(self, sock: RdsSocket, to: RdsSocket | tuple[str, int]) -> None:
        """RDS_CANCEL_SENT_TO: drop what is queued or unacknowledged to exactly this destination."""
        address, port = _end(to)
        self._call("sockets.cancel", sock=sock.number, address=address, port=port)

    def monitor_congestion(self, sock: RdsSocket, on: bool = True) -> None:
        """Set RDS_CONG_MONITOR."""
        self.set_option(sock, SOL_RDS, Option.CONG_MONITOR, int(on))

    def set_option(self, sock: RdsSocket, level: int, option: int, value: int | bytes) -> None:
        """Set a socket option, as ``setsockopt`` does."""
        given = _encode(value) if isinstance(value, bytes) else value
        self._call("sockets.set_option", sock=sock.number, level=level, option=int(option), value=given)

    # ---- What rds-info shows

    def counters(self) -> dict[str, int]:
        """All counters by the kernel's names."""
        told: dict[str, int] = self._call("system.counters")
        return told

    def table(self, name: str, *, ipv6: bool = False) -> list[dict[str, Any]]:
        """A table of ``rdstool.afrds.info.TABLES``: ``connections``, ``sockets``, ``tcp_sockets`` and so on."""
        told: list[dict[str, Any]] = self._call("system.table", name=name, ipv6=ipv6)
        return told


def _end(to: RdsSocket | tuple[str, int]) -> tuple[str, int]:
    return to.end if isinstance(to, RdsSocket) else to


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _message(told: dict[str, Any]) -> Message:
    source = told["from"]
    return Message(
        told["socket"],
        (source[0], source[1]) if source else None,
        told["length"],
        told["sha256"],
        told["flags"],
        tuple((level, kind, base64.b64decode(value)) for level, kind, value in told["control"]),
        base64.b64decode(told["data"]) if "data" in told else None,
    )
