"""What a run is to do: as the user says it, and as the active side tells it to the passive one (protocol.md §12.1)."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Self

from dissectors.wire.rds import MAX_MESSAGE_BYTES
from dissectors.wire.stress import (
    CONTROL_PORT,
    MESSAGE_BYTES,
    STRESS_MORE,
    STRESS_OPTIONS,
    STRESS_VERSION,
    VERSION,
    RdmaMode,
    StressMore,
    StressOptions,
    StressVersion,
)
from rdstool.errors import UsageError

MAX_TASKS = 256
"""Tasks of each side; each talks to all of the other side."""
MAX_VECTOR = 512
"""Buffers of one RDMA, as rds-stress has it."""
MAX_DEPTH = 0xFFFF
"""Requests between two tasks: a slot's number has 16 bits."""
MAX_BUFFER_BYTES = 1 << 30
"""Send and receive buffer of one task, each."""
SHORT_BYTES = STRESS_OPTIONS.size
LONG_BYTES = STRESS_VERSION.size + STRESS_OPTIONS.size + STRESS_MORE.size
FIRST_READ_BYTES = STRESS_VERSION.size
"""What tells the two forms apart: rds-stress reads so much, and at once."""
_VERSION = VERSION.encode()


@dataclass(frozen=True, slots=True)
class RdmaParameters:
    """The RDMA that requests ask for. Raises ``UsageError`` where it cannot be done."""

    size: int
    """Bytes of each buffer."""
    mode: RdmaMode = RdmaMode.BOTH
    vector: int = 1
    """Buffers that one RDMA moves."""
    use_once: bool = True
    """Memory is void after the ack."""
    use_get_mr: bool = False
    """Register memory before the request that offers it, not with it."""
    fence: bool = True
    """Acks wait until the RDMA READ before them is done."""
    cache: bool = False
    """Register memory once and keep it."""
    alignment: int = 0
    """Bytes between a page and the memory. rds-stress has it; where memory begins is not seen by RoCE in userspace."""
    key_meter: bool = False
    """Look for keys that come again."""

    def __post_init__(self) -> None:
        _within("the RDMA size", self.size, 1, MAX_MESSAGE_BYTES)
        _within("the number of RDMA buffers", self.vector, 1, MAX_VECTOR)
        _within("the bytes of one RDMA", self.bytes, 1, MAX_MESSAGE_BYTES)
        if self.cache and self.use_once:
            raise UsageError("memory that is kept (--rdma-cache-mrs) cannot be for one use (--rdma-use-once)")
        if self.cache and not self.use_get_mr:
            raise UsageError("memory that is kept (--rdma-cache-mrs) is registered before (--rdma-use-get-mr 1)")

    @property
    def bytes(self) -> int:
        """Bytes of all buffers of one RDMA."""
        return self.size * self.vector

    @classmethod
    def chosen(
        cls,
        size: int,
        *,
        mode: int,
        vector: int,
        use_once: int | None,
        use_get_mr: int | None,
        fence: bool,
        cache: bool,
        alignment: int,
        key_meter: bool,
    ) -> Self | None:
        """With rds-stress's defaults where a choice is left out; None without RDMA."""
        if not size:
            return None
        return cls(
            size,
            RdmaMode(mode),
            vector,
            use_once=not cache if use_once is None else bool(use_once),
            use_get_mr=cache if use_get_mr is None else bool(use_get_mr),
            fence=fence,
            cache=cache,
            alignment=alignment,
            key_meter=key_meter,
        )


