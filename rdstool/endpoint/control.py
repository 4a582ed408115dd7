"""Answers questions about a node on a local socket: a JSON object a line each way (docs/control.md).

All of it runs in the node's event loop, in callbacks that never wait. A client has a bounded request, a bounded answer
and bounded time; what it does can end its own connection and nothing else.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

from rdstool.endpoint import rundir
from rdstool.endpoint.core import Core
from rdstool.endpoint.log import LOGGER
from rdstool.endpoint.recorder import APPLICATION
from rdstool.endpoint.snapshot import SECTIONS, snapshot
from rdstool.errors import TransportError, UsageError
from rdstool.export.pcapng import file_head, frame_block

PROTOCOL = 1
"""Version of the questions and answers; keys may be added to them."""
CLIENTS = 16
"""Connections at a time; further ones are closed."""
REQUEST_BYTES = 4096
"""Longest request, with its newline."""
PATIENCE_S = 5.0
"""How long a client may take for a request, or to take its answer."""
REST = 10
"""Times as long as an answer took does the node do its own work before the next, whoever asks."""
PAUSE_S = 1.0
"""How long nobody is let in after the system ran out of file descriptors."""
TAP_BYTES = 8 << 20
"""Frames that wait for one reader; one that falls behind further is cut off."""
PROGRAM_CHARACTERS = 200
"""Characters of the command line that a node tells."""
_CREDENTIALS = struct.Struct("3i")


def offer(core: Core) -> None:
    """Answer about a node until it stops. Where the system has no place for it, the node runs all the same."""
    try:
        sock, path = rundir.listen()
    except OSError as problem:
        where = f"{problem.filename}: " if problem.filename else ""
        LOGGER.warning("the node cannot be seen by 'rdstool info': %s%s", where, problem.strerror or problem)
        return
    core.ending.callback(ControlServer(core, sock, path).close)


class ControlServer:
    """Takes clients until ``close``."""

    def __init__(self, core: Core, sock: socket.socket, path: Path) -> None:
        self.core = core
        self.loop = core.driver.loop
        self.path = path
        self._sock = sock
        self._clients: set[_Client] = set()
        self._started = time.time()
        self._free_at = 0.0
        self.loop.add_reader(sock, self._accept)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:
                self.loop.remove_reader(self._sock)
                self.loop.call_later(PAUSE_S, self._go_on)
                return
            if len(self._clients) >= CLIENTS or not _same_user(sock):
                sock.close()
                continue
            self._clients.add(_Client(self, sock))

    def _go_on(self) -> None:
        if self._sock.fileno() >= 0:
            self.loop.add_reader(self._sock, self._accept)

    def forget(self, client: _Client) -> None:
        """A client has ended."""
        self._clients.discard(client)

    def close(self) -> None:
        """Hand on what the clients take at once, and end. The driver's lock is held."""
        self.loop.remove_reader(self._sock)
        self._sock.close()
        for client in tuple(self._clients):
            client.finish()
        self.path.unlink(missing_ok=True)

    # ---- Answers

    def rest_s(self) -> float:
        """How long the node does its own work before it answers again."""
        return self._free_at - self.loop.time()

    def answer(self, line: bytes) -> tuple[dict[str, Any], bool]:
        """The answer to a request, and whether frames follow it."""
        began = self.loop.time()
        goes_on = False
        try:
            request = json.loads(line)
            kind = request.get("request") if isinstance(request, dict) else None
            if kind == "node":
                answer = self._identity()
            elif kind == "info":
                answer = self._identity() | self._tables(request.get("sections"))
            elif kind == "tap":
                answer, goes_on = self._identity(), True
            else:
                answer = {"error": "request is one of node, info, tap"}
        except (ValueError, RecursionError):
            answer = {"error": "a request is a JSON object on one line"}
        except UsageError as problem:
            answer = {"error": str(problem)}
        now = self.loop.time()
        self._free_at = now + REST * (now - began)
        return answer, goes_on

    def _identity(self) -> dict[str, Any]:
        return {
            "protocol": PROTOCOL,
            "pid": os.getpid(),
            "addresses": list(self.core.addresses),
            "started": self._started,
            "program": " ".join(sys.argv)[:PROGRAM_CHARACTERS],
        }

    def _tables(self, wanted: Any) -> dict[str, Any]:
        """The tables that are asked for, at one moment. Raises ``UsageError``."""
        if wanted is None:
            wanted = list(SECTIONS)
        if not isinstance(wanted, list) or not all(isinstance(name, str) and name in SECTIONS for name in wanted):
            raise UsageError(f"sections is a list of {', '.join(SECTIONS)}")
        with self.core.driver.lock:
            tables, truncated = snapshot(self.core.engine, tuple(dict.fromkeys(wanted)))
        return {"sections": tables, "truncated": truncated}


def _line(answer: dict[str, Any]) -> bytes:
    return json.dumps(answer).encode() + b"\n"


