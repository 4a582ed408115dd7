"""Runs in a guest with Debian's Python: rdstool with the provider verbs, told over TCP what to do.

``python3 verbs_peer.py ADDRESS`` waits for a connection. Each line of JSON is a method of :class:`Peer` and its
arguments; the answer is a line of JSON. Messages are made of seeds, and told of by their SHA-256.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from typing import TextIO

from rdstool.endpoint.blocking import Socket
from rdstool.endpoint.core import NodeOptions
from rdstool.endpoint.stack import Stack
from rdstool.errors import TransportError
from rdstool.lab.content import digest, payload
from rdstool.protocol.config import Settings
from rdstool.protocol.control import RdmaMap
from rdstool.protocol.errors import RdmaError
from rdstool.protocol.ib.memory import RdmaFlags
from rdstool.protocol.ib.private import service_id
from rdstool.protocol.kinds import Transport
from rdstool.transport.ib.verbs import make_provider
from tests.interop.ib_ends import Client, Server, run
from tests.interop.rdma_program import REQUEST, content

PORT = 7176
RDS_PORT = 5000
BUFFER = 4 << 20
TIMEOUT_S = 60.0
PATIENCE = 10.0
"""Of scenarios: the guest is slow, and the machine may be busy."""


class Peer:
    """What the guest can be told to do."""

    def __init__(self, address: str, out: TextIO) -> None:
        self._address = address
        self._out = out
        self._memory = bytearray()
        self._stack: Stack
        self._socket: Socket

    def tell(self, what: object) -> None:
        """Answer."""
        self._out.write(json.dumps(what) + "\n")
        self._out.flush()

    # ---- The provider by itself

    def serve(self, connections: int) -> None:
        """Be the server until so many connections have ended."""
        provider = make_provider(self._address)
        server = Server(provider)
        self.tell("ready")
        run([server], lambda: len(server.ended) == connections)
        server.close()
        provider.close()
        self.tell([server.asked, len(server.broken), digest(bytes(server.memory[16:]))])

    def call(self, own: str, peer: str) -> None:
        """Be the client of the host."""
        provider = make_provider(own)
        client = Client(provider, peer)
        run([client], lambda: client.done)
        provider.close()
        self.tell(client.result)

    def alone(self) -> None:
        """Be both: from the device to itself."""
        here, there = make_provider(self._address), make_provider(self._address)
        server = Server(there)
        client = Client(here, self._address)
        run([client, server], lambda: client.done and len(server.ended) == 2)
        here.close()
        there.close()
        self.tell([client.result, server.asked, len(server.broken)])

    def craft(self, peer: str, names: list[str]) -> None:
        """Play scenarios against the host, and tell what it did otherwise."""
        from rdstool.craft.judge import Match  # noqa: PLC0415 - few tests need it, and the guest is slow
        from rdstool.craft.library import scenario  # noqa: PLC0415
        from rdstool.craft.play import play  # noqa: PLC0415

        match = Match(self._address, peer, 1, PATIENCE, Transport.IB, "verbs")
        verdicts = {name: asyncio.run(play(scenario(name), match)) for name in names}
        self.tell({name: verdict.difference for name, verdict in verdicts.items() if verdict.difference})

    def why_not(self) -> None:
        """Fail to listen as RDS."""
        provider = make_provider(self._address)
        try:
            provider.listen(service_id(self._address))
        except TransportError as problem:
            self.tell(str(problem))
        else:
            self.tell("listening")
        finally:
            provider.close()

    # ---- RDS

    def open(self) -> None:
        """Be an RDS host with a socket."""
        settings = Settings(sndbuf=BUFFER, rcvbuf=BUFFER)
        self._stack = Stack(NodeOptions(settings, transport=Transport.IB, provider="verbs"))
        self._socket = Socket(self._stack)
        self._socket.bind((self._address, RDS_PORT))
        self._socket.settimeout(TIMEOUT_S)
        self.tell("ready")

    def close(self) -> None:
        """Be none any more."""
        self._socket.close()
        self._stack.close()
        self.tell("closed")

    def send(self, address: str, port: int, sizes: list[int], seed: int) -> None:
        """Send messages, and wait until they are acknowledged."""
        for number, size in enumerate(sizes):
            self._socket.sendto(payload(seed + number, size), (address, port))
        self._socket.drain(TIMEOUT_S)
        self.tell("sent")

    def receive(self, count: int) -> None:
        """Take messages."""
        self.tell([digest(self._socket.recv()) for _ in range(count)])

    def offer(self, size: int) -> None:
        """Offer memory, all zeros."""
        self._memory = bytearray(size)
        self.tell(self._socket.offer_memory(self._memory, RdmaFlags.READWRITE))

    def memory(self) -> None:
        """What it holds now."""
        self.tell(digest(bytes(self._memory)))

    def work(self, cookie: int, address: str, port: int, size: int, seed: int) -> None:
        """Write to the host's memory, read it, count in it, and try a wrong key."""
        to, sock = (address, port), self._socket
        into = bytearray(size)
        sock.rdma_write(cookie, payload(seed, size), to, timeout_s=TIMEOUT_S)
        sock.rdma_read(cookie, into, to, timeout_s=TIMEOUT_S)
        same = bytes(into) == payload(seed, size)
        sock.rdma_write(cookie, bytes(8), to, timeout_s=TIMEOUT_S)
        numbers = [
            sock.fetch_add(cookie, 7, to, timeout_s=TIMEOUT_S),
            sock.compare_swap(cookie, 7, 9, to, timeout_s=TIMEOUT_S),
            sock.fetch_add(cookie, 0, to, timeout_s=TIMEOUT_S),
        ]
        try:
            sock.rdma_write(cookie ^ 0x5A5A5A5A, b"nowhere", to, timeout_s=TIMEOUT_S)
        except RdmaError as problem:
            self.tell([same, numbers, problem.status.name])
        else:
            self.tell([same, numbers, "no error"])

    def ask(self, address: str, port: int, operation: str, size: int, seed: int) -> None:
        """Offer memory with a request to ``rdma_program`` in another guest, whose kernel reads or writes it."""
        before = content(seed, size) if operation == "r" else bytes(size)
        offer = RdmaMap(bytearray(before))
        self._socket.sendmsg(REQUEST.pack(operation.encode(), size, seed), (address, port), control=[offer])
        said, told = self._socket.recv(), self._socket.recv()
        self.tell([said.decode(), *told.decode().split(), bytes(offer.memory) == content(seed, size)])


def main() -> None:
    """Do as told."""
    with socket.create_server(("", PORT)) as server:
        wire, _ = server.accept()
    with wire, wire.makefile("r") as lines, wire.makefile("w") as out:
        peer = Peer(sys.argv[1], out)
        for line in lines:
            name, *arguments = json.loads(line)
            getattr(peer, name)(*arguments)


if __name__ == "__main__":
    main()
