"""What a run is to do: as the user says it, and as the active side tells it to the passive one (protocol.md §12.1)."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address

from dissectors.wire.rds import MAX_MESSAGE_BYTES
from dissectors.wire.stress import (
    CONTROL_PORT,
    MESSAGE_BYTES,
    STRESS_MORE,
    STRESS_OPTIONS,
    STRESS_VERSION,
    VERSION,
    StressMore,
    StressOptions,
    StressVersion,
)
from rdstool.errors import UsageError

MAX_TASKS = 256
"""Tasks of each side; each talks to all of the other side."""
MAX_DEPTH = 0xFFFF
"""Requests between two tasks: a slot's number has 16 bits."""
MAX_BUFFER_BYTES = 1 << 30
"""Send and receive buffer of one task, each."""
SHORT_BYTES = STRESS_OPTIONS.size
LONG_BYTES = STRESS_VERSION.size + STRESS_OPTIONS.size + STRESS_MORE.size
FIRST_READ_BYTES = STRESS_VERSION.size
"""What tells the two forms apart: rds-stress reads so much, and at once."""
_VERSION = VERSION.encode().ljust(STRESS_VERSION.size, b"\0")


@dataclass(frozen=True, slots=True)
class Parameters:
    """One run. Raises ``UsageError`` where it cannot be done."""

    depth: int = 1
    """Requests that are outstanding between two tasks."""
    request_bytes: int = 1024
    ack_bytes: int = MESSAGE_BYTES
    port: int = CONTROL_PORT
    """TCP port of the control channel. Task ``i`` has the RDS port ``port + 1 + i``."""
    tasks: int = 1
    """Of each side."""
    seconds: int = 0
    """How long; 0 without end."""
    verify: bool = False
    """Fill messages with a pattern, and compare what comes."""
    simplex: bool = False
    """Only the active side sends requests."""
    tos: int = 0
    """Type of service. TCP knows one only, but the peer is told."""

    def __post_init__(self) -> None:
        for what, size in (("request", self.request_bytes), ("ack", self.ack_bytes)):
            _within(f"the {what} size", size, MESSAGE_BYTES, MAX_MESSAGE_BYTES)
        _within("the depth", self.depth, 1, MAX_DEPTH)
        _within("the number of tasks", self.tasks, 1, MAX_TASKS)
        _within("the port", self.port, 1, 0xFFFF - self.tasks)
        _within("the type of service", self.tos, 0, 0xFF)
        if self.buffer_bytes > MAX_BUFFER_BYTES:
            raise UsageError(
                f"{self.tasks} tasks, depth {self.depth} and {self.request_bytes}-byte requests take buffers of "
                f"{self.buffer_bytes} bytes, more than {MAX_BUFFER_BYTES}: choose less of one of them"
            )

    @property
    def buffer_bytes(self) -> int:
        """SO_SNDBUF and SO_RCVBUF of each task."""
        return self.tasks * self.depth * (self.request_bytes + self.ack_bytes) * 2

    def ports(self) -> list[int]:
        """RDS ports of the tasks of one side."""
        return [self.port + 1 + number for number in range(self.tasks)]

    def packed(self, own: str, peer: str) -> bytes:
        """The option block that the active side at ``own`` sends to ``peer``."""
        options = StressOptions(
            req_depth=self.depth,
            req_size=self.request_bytes,
            ack_size=self.ack_bytes,
            send_addr=IPv4Address(peer).packed,
            receive_addr=IPv4Address(own).packed,
            starting_port=self.port,
            nr_tasks=self.tasks,
            run_time=self.seconds,
            verify=self.verify,
            simplex=self.simplex,
        )
        block = STRESS_OPTIONS.pack(options)
        if not self.tos:
            return block
        return STRESS_VERSION.pack(StressVersion(_VERSION)) + block + STRESS_MORE.pack(StressMore(tos=self.tos))


def is_long(beginning: bytes) -> bool:
    """True where the first 16 bytes of an option block say that it has the longer form."""
    return beginning == _VERSION


def unpack(block: bytes) -> tuple[Parameters, str]:
    """The run that an option block asks for, and the address of the active side.

    Raises ``UsageError`` where it asks for what cannot be done here.
    """
    long = is_long(block[:FIRST_READ_BYTES])
    options = STRESS_OPTIONS.unpack_from(block, STRESS_VERSION.size if long else 0)
    more = STRESS_MORE.unpack_from(block, STRESS_VERSION.size + STRESS_OPTIONS.size) if long else StressMore()
    if options.rdma_size:
        raise UsageError("the active side asks for RDMA (-D), which rdstool cannot do over TCP")
    if more.asynchronous:
        raise UsageError("the active side asks for asynchronous sends, which only Oracle's kernel has")
    parameters = Parameters(
        depth=options.req_depth,
        request_bytes=options.req_size,
        ack_bytes=options.ack_size,
        port=options.starting_port,
        tasks=options.nr_tasks,
        seconds=options.run_time,
        verify=bool(options.verify),
        simplex=bool(options.simplex),
        tos=more.tos,
    )
    return parameters, str(IPv4Address(options.receive_addr))


def _within(what: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise UsageError(f"{what} is {value}, it can be {least} to {most}")