def _same_user(sock: socket.socket) -> bool:
    """The other end belongs to the node's user, or to root. Where the system cannot tell, the directory's rights do."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return True
    try:
        _, user, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, option, _CREDENTIALS.size))
    except OSError:
        return False
    return user in {0, os.getuid()}


class _Client:
    """One connection: requests one after another, or after ``tap`` frames until it ends."""

    def __init__(self, server: ControlServer, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._server = server
        self._core = server.core
        self._loop = server.loop
        self._sock = sock
        self._request = bytearray()
        self._out: deque[bytes | memoryview] = deque()
        self._waiting_bytes = 0
        """Bytes in ``_out``."""
        self._reading = self._writing = False
        self._at_end = False
        """The client sends no more."""
        self._ending = False
        """It is closed as soon as it has its answer."""
        self._tapping = False
        self._behind = False
        """The client has not read frames fast enough."""
        self._scheduled = False
        self._closed = False
        self._timer = self._loop.call_later(PATIENCE_S, self._close)
        self._watch_reads(wanted=True)

    # ---- Requests

    def _readable(self) -> None:
        try:
            data = self._sock.recv(REQUEST_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._close()
            return
        if self._tapping:
            # What a reader of frames says means nothing, its end does.
            if not data:
                self._close()
            return
        self._request += data
        self._at_end = not data
        self._watch_reads(wanted=False)
        self._work()

    def _work(self) -> None:
        """Answer the next request, when the client has taken the answer before and the node had time for its work."""
        if self._closed or self._out:
            return
        line, newline, rest = self._request.partition(b"\n")
        if len(line) >= REQUEST_BYTES:
            self._put(_line({"error": f"a request has {REQUEST_BYTES} bytes at most"}))
            self._ending = True
            self._flush()
        elif newline:
            wait_s = self._server.rest_s()
            if wait_s > 0:
                self._loop.call_later(wait_s, self._work)
                return
            self._request = rest
            self._patience()
            answer, goes_on = self._server.answer(bytes(line))
            if goes_on:
                answer = self._begin_tap(answer)
            if not self._tapping:
                self._put(_line(answer))
            self._flush()
            if not self._out and not self._tapping:
                self._loop.call_soon(self._work)
        elif self._at_end:
            self._close()
        else:
            self._watch_reads(wanted=True)

    def _patience(self) -> None:
        self._timer.cancel()
        self._timer = self._loop.call_later(PATIENCE_S, self._close)

    # ---- Frames

    def _begin_tap(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Give the answer and frames from now on, or tell why there are none."""
        with self._core.driver.lock:
            try:
                self._core.record(self._take)
            except TransportError as problem:
                return {"error": str(problem)}
            self._put(_line(answer))
            self._put(file_head(APPLICATION))
        self._timer.cancel()
        self._tapping = True
        self._watch_reads(wanted=True)
        return answer

    def _take(self, time_ns: int, frame: bytes) -> None:
        """A frame, in whatever thread; the driver's lock is held."""
        if self._waiting_bytes + len(frame) > TAP_BYTES:
            self._behind = True
        if not self._behind:
            self._put(frame_block(time_ns, frame))
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon_threadsafe(self._flush)

    # ---- Output

    def _put(self, data: bytes) -> None:
        self._out.append(data)
        self._waiting_bytes += len(data)

    def _flush(self) -> None:
        """Have the system take what it can, and see to the rest. In the loop."""
        self._scheduled = False
        if self._closed:
            return
        if self._behind:
            LOGGER.warning("a reader of frames is %d bytes behind and is cut off", self._waiting_bytes)
            self._close()
            return
        with self._core.driver.lock:
            alive = self._send()
        if not alive or (self._ending and not self._out):
            self._close()
        else:
            self._watch_writes(wanted=bool(self._out))

    def _writable(self) -> None:
        self._flush()
        if not self._tapping:
            self._work()

    def _send(self) -> bool:
        """Have the system take what it can; False where the client is gone."""
        while self._out:
            data = self._out[0]
            try:
                taken = self._sock.send(data)
            except (BlockingIOError, InterruptedError):
                return True
            except OSError:
                return False
            self._waiting_bytes -= taken
            if taken < len(data):
                self._out[0] = memoryview(data)[taken:]
            else:
                self._out.popleft()
        return True

    def _watch_reads(self, *, wanted: bool) -> None:
        if wanted != self._reading and not self._closed:
            self._reading = wanted
            if wanted:
                self._loop.add_reader(self._sock, self._readable)
            else:
                self._loop.remove_reader(self._sock)

    def _watch_writes(self, *, wanted: bool) -> None:
        if wanted != self._writing and not self._closed:
            self._writing = wanted
            if wanted:
                self._loop.add_writer(self._sock, self._writable)
            else:
                self._loop.remove_writer(self._sock)

    # ---- The end

    def _close(self) -> None:
        with self._core.driver.lock:
            self._leave()

    def finish(self) -> None:
        """The node ends: hand on what the client takes at once. The driver's lock is held."""
        if not self._closed:
            self._send()
            self._leave()

    def _leave(self) -> None:
        """The lock is held."""
        if self._closed:
            return
        self._timer.cancel()
        self._watch_reads(wanted=False)
        self._watch_writes(wanted=False)
        self._closed = True
        self._core.record_no_more(self._take)
        self._sock.close()
        self._server.forget(self)
