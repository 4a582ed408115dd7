"""A guest: a kernel under QEMU over the machine's own root file system, with an agent that does what it is told."""

from __future__ import annotations

import base64
import compileall
import os
import shlex
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rdstool.errors import LabError
from rdstool.lab.boot import GUEST_PATH, Accelerator, choose_accelerator, virtme_options
from rdstool.lab.channel import Channel, GuestError
from rdstool.lab.completed import Completed, completed
from rdstool.lab.kernels import Kernel
from rdstool.lab.machine import Machine
from rdstool.lab.monitor import Monitor
from rdstool.lab.network import IPV4_PREFIX, IPV6_PREFIX, Network
from rdstool.lab.programs import GuestProcess, GuestStream
from rdstool.lab.rds import Rds
from rdstool.lab.wire import Wire

PORT = "rdstool.agent"
"""Name of the virtio-serial port that the agent serves."""

MAC = "02:00:00:00:00:64"
"""Hardware address of the guest's network device."""

_NETWORK_DEVICE = "rds-port"
"""QEMU's name for it."""

BOOT_TIMEOUT_S = 120.0
"""From QEMU's start until the agent answers; about 6 s without KVM on an idle processor, more on a busy one."""

BOOT_ATTEMPTS = 2
"""A boot that hangs is tried again: QEMU without KVM on a busy machine was seen to stand still once in forty boots."""

CALL_TIMEOUT_S = 120.0
"""For one call to the agent, beyond what the call itself may wait."""

_STOP_TIMEOUT_S = 20.0
"""For the guest to switch itself off; then QEMU is ended."""

_CONSOLE_LINES = 2000
"""Lines of the console that are kept."""

_LOG_LEVEL = 5
"""Kernel messages that go to the console: warnings and above. The serial line is slow."""

_SHOWN_LINES = 6
"""Lines of the console that go into an error."""

RDS_MODULES = ("rds_rdma", "rds_tcp", "rds")
"""Modules of RDS in the order in which they can be unloaded."""


