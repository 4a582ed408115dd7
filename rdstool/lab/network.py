"""A network of its own: a namespace with a tap device, behind which a guest is, and two addresses on the near side.

Nothing in it reaches another network, so all networks use the same addresses, which are set aside for documentation
(RFC 5737, RFC 3849). Its namespace has an owner, a process that ends with the one that made the network.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rdstool.errors import LabError
from rdstool.lab.capture import Capture
from rdstool.lab.holder import REQUEST_BYTES
from rdstool.lab.tools import call, own_environment, program

TAP = "rds0"
"""Name of the tap device on the host's side."""

IPV4_PREFIX, IPV6_PREFIX = 24, 64

_Channel = socket.socket

_START_TIMEOUT_S = 30.0
"""How long the holder of the namespace may take to answer."""

_NO_USER_NAMESPACE = (
    "user namespaces are not allowed here: run as root, or allow them "
    "(sysctl kernel.unprivileged_userns_clone=1 or kernel.apparmor_restrict_unprivileged_userns=0)"
)


class Network:
    """The host's side of a tap device in a namespace of its own; a context manager.

    Rootless where user namespaces are allowed. Raises ``LabError`` where they are not, or without /dev/net/tun.
    """

    smaller, guest, larger = "192.0.2.1", "192.0.2.100", "192.0.2.200"
    """Two addresses of the host's side, and that of the guest between them: the smaller address of a pair connects."""

    smaller6, guest6, larger6 = "2001:db8::1", "2001:db8::100", "2001:db8::200"
    """IPv6 addresses in the same roles."""

    nobody = "192.0.2.250"
    """An address of the network that nobody has."""

    tap = TAP
    """Its tap device."""

    def __init__(self) -> None:
        self._holder: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None

    # ---- Life

    def start(self) -> Self:
        """Make the namespace with its tap device and addresses."""
        program("ip")
        program("nsenter")
        command = [program("unshare"), *([] if os.geteuid() == 0 else ["--map-root-user"]), "--net", "--"]
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._holder = subprocess.Popen(  # noqa: S603 - our own module
                [*command, sys.executable, "-m", "rdstool.lab.holder", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
                env=own_environment(),
            )
        self._channel = ours
        ours.settimeout(_START_TIMEOUT_S)
        try:
            os.close(self.plug())
            for device in ("lo", self.tap):
                self.ip("link", "set", device, "up")
            for address in (self.smaller, self.larger, self.smaller6, self.larger6):
                self.add_address(address)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Let the namespace go, with all that is in it."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._holder is not None:
            self._holder.kill()
            self._holder.communicate()
            self._holder = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # ---- What runs on the host's side

    def command(self, arguments: Sequence[str]) -> list[str]:
        """The command that runs ``arguments`` in the namespace, whoever starts it."""
        holder, _ = self.held()
        place = f"/proc/{holder.pid}/ns"
        entering = [f"--net={place}/net"]
        if os.geteuid():
            entering += [f"--user={place}/user", "--preserve-credentials"]
        return [program("nsenter"), *entering, "--", *arguments]

    def popen(self, arguments: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a process on the host's side of the network; options as those of ``subprocess.Popen``."""
        return subprocess.Popen(self.command(arguments), **options)  # noqa: S603

    def run(self, arguments: Sequence[str], **options: Any) -> subprocess.CompletedProcess[Any]:
        """Run a process on the host's side of the network; options as those of ``subprocess.run``."""
        return subprocess.run(self.command(arguments), **options)  # noqa: PLW1510, S603 - the caller checks

    def socket(self, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM, protocol: int = 0) -> socket.socket:
        """A socket of this process that lives on the host's side of the network. Raises ``OSError`` as usual."""
        made = self._make("socket", family, kind, protocol)
        return socket.socket(family, kind, protocol, fileno=made)

    def ip(self, *arguments: str) -> str:
        """Call ``ip`` on the host's side, for addresses, routes, links. Raises ``LabError``."""
        command = self.command([program("ip"), *arguments])
        return call(command, what=f"ip {' '.join(arguments)}")

    def add_address(self, address: str) -> None:
        """Give the host's side one more address."""
        if ":" in address:
            self.ip("address", "add", f"{address}/{IPV6_PREFIX}", "dev", self.tap, "nodad")
        else:
            self.ip("address", "add", f"{address}/{IPV4_PREFIX}", "dev", self.tap)

    def remove_address(self, address: str) -> None:
        """Take an address from the host's side."""
        self.ip("address", "del", f"{address}/{IPV6_PREFIX if ':' in address else IPV4_PREFIX}", "dev", self.tap)

    def capture(self, path: Path) -> Capture:
        """Record all frames that pass the tap device from now on; a context manager. It fails rather than lose one."""
        return Capture(path, self.socket(socket.AF_PACKET, socket.SOCK_RAW, 0), self.tap)

    def held(self) -> tuple[subprocess.Popen[bytes], _Channel]:
        """The process that holds the namespace, and the way to it."""
        if self._holder is None or self._channel is None:
            raise LabError("the network is not up")
        return self._holder, self._channel

    # ---- The guest's end

    def plug(self) -> int:
        """A descriptor of the tap device for QEMU; one guest at a time holds it. Raises ``LabError``."""
        try:
            return self._make("tap", self.tap)
        except OSError as problem:
            told = "another guest holds it" if problem.errno == errno.EBUSY else f"{problem.strerror}"
            raise LabError(
                f"the tap device of the network cannot be used: {told} ({problem.filename or self.tap})"
            ) from None

    def _make(self, what: str, *arguments: object) -> int:
        _, channel = self.held()
        try:
            channel.send(json.dumps({"make": what, "arguments": arguments}).encode())
            answer, descriptors, _, _ = socket.recv_fds(channel, REQUEST_BYTES, 1)
        except OSError as problem:
            raise self._gone() from problem
        if not answer:
            raise self._gone()
        if not descriptors:
            told = json.loads(answer)
            raise OSError(told["error"], os.strerror(told["error"]), told["file"])
        return descriptors[0]

    def _gone(self) -> LabError:
        assert self._holder is not None
        self._holder.kill()
        words = self._holder.communicate()[1].decode(errors="replace").strip().splitlines()
        reason = words[-1] if words else "its process ended"
        if "unshare" in reason:
            reason += f"; {_NO_USER_NAMESPACE}"
        return LabError(f"no network namespace: {reason}")