@dataclass(frozen=True, slots=True)
class Parameters:
    """What one run does. Raises ``UsageError`` where it cannot be done."""

    depth: int = 1
    """Requests that are outstanding between two tasks."""
    request_bytes: int = 1024
    ack_bytes: int = MESSAGE_BYTES
    port: int = CONTROL_PORT
    """TCP port of the control channel. Task ``i`` has the RDS port ``port + 1 + i``."""
    tasks: int = 1
    """Tasks of each side."""
    seconds: int = 0
    """How long; 0 without end."""
    verify: bool = False
    """Fill messages with a pattern, and compare what comes."""
    simplex: bool = False
    """Only the active side sends requests."""
    tos: int = 0
    """Type of service. TCP knows one only, but the peer is told."""
    rdma: RdmaParameters | None = None
    show: bool = False
    """Both sides tell what they do (``--show-params``)."""
    real_time: bool = False
    """Run at real-time priority. rds-stress at the other end does; rdstool does so only where its own user says it."""

    def __post_init__(self) -> None:
        for what, size in (("request", self.request_bytes), ("ack", self.ack_bytes)):
            _within(f"the {what} size", size, MESSAGE_BYTES, MAX_MESSAGE_BYTES)
        _within("the depth", self.depth, 1, MAX_DEPTH)
        _within("the number of tasks", self.tasks, 1, MAX_TASKS)
        _within("the port", self.port, 1, 0xFFFF - self.tasks)
        _within("the type of service", self.tos, 0, 0xFF)
        if self.rdma is not None and self.rdma_bytes > MAX_BUFFER_BYTES:
            raise UsageError(f"RDMA buffers of {self.rdma_bytes} bytes in all are more than {MAX_BUFFER_BYTES}")
        if self.buffer_bytes > MAX_BUFFER_BYTES:
            raise UsageError(
                f"{self.tasks} tasks, depth {self.depth} and {self.request_bytes}-byte requests take buffers of "
                f"{self.buffer_bytes} bytes, more than {MAX_BUFFER_BYTES}: choose less of one of them"
            )

    @property
    def buffer_bytes(self) -> int:
        """SO_SNDBUF and SO_RCVBUF of each task."""
        return self.tasks * self.depth * (self.request_bytes + self.ack_bytes) * 2

    @property
    def rdma_bytes(self) -> int:
        """Memory of one side for RDMA: what it offers, and what it moves to and from."""
        return 0 if self.rdma is None else 2 * self.tasks**2 * self.depth * self.rdma.bytes

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
            show_params=self.show,
            rtprio=self.real_time,
            **_rdma_options(self.rdma),
        )
        block = STRESS_OPTIONS.pack(options)
        if not self.tos:
            return block
        version = _VERSION.ljust(STRESS_VERSION.size, b"\0")
        return STRESS_VERSION.pack(StressVersion(version)) + block + STRESS_MORE.pack(StressMore(tos=self.tos))


def is_long(beginning: bytes) -> bool:
    """True where the first 16 bytes of an option block say that it has the longer form.

    They are a version then, and its end is a zero: rds-stress does not clear what is behind it. Raises ``UsageError``
    where the version is another one: its options may have another form.
    """
    version = beginning.split(b"\0", 1)[0]
    if version == _VERSION:
        return True
    if version[:1].isdigit():  # No depth of requests is so great.
        text = version.decode("ascii", "backslashreplace")
        raise UsageError(f"the active side runs rds-stress {text}; {VERSION} is understood")
    return False


def unpack(block: bytes) -> tuple[Parameters, str]:
    """The run that an option block asks for, and the address of the active side.

    Raises ``UsageError`` where it asks for what cannot be done here.
    """
    long = is_long(block[:FIRST_READ_BYTES])
    options = STRESS_OPTIONS.unpack_from(block, STRESS_VERSION.size if long else 0)
    more = STRESS_MORE.unpack_from(block, STRESS_VERSION.size + STRESS_OPTIONS.size) if long else StressMore()
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
        rdma=_rdma_asked(options),
        show=bool(options.show_params),
        real_time=bool(options.rtprio),
    )
    return parameters, str(IPv4Address(options.receive_addr))


def _rdma_options(rdma: RdmaParameters | None) -> dict[str, int]:
    if rdma is None:
        return {}
    return {
        "rdma_size": rdma.size,
        "rdma_use_once": rdma.use_once,
        "rdma_use_get_mr": rdma.use_get_mr,
        "rdma_use_fence": rdma.fence,
        "rdma_cache_mrs": rdma.cache,
        "rdma_key_o_meter": rdma.key_meter,
        "rw_mode": rdma.mode,
        "rdma_vector": rdma.vector,
        "rdma_alignment": rdma.alignment,
    }


def _rdma_asked(options: StressOptions) -> RdmaParameters | None:
    if not options.rdma_size:
        return None
    if options.rw_mode not in set(RdmaMode):
        raise UsageError(f"the active side asks for RDMA of mode {options.rw_mode}, which does not exist")
    return RdmaParameters(
        options.rdma_size,
        RdmaMode(options.rw_mode),
        options.rdma_vector,
        use_once=bool(options.rdma_use_once),
        use_get_mr=bool(options.rdma_use_get_mr),
        fence=bool(options.rdma_use_fence),
        cache=bool(options.rdma_cache_mrs),
        alignment=options.rdma_alignment,
        key_meter=bool(options.rdma_key_o_meter),
    )


def _within(what: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise UsageError(f"{what} is {value}, it can be {least} to {most}")
