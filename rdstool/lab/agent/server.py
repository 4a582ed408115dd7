"""Requests from the host, one JSON object a line, served beside each other; answers in the order they are done.

Request: ``{"id": 7, "do": "sockets.send", "with": {...}}``. Answer: ``{"id": 7, "result": ...}`` or
``{"id": 7, "error": {"type": "OSError", "errno": "ENOBUFS", "message": "..."}}``. Before its answer, a request may give
any number of ``{"id": 7, "part": ...}``.
"""

from __future__ import annotations

import errno
import json
import threading
from binascii import b2a_base64
from collections import deque
from contextlib import suppress
from io import FileIO

TYPE_CHECKING = False  # as in ``typing``, which is slow to import in a guest
if TYPE_CHECKING:
    from typing import Any

HELLO = {"id": 0, "result": "ready"}
"""The first line, when the agent listens."""


class Server:
    """Serves the host on one character device."""

    def __init__(self, port: FileIO) -> None:
        self._port = port
        self._parts: dict[str, Any] = {}
        self._writing = threading.Lock()
        self._requests: deque[dict[str, Any]] = deque()
        self._waiting = 0
        """Threads that wait for a request; a new one would take longer than most requests."""
        self._changed = threading.Condition()

    def offer(self, part: object) -> None:
        """Let the host call the public methods of ``part`` as ``classname.method``."""
        self._parts[type(part).__name__.lower()] = part

    def tell(self, message: dict[str, Any]) -> None:
        """Send one object to the host."""
        data = memoryview(json.dumps(message, separators=(",", ":")).encode() + b"\n")
        with self._writing:
            while data:
                data = data[self._port.write(data) :]

    def run(self) -> None:
        """Serve until the host closes its end."""
        self.tell(HELLO)
        left = b""
        while chunk := self._port.read(1 << 16):
            *lines, left = (left + chunk).split(b"\n")
            for line in lines:
                self._take(json.loads(line))

    def _take(self, request: dict[str, Any]) -> None:
        with self._changed:
            self._requests.append(request)
            if len(self._requests) <= self._waiting:
                self._changed.notify()
                return
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._waiting += 1
                while not self._requests:
                    self._changed.wait()
                self._waiting -= 1
                request = self._requests.popleft()
            self._serve(request)

    def _serve(self, request: dict[str, Any]) -> None:
        answer = self._answer(request)
        with suppress(OSError, ValueError):  # the host is gone, or the port closed, and with it whoever wanted to know
            self.tell({"id": request["id"], **answer})

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            part, _, method = request["do"].partition(".")
            call = getattr(self._parts[part], method)
            arguments = request["with"]
            if getattr(call, "wants_number", False):
                arguments["request"] = request["id"]
            return {"result": call(**arguments)}
        except OSError as problem:
            code = errno.errorcode.get(problem.errno or 0, str(problem.errno))
            where = f": {problem.filename}" if problem.filename else ""
            told = f"{problem.strerror or problem}{where}"
            return {"error": {"type": "OSError", "errno": code, "message": told}}
        except Exception as problem:  # the host is told, whatever it is
            import traceback  # noqa: PLC0415 - seldom needed, and imports are slow in a guest

            told = "".join(traceback.format_exception(problem))
            return {"error": {"type": type(problem).__name__, "errno": None, "message": told}}


def as_text(data: bytes) -> str:
    """Bytes as JSON can hold them, in base64."""
    return b2a_base64(data, newline=False).decode()