class Guest:
    """A running kernel; a context manager. All of its methods raise ``GuestError``, a ``LabError``, where it fails.

    With a ``network``, it has the addresses ``network.guest`` and ``network.guest6``, and the modules of RDS over TCP;
    further ``modules`` come on top. ``processors`` are 2 with KVM and 1 without where they are not given.
    """

    def __init__(
        self,
        kernel: Kernel,
        network: Network | None = None,
        *,
        modules: Sequence[str] = ("rds_tcp",),
        memory_mib: int = 512,
        processors: int | None = None,
        accelerator: Accelerator | None = None,
    ) -> None:
        self.kernel = kernel
        self.network = network
        self.modules = tuple(modules)
        self.accelerator = accelerator or choose_accelerator(kernel)
        self.device = ""
        """Name of its network device, once it is up."""
        self.rds = Rds(self.call)
        """Sockets of its RDS, and what rds-info shows of it."""
        self.wire = Wire(self)
        """Faults of its network."""
        self._memory_mib = memory_mib
        self._processors = processors
        self._machine: Machine | None = None
        self._channel: Channel | None = None
        self._monitor: Monitor | None = None
        self._console: deque[str] = deque(maxlen=_CONSOLE_LINES)
        self._reader: threading.Thread | None = None

    # ---- Life

    @property
    def address(self) -> str:
        """Its IPv4 address; without a network that of its loopback device."""
        return self.network.guest if self.network else "127.0.0.1"

    @property
    def address6(self) -> str:
        """The guest's IPv6 address."""
        return self.network.guest6 if self.network else "::1"

    @property
    def alive(self) -> bool:
        """Whether QEMU runs."""
        return self._machine is not None and self._machine.process.poll() is None

    @property
    def console(self) -> str:
        """The last lines of its console: kernel messages, and what the agent complains of."""
        return "\n".join(self._console)

    def start(self) -> Self:
        """Boot, and wait for the agent. Raises ``LabError`` with the console's last lines where it does not come up."""
        if self.alive:
            raise LabError("the guest runs already")
        self.begin()
        try:
            self.await_agent()
        except BaseException:  # Ctrl-C, too: it takes a while
            self.kill()
            raise
        return self

    def begin(self) -> None:
        """The first half of ``start``: QEMU runs. Several guests boot at the same time that way."""
        self._console.clear()
        ours, theirs = socket.socketpair()
        monitor, far_monitor = socket.socketpair()
        tap = self.network.plug() if self.network else None
        descriptors = [theirs.fileno(), far_monitor.fileno(), *([tap] if tap is not None else [])]
        options = virtme_options(
            self.kernel,
            self.accelerator,
            script=self._agent_command(),
            memory_mib=self._memory_mib,
            processors=self._processors,
            kernel_options=[f"loglevel={_LOG_LEVEL}"],
            devices=_devices(theirs.fileno(), far_monitor.fileno(), tap),
        )
        try:
            self._machine = Machine(
                options,
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        finally:
            theirs.close()
            far_monitor.close()
            if tap is not None:
                os.close(tap)
        self._reader = threading.Thread(target=self._read_console, name="guest console", daemon=True)
        self._reader.start()
        self._channel = Channel(ours)
        self._monitor = Monitor(monitor)

    def await_agent(self) -> None:
        """The second half of ``start``: the agent answers, the network is set up, the modules are loaded."""
        addresses = [f"{self.address}/{IPV4_PREFIX}", f"{self.address6}/{IPV6_PREFIX}"] if self.network else []
        try:
            self._await_hello()
            told = self.call("system.setup", mac=MAC, addresses=addresses, modules=list(self.modules))
        except LabError as problem:
            self.kill()
            last = " / ".join(self.console.splitlines()[-_SHOWN_LINES:])
            what = f"{self.kernel.name} did not come up with {self.accelerator}"
            raise LabError(f"{what}: {problem}; console: {last}") from problem
        self.device = told["device"]

    def _await_hello(self) -> None:
        for attempt in range(1, BOOT_ATTEMPTS + 1):
            assert self._channel is not None
            try:
                self._channel.ready.result(BOOT_TIMEOUT_S)
                return
            except TimeoutError:
                if attempt == BOOT_ATTEMPTS:
                    raise LabError(f"no answer within {BOOT_TIMEOUT_S:g} s, {attempt} times") from None
                self.kill()
                self.begin()

    def stop(self) -> None:
        """Switch the guest off."""
        if self._machine is None:
            return
        self._hang_up("the guest was stopped")
        with suppress(subprocess.TimeoutExpired):
            self._machine.process.wait(_STOP_TIMEOUT_S)
        self._end()

    def wait(self) -> None:
        """Wait until it ends by itself, or is ended by another thread."""
        if (machine := self._machine) is not None:
            machine.process.wait()

    def kill(self) -> None:
        """End it at once, as when its power fails: nothing is sent, connections are not closed."""
        if self._machine is None:
            return
        self._machine.kill()
        self._hang_up("the guest was killed")
        self._end()

    def reboot(self) -> None:
        """Kill it and boot it again; to its peers it is the same host with another generation number."""
        self.kill()
        self.start()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # ---- What it does

    def call(self, what: str, *, wait_s: float = 0.0, **arguments: Any) -> Any:
        """Ask the agent for ``what`` (``system.sysctl``) and wait for the answer. ``wait_s``: what that may take."""
        try:
            return self.submit(what, **arguments).result(CALL_TIMEOUT_S + wait_s)
        except TimeoutError:
            raise GuestError(f"{what}: no answer from the guest within {CALL_TIMEOUT_S + wait_s:g} s") from None

    def submit(self, what: str, part: Callable[[Any], None] | None = None, **arguments: Any) -> Future[Any]:
        """Ask the agent for ``what``, and go on: the answer comes to the future. Any number may be under way."""
        if self._channel is None:
            raise GuestError("the guest is not up")
        return self._channel.start(what, part, **arguments)

    def run(
        self,
        arguments: Sequence[str],
        *,
        stdin: bytes = b"",
        check: bool = True,
        timeout_s: float = 60.0,
        environment: Mapping[str, str] | None = None,
        folder: str | None = None,
    ) -> Completed:
        """Run a program in the guest. With ``check``, a status other than 0 is a ``GuestError``; so is a timeout."""
        told = self.call(
            "commands.run",
            wait_s=timeout_s,
            argv=list(arguments),
            stdin=base64.b64encode(stdin).decode("ascii"),
            timeout=timeout_s,
            env=dict(environment or {}),
            cwd=folder,
        )
        return completed(arguments, told, check=check, timeout_s=timeout_s)

    def popen(self, arguments: Sequence[str], *, environment: Mapping[str, str] | None = None) -> GuestProcess:
        """Start a program in the guest."""
        number = self.call("commands.start", argv=list(arguments), env=dict(environment or {}))
        return GuestProcess(self, list(arguments), number)

    def stream(
        self,
        arguments: Sequence[str],
        write: Callable[[int, bytes], None],
        *,
        environment: Mapping[str, str] | None = None,
        folder: str | None = None,
        stdin: bool = False,
    ) -> GuestStream:
        """Start a program whose output goes to ``write``, with 1 or 2 for stdout or stderr, as it comes."""
        return GuestStream(self, arguments, write, environment, folder, stdin)

    # ---- Its kernel

    def load_modules(self, *modules: str) -> None:
        """Load modules with what they need."""
        self.call("system.load", modules=list(modules))

    def unload_modules(self, *modules: str) -> None:
        """Unload modules in this order; those that are not loaded do not matter."""
        self.call("system.unload", modules=list(modules))

    def reset_rds(self) -> None:
        """Close the agent's sockets and load RDS anew: no connections, counters are 0, sysctls at their default."""
        self.rds.close_all()
        self.unload_modules(*RDS_MODULES)
        self.load_modules(*self.modules)

    def set_link(self, *, up: bool) -> None:
        """Put in the cable of its network device, or pull it; the guest sees that it has no carrier."""
        if self._monitor is None:
            raise GuestError("the guest is not up")
        self._monitor.execute("set_link", name=_NETWORK_DEVICE, up=up)

    def sysctl(self, name: str, value: object = None) -> str:
        """Set a sysctl where a value is given; its value."""
        told: str = self.call("system.sysctl", name=name, value=None if value is None else str(value))
        return told

    def allow_buffers(self, limit_bytes: int) -> None:
        """Let programs make the send and receive buffers of their sockets so large, each."""
        for name in ("wmem_max", "rmem_max"):
            self.sysctl(f"net.core.{name}", limit_bytes)

    def add_rxe(self, name: str = "rxe0") -> None:
        """Make a Soft-RoCE device over the guest's network device, and load RDS over InfiniBand."""
        self.run(["modprobe", "--all", *(crc for crc in ("crc32_generic", "crc32-cryptoapi") if self._has(crc))])
        self.load_modules("rdma_rxe", "rds_rdma")
        self.run(["rdma", "link", "add", name, "type", "rxe", "netdev", self.device])

    def _has(self, module: str) -> bool:
        return self.run(["modprobe", "--show-depends", module], check=False).status == 0

    # ---- Inside

    def _agent_command(self) -> str:
        source = Path(__file__).parents[2]
        for part in ("lab/agent", "afrds"):
            compileall.compile_dir(source / "rdstool" / part, quiet=2)  # quicker here than in the guest
        start = f"import sys; sys.path.append({str(source)!r}); from rdstool.lab.agent.main import main; main({PORT!r})"
        # The agent needs little but the standard library (-S), which comes first (-I): each file that Python looks for
        # in vain costs time.
        return f"PATH={GUEST_PATH} exec {shlex.join([sys.executable, '-I', '-S', '-B', '-c', start])}"

    def _read_console(self) -> None:
        assert self._machine is not None
        assert self._machine.process.stdout is not None
        for line in self._machine.process.stdout:
            self._console.append(line.decode(errors="replace").rstrip())

    def _hang_up(self, why: str) -> None:
        if self._channel is not None:
            self._channel.close(why)
            self._channel = None
        if self._monitor is not None:
            self._monitor.close()
            self._monitor = None

    def _end(self) -> None:
        assert self._machine is not None
        self._machine.kill()
        if self._reader is not None:
            self._reader.join()
        if self._machine.process.stdout is not None:
            self._machine.process.stdout.close()
        self._machine = None


def _devices(channel: int, monitor: int, tap: int | None) -> list[str]:
    """QEMU's arguments for the agent's port, the monitor and the network device, on descriptors that it inherits."""
    devices = ["-device", "virtio-serial-pci,id=rdstool", "-chardev", f"socket,id=agent,fd={channel}"]
    devices += ["-device", f"virtserialport,bus=rdstool.0,chardev=agent,name={PORT}"]
    devices += ["-chardev", f"socket,id=monitor,fd={monitor}", "-mon", "chardev=monitor,mode=control"]
    if tap is not None:
        devices += ["-netdev", f"tap,id=rds,fd={tap},vhost=off"]
        devices += ["-device", f"virtio-net-pci,id={_NETWORK_DEVICE},netdev=rds,mac={MAC},romfile="]
    return devices
