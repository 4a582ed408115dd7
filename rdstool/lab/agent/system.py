"""What the host sets up in the guest: its network device, modules, sysctls."""

from __future__ import annotations

import os
import subprocess
from time import sleep

from rdstool.afrds.sockets import open_socket

TYPE_CHECKING = False  # as in ``typing``, which is slow to import in a guest
if TYPE_CHECKING:
    from rdstool.afrds.records import Record

SETTLE_ATTEMPTS = 10
SETTLE_PAUSE_S = 0.5
_NET = "/sys/class/net"


class System:
    """The guest's kernel and its network."""

    def setup(self, mac: str, addresses: list[str], modules: list[str]) -> dict[str, str]:
        """Load modules, then bring up the device with hardware address ``mac``, with these addresses (and prefixes)."""
        self.load(["virtio_net", *modules])
        settle()
        device = next((name for name in os.listdir(_NET) if _read(f"{_NET}/{name}/address").strip() == mac), None)
        commands = ["link set lo up"]
        if device is not None:
            commands += [f"address add {each} dev {device}{' nodad' * (':' in each)}" for each in addresses]
            commands.append(f"link set {device} up")
        _call(["ip", "-batch", "-"], "\n".join(commands))
        return {"device": device or "", "release": os.uname().release}

    def load(self, modules: list[str]) -> None:
        """Load modules with what they need."""
        if modules:
            _call(["modprobe", "--all", *modules])

    def unload(self, modules: list[str]) -> None:
        """Unload modules, in this order. Modules that are not loaded are no error."""
        loaded = {line.split()[0] for line in _read("/proc/modules").splitlines()}
        if present := [module for module in modules if module in loaded]:
            _call(["rmmod", *present])

    def sysctl(self, name: str, value: str | None = None) -> str:
        """Set a sysctl where ``value`` is given; what it is then. Fields with several words have them apart by tabs."""
        path = f"/proc/sys/{name.replace('.', '/')}"
        if value is not None:
            with open(path, "w") as file:
                file.write(value)
        return _read(path).strip()

    def counters(self) -> dict[str, int]:
        """All counters of the kernel's RDS."""
        from rdstool.afrds import info  # noqa: PLC0415 - slow to import in a guest, and not always needed

        with open_socket() as sock:
            return info.counters(sock)

    def table(self, name: str, ipv6: bool = False) -> list[Record]:
        """A table of ``rds-info``."""
        from rdstool.afrds import info  # noqa: PLC0415 - as above

        with open_socket() as sock:
            return info.table(sock, name, ipv6=ipv6)


def settle() -> None:
    """Wait for udev, where there is one: it may give the network device another name.

    On a slow machine udev was seen to hang up on who asks while it starts. Raises ``OSError`` where it goes on so.
    """
    for left in reversed(range(SETTLE_ATTEMPTS)):
        try:
            _call(["udevadm", "settle"])
        except FileNotFoundError:
            return
        except OSError:
            if not left:
                raise
            sleep(SETTLE_PAUSE_S)
        else:
            return


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()


def _call(command: list[str], text: str = "") -> None:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise OSError(0, f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
