"""Capture live with Wireshark's dumpcap: a filter that fits RDS, the packets to a file and to the decoder at once."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import BinaryIO

from dissectors.wire.encapsulation import ROCE_ETHERTYPE, ROCE_UDP_PORT
from rdstool.capture.packets.ip import AUTHENTICATION, ROUTING
from rdstool.capture.packets.tunnels import BY_PORT, BY_PROTOCOL, ON_LINKS
from rdstool.errors import TsharkError, UsageError
from rdstool.tshark.program import find_tshark

BLOCK_BYTES = 1 << 16
"""Bytes that are handed on at a time."""
STOP_S = 10.0
"""Seconds that dumpcap has to end when it is told to."""
_UNFIT = (b"Invalid capture filter", b"not valid for interfaces")
"""In what dumpcap says of a filter that the link type cannot do; its exit status does not tell."""
_RIGHTS = (
    "let dumpcap capture for members of the group wireshark: sudo dpkg-reconfigure wireshark-common, "
    "sudo usermod -aG wireshark $USER, and log in again; or run rdstool as root"
)


def capture_filter(tcp_ports: Sequence[int], *, tunnels: bool = False, ethernet: bool = True, vlan: bool = True) -> str:
    """The packets that may carry RDS: ``ethernet`` where the link has EtherTypes, and there with VLAN tags too.

    Of those in ``tunnels``, it takes all.
    """
    wanted = [*(f"tcp port {port}" for port in tcp_ports), f"udp port {ROCE_UDP_PORT}"]
    ethertypes = [ROCE_ETHERTYPE]
    if tunnels:
        wanted += [f"ip proto {protocol} or ip6 proto {protocol}" for protocol in (*BY_PROTOCOL, AUTHENTICATION)]
        wanted += [f"ip6 proto {ROUTING}"]  # behind it may be each of these, which the filter does not see
        wanted += [f"udp dst port {port}" for port in BY_PORT]
        ethertypes += ON_LINKS
    if ethernet:
        wanted += [f"ether proto 0x{ethertype:04x}" for ethertype in ethertypes]
    text = " or ".join(wanted)
    return f"({text}) or (vlan and ({text}))" if ethernet and vlan else text


class LiveCapture:
    """dumpcap at work. :attr:`path` is what the decoder reads; ``output`` gets the same bytes, as pcapng.

    Raises ``UsageError`` where ``output`` exists or cannot be made, ``TsharkError`` where there is no dumpcap, or no
    tshark that is as new as rdstool asks of Wireshark everywhere, and at the end where dumpcap failed, or ``output``
    could not take all.
    """

    def __init__(
        self,
        interface: str,
        tcp_ports: Sequence[int],
        *,
        tunnels: bool = False,
        output: Path | None = None,
        packets: int | None = None,
        seconds: int | None = None,
    ) -> None:
        if output is not None and output.exists():
            raise UsageError(f"{output} exists already; name another file for --write")
        find_tshark()
        dumpcap = shutil.which("dumpcap")
        if dumpcap is None:
            raise TsharkError("there is no dumpcap; install it: apt-get install tshark")
        self._interface = interface
        self._output = output
        self._command = [dumpcap, "-q", "-i", interface, "-f", _fitting_filter(dumpcap, interface, tcp_ports, tunnels)]
        self._command += ["-w", "-"]
        if packets is not None:
            self._command += ["-c", str(packets)]
        if seconds is not None:
            self._command += ["-a", f"duration:{seconds}"]
        self._stack = ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self._pump: Thread | None = None
        self._said: BinaryIO | None = None
        self._full: OSError | None = None
        self.path = ""

    def __enter__(self) -> LiveCapture:
        with ExitStack() as stack:
            reading, writing = os.pipe()
            stack.callback(os.close, reading)
            to_decoder = os.fdopen(writing, "wb", buffering=0)
            stack.callback(to_decoder.close)
            file = stack.enter_context(_create(self._output)) if self._output else None
            self._said = stack.enter_context(tempfile.TemporaryFile())
            self._process = subprocess.Popen(  # noqa: S603 - Wireshark's own program, found on the search path
                self._command, stdout=subprocess.PIPE, stderr=self._said, stdin=subprocess.DEVNULL
            )
            stack.enter_context(self._process)
            self._pump = Thread(target=self._hand_on, args=(self._process.stdout, file, to_decoder), daemon=True)
            self._pump.start()
            self.path = f"/dev/fd/{reading}"
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        assert self._pump is not None
        assert self._said is not None
        if self._process.poll() is None:
            self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_S)
        if self._process.returncode is None:
            self._process.kill()
        self._pump.join(STOP_S)
        self._said.seek(0)
        said = self._said.read().decode(errors="replace")
        status = self._process.wait()
        self._stack.close()
        if self._output is not None and self._output.stat().st_size == 0:
            self._output.unlink()  # it would be in the way of the next try
        if self._full is not None:
            raise TsharkError(
                f"{self._output}: {self._full.strerror}; what came before is in it, --write another place for more"
            ) from self._full
        if status > 0 and kind is None:
            raise TsharkError(_complaint(self._interface, said))

    def _hand_on(self, source: BinaryIO, file: BinaryIO | None, to_decoder: BinaryIO) -> None:
        """Copy until dumpcap ends, or the file is full. A decoder that has stopped reading does not stop the file."""
        with to_decoder:
            listening = True
            while block := source.read1(BLOCK_BYTES):  # type: ignore[attr-defined]
                try:
                    if file is not None:
                        _write_all(file, block)
                except OSError as problem:
                    self._full = problem
                    return
                if listening:
                    try:
                        _write_all(to_decoder, block)
                    except OSError:
                        listening = False


def _write_all(unbuffered: BinaryIO, block: bytes) -> None:
    rest = memoryview(block)
    while rest:
        rest = rest[unbuffered.write(rest) :]


def _create(path: Path) -> BinaryIO:
    try:
        return path.open("xb", buffering=0)
    except OSError as problem:
        raise UsageError(f"{path}: {problem.strerror}; name a file in another directory for --write") from problem


def _fitting_filter(dumpcap: str, interface: str, tcp_ports: Sequence[int], tunnels: bool) -> str:
    """The filter that the interface's link type can do; of links without EtherTypes, and of ``any``, it asks less."""
    whole, *less = (
        capture_filter(tcp_ports, tunnels=tunnels),
        capture_filter(tcp_ports, tunnels=tunnels, vlan=False),
        capture_filter(tcp_ports, tunnels=tunnels, ethernet=False),
    )
    for text in (whole, *less):
        tried = subprocess.run(  # noqa: S603 - Wireshark's own program, found on the search path
            [dumpcap, "-i", interface, "-d", "-f", text], capture_output=True, check=False
        )
        if not any(said in tried.stderr for said in _UNFIT):
            return text
    return whole


def _complaint(interface: str, said: str) -> str:
    """What dumpcap said, in one line that tells what to do."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    text = " ".join(lines)
    if "permission" in text.lower() or "not permitted" in text.lower():
        return f"{interface}: no permission to capture; {_RIGHTS}"
    if "No such device" in text or "doesn't exist" in text or "There is no device" in text:
        return f"{interface}: there is no such interface; `dumpcap -D` lists them"
    first = next(
        (line for line in lines if not line.startswith(("Capturing on", "File:", "Packets"))), "it says nothing"
    )
    return f"{interface}: dumpcap failed: {first}; `dumpcap -D` lists the interfaces"
