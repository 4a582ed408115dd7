"""Programs that the host runs in the guest."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from binascii import a2b_base64
from collections.abc import Callable
from itertools import count

from rdstool.lab.agent.server import Server, as_text

TYPE_CHECKING = False  # as in ``typing``, which is slow to import in a guest
if TYPE_CHECKING:
    from typing import IO, Any

_CHUNK_BYTES = 1 << 16


def _with_number(method: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a method that wants the number of its request, to send parts of its answer."""
    method.wants_number = True  # type: ignore[attr-defined]
    return method


class Commands:
    """``run`` waits for the end, ``start`` does not, ``stream`` passes on what is printed and read."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._streams: dict[str, subprocess.Popen[bytes]] = {}
        self._numbers = count(1)

    def run(
        self,
        argv: list[str],
        stdin: str | None = None,
        env: dict[str, str] | None = None,
        cwd: str | None = None,
        timeout: float | None = None,
    ) -> dict[str, Any]:
        """Run a program to its end. Texts are base64. A program that outlasts ``timeout`` is killed: status None."""
        process = self._start(argv, env, cwd, subprocess.PIPE)
        data = a2b_base64(stdin) if stdin is not None else b""
        late = False
        try:
            out, err = process.communicate(data, timeout)
        except subprocess.TimeoutExpired:
            _kill(process, signal.SIGKILL)
            out, err = process.communicate()
            late = True
        return {"status": None if late else process.returncode, "stdout": as_text(out), "stderr": as_text(err)}

    @_with_number
    def stream(
        self,
        request: int,
        key: str,
        argv: list[str],
        env: dict[str, str] | None = None,
        cwd: str | None = None,
        stdin: bool = False,
    ) -> int:
        """Run a program to its end, giving its output in parts: ``[1 or 2, base64]``. Its status.

        With ``stdin`` it reads what ``feed`` brings, else nothing. ``key`` is for ``feed`` and ``hang_up``.
        """
        with self._start(argv, env, cwd, subprocess.PIPE if stdin else subprocess.DEVNULL) as process:
            self._streams[key] = process
            assert process.stdout is not None
            assert process.stderr is not None
            threads = [
                threading.Thread(target=self._copy, args=(request, number, stream))
                for number, stream in ((1, process.stdout), (2, process.stderr))
            ]
            self._server.tell({"id": request, "part": None})
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            del self._streams[key]
        return process.returncode

    def feed(self, key: str, data: str | None) -> None:
        """Give a program that runs under ``stream`` more to read; None is the end. EPIPE where it reads no more."""
        process = self._streams.get(key)
        if process is None or process.stdin is None:
            return
        if data is None:
            process.stdin.close()
        else:
            process.stdin.write(a2b_base64(data))
            process.stdin.flush()

    def hang_up(self, key: str) -> None:
        """End a program that runs under ``stream``, as when its terminal goes away."""
        process = self._streams.get(key)
        if process is not None:
            _kill(process, signal.SIGHUP)

    def start(self, argv: list[str], env: dict[str, str] | None = None, cwd: str | None = None) -> int:
        """Start a program and return a number for it."""
        number = next(self._numbers)
        self._running[number] = self._start(argv, env, cwd, subprocess.DEVNULL)
        return number

    def finish(self, number: int, timeout: float | None = None, kill: str | None = None) -> dict[str, Any]:
        """Wait for a program's end, after the signal ``kill`` where one is named; like ``run``."""
        process = self._running[number]
        if kill is not None:
            _kill(process, signal.Signals[kill])
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            return {"status": None, "stdout": "", "stderr": ""}
        del self._running[number]
        return {"status": process.returncode, "stdout": as_text(out), "stderr": as_text(err)}

    def _copy(self, request: int, number: int, stream: IO[bytes]) -> None:
        while chunk := os.read(stream.fileno(), _CHUNK_BYTES):
            self._server.tell({"id": request, "part": [number, as_text(chunk)]})

    @staticmethod
    def _start(argv: list[str], env: dict[str, str] | None, cwd: str | None, stdin: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603 - what the host asks for
            argv,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )


def _kill(process: subprocess.Popen[bytes], number: int) -> None:
    if process.poll() is None:
        os.killpg(process.pid, number)
