"""The nodes that run on this machine for this user: finding them, asking them, reading their frames."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from rdstool.endpoint import rundir
from rdstool.errors import TransportError
from rdstool.protocol.addresses import canonical

ANSWER_S = 5.0
"""How long a node may say nothing."""
ANSWER_BYTES = 64 << 20
"""Longest answer that is read."""
READ_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class RunningNode:
    """A node that answers on its local socket."""

    path: Path
    pid: int
    addresses: tuple[str, ...]
    program: str
    """Its command line."""
    started: float
    """Seconds since 1970."""

    def __str__(self) -> str:
        return f"{', '.join(self.addresses)} (process {self.pid})"

    def matches(self, name: str) -> bool:
        """``name`` is one of its addresses, or its process."""
        try:
            return canonical(name) in self.addresses
        except ValueError:
            return name == str(self.pid)


def running_nodes() -> list[RunningNode]:
    """All nodes of this user that answer, in the order in which they were started."""
    found = []
    for path, sock in rundir.sockets():
        with sock:
            try:
                answer = _ask(sock, {"request": "node"}, path)
                found.append(_node(path, answer))
            except TransportError:
                continue  # it is ending, or busy beyond measure
    return sorted(found, key=lambda node: node.started)


def _node(path: Path, answer: dict[str, Any]) -> RunningNode:
    try:
        return RunningNode(
            path,
            int(answer["pid"]),
            tuple(map(str, answer["addresses"])),
            str(answer["program"]),
            float(answer["started"]),
        )
    except (KeyError, TypeError, ValueError) as problem:
        raise TransportError(f"{path}: its answer cannot be understood") from problem


def ask(node: RunningNode, sections: Sequence[str] | None = None) -> dict[str, Any]:
    """The tables of a node, all or only these (docs/control.md, ``info``). Raises ``TransportError``."""
    request: dict[str, Any] = {"request": "info"}
    if sections is not None:
        request["sections"] = list(sections)
    with _connect(node) as sock:
        return _ask(sock, request, node.path)


def tap(node: RunningNode) -> BinaryIO:
    """All that the node exchanges from now on, as a pcapng file that ends with the node. Raises ``TransportError``."""
    sock = _connect(node)
    try:
        _ask(sock, {"request": "tap"}, node.path)
        sock.settimeout(None)
        return sock.makefile("rb")
    finally:
        sock.close()  # the file keeps the connection


def _connect(node: RunningNode) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(ANSWER_S)
    try:
        sock.connect(str(node.path))
    except OSError as problem:
        sock.close()
        raise TransportError(f"the node {node} has ended") from problem
    return sock


def _ask(sock: socket.socket, request: dict[str, Any], path: Path) -> dict[str, Any]:
    """The answer, and not a byte of what follows it."""
    sock.settimeout(ANSWER_S)
    line = bytearray()
    try:
        sock.sendall(json.dumps(request).encode() + b"\n")
        while not line.endswith(b"\n"):
            # Frames may follow the line: what is to be left in the socket is found out first.
            seen = sock.recv(READ_BYTES, socket.MSG_PEEK)
            if not seen:
                raise TransportError(f"{path}: the node has ended, or has too many clients")
            taken = seen.find(b"\n") + 1 or len(seen)
            line += sock.recv(taken)
            if len(line) > ANSWER_BYTES:
                raise TransportError(f"{path}: an answer of more than {ANSWER_BYTES} bytes")
        answer = json.loads(line)
    except (OSError, ValueError) as problem:
        raise TransportError(f"{path}: the node does not answer: {problem}") from problem
    if not isinstance(answer, dict):
        raise TransportError(f"{path}: its answer cannot be understood")
    if "error" in answer:
        raise TransportError(f"{path}: the node says: {answer['error']}")
    return answer
