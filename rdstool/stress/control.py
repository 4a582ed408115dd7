"""The control channel: a TCP connection that carries the options and two bytes, and ends with the run (§12.1)."""

from __future__ import annotations

import asyncio
import errno
import os
from typing import Self

from rdstool.errors import TransportError
from rdstool.stress.parameters import FIRST_READ_BYTES, LONG_BYTES, SHORT_BYTES, Parameters, is_long, unpack

ANSWER_S = 30.0
"""How long the peer may take for its part of the negotiation: rds-stress starts a process for each task meanwhile."""
RETRY_S = 1.0
"""Between two attempts to connect."""
_GO = b"\0"
_WORTH_A_RETRY = {errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH}
_EARLY_END = "the peer closed the control connection before the run began: its own output may say why"


class Control:
    """The control connection of a run."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.own: str = writer.get_extra_info("sockname")[0]
        """Own address of the connection."""
        self.peer: str = writer.get_extra_info("peername")[0]
        """The peer's."""

    async def offer(self, parameters: Parameters) -> None:
        """Tell the passive side what to do."""
        self._writer.write(parameters.packed(self.own, self.peer))
        await self._writer.drain()

    async def asked(self) -> tuple[Parameters, str]:
        """What the active side wants, and its address for RDS. Raises ``TransportError``, ``UsageError``."""
        beginning = await self._read(FIRST_READ_BYTES)
        whole = LONG_BYTES if is_long(beginning) else SHORT_BYTES
        return unpack(beginning + await self._read(whole - FIRST_READ_BYTES))

    async def go(self, *, active: bool) -> None:
        """All our tasks are ready: wait until those of the peer are. Raises ``TransportError``."""
        if active:
            self._writer.write(_GO)
            await self._read(len(_GO))
        else:
            await self._read(len(_GO))
            self._writer.write(_GO)

    async def ended(self) -> None:
        """Return when the peer ends the run."""
        try:
            while await self._reader.read(1 << 10):
                pass
        except OSError:
            pass

    async def _read(self, size: int) -> bytes:
        try:
            # Before Python 3.12, wait_for loses a cancellation that comes with the answer, and Ctrl-C with it.
            async with asyncio.timeout(ANSWER_S):
                return await self._reader.readexactly(size)
        except (asyncio.IncompleteReadError, ConnectionError):
            raise TransportError(_EARLY_END) from None
        except TimeoutError:
            raise TransportError(f"{self.peer} did not answer on the control connection for {ANSWER_S:g} s") from None

    def close(self) -> None:
        """End the run."""
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


async def dial(address: str, port: int, own: str, retries: int) -> Control:
    """Connect to a passive side; ``retries`` times more where nobody listens. Raises ``TransportError``."""
    for attempt in range(retries + 1):
        if attempt:
            await asyncio.sleep(RETRY_S)
        try:
            return Control(*await asyncio.open_connection(address, port, local_addr=(own, 0)))
        except OSError as problem:
            # asyncio's own text names the address as a Python tuple.
            why = os.strerror(problem.errno) if problem.errno else str(problem)
            if problem.errno not in _WORTH_A_RETRY:
                break
    raise TransportError(
        f"no control connection to {address}:{port} ({why}): start 'rdstool stress' or 'rds-stress' there first, "
        "or let --connect-retries wait for it"
    )


class Doorway:
    """Listens for the one control connection of a run."""

    def __init__(self, server: asyncio.Server, come: asyncio.Future[Control]) -> None:
        self._server = server
        self._come = come

    @classmethod
    async def open(cls, address: str, port: int) -> Self:
        """Begin to listen. Raises ``TransportError``."""
        come: asyncio.Future[Control] = asyncio.get_running_loop().create_future()

        def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if come.done():
                writer.close()
            else:
                come.set_result(Control(reader, writer))

        try:
            server = await asyncio.start_server(take, address, port)
        except OSError as problem:
            raise TransportError(
                f"cannot listen on {address}:{port} for the control connection: {problem.strerror or problem}"
            ) from None
        return cls(server, come)

    async def control(self) -> Control:
        """The first connection that comes; further ones are refused."""
        try:
            return await self._come
        finally:
            self._server.close()
