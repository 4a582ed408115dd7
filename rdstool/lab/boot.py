"""virtme-ng and QEMU: the command that boots a kernel over the machine's own root, and whether KVM runs it."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

from rdstool.errors import LabError
from rdstool.lab.kernels import Kernel
from rdstool.lab.machine import Machine
from rdstool.lab.places import cache_folder
from rdstool.lab.tools import need_virtme, program
from rdstool.lab.uncompressed import uncompressed
from rdstool.replacing import put

ACCELERATOR = "RDSTOOL_LAB_ACCEL"
"""Environment variable: ``kvm`` or ``tcg``, instead of trying KVM first."""

_KVM = Path("/dev/kvm")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

_TRIAL_TIMEOUT_S = 20.0
"""For a boot with KVM that does nothing: it takes about two seconds where KVM works."""

GUEST_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""PATH of programs in a guest."""

_EMULATION = (
    *("-cpu", "max,-erms,-fsrm"),
    *("-global", "virtio-9p-pci.ioeventfd=off"),
    *("-global", "virtio-serial-pci.ioeventfd=off"),
)
"""Options of QEMU without KVM.

The processor is QEMU's own choice, but for the promise that bytes are copied fast one by one: a kernel believes it, and
QEMU's translation then takes five times as long for each byte as by eight. Devices hear of work from the thread that
runs the guest: to wake another for it, which looks at all of 70 event descriptors, is a third of what a boot takes.
"""

_EMULATED_KERNEL = ("mitigations=off",)
"""Options of its kernel. Keeping a processor from guessing is work for emulation too, and protects nothing in it."""

_OVERLAYS = ("/etc", "/home", "/opt", "/root", "/srv", "/tmp", "/usr", "/var")  # noqa: S108
"""Folders that a guest may write to; what it writes vanishes with it. ``/usr`` is there for ``/lib/modules``."""


class Accelerator(StrEnum):
    """What runs the guest's instructions."""

    KVM = "kvm"
    TCG = "tcg"
    """QEMU's translation: works everywhere, five to ten times slower."""


PROCESSORS = {Accelerator.KVM: 2, Accelerator.TCG: 1}
"""Processors of a guest where nothing else is said. Without KVM a second one costs more time than it saves: its kernel
spins while it waits for what the other does, and that on processors that may be shared."""


def virtme_options(
    kernel: Kernel,
    accelerator: Accelerator,
    *,
    script: str | None = None,
    memory_mib: int = 512,
    processors: int | None = None,
    kernel_options: Sequence[str] = (),
    devices: Sequence[str] = (),
    options: Sequence[str] = (),
) -> list[str]:
    """Arguments of a ``Machine`` that boots ``kernel``, runs ``script`` (or a shell on the terminal) and ends with it.

    ``options`` are further arguments for virtme-run, ``devices`` for QEMU. Raises ``LabError`` where one is missing.
    """
    need_virtme()
    for name in ("qemu-system-x86_64", "busybox", "file", "modprobe"):
        program(name)
    overlays = [path for path in _OVERLAYS if os.path.isdir(path) and not os.path.islink(path)]  # noqa: PTH112, PTH114
    line = ["--kimg", str(kernel.image), "--mods", "auto", "--force-9p"]
    line += ["--memory", f"{memory_mib}M", "--cpus", str(processors or PROCESSORS[accelerator])]
    line += [f"--overlay-rwdir={path}" for path in overlays]
    # What the kernel does not know becomes init's environment.
    path = f"PATH={_stubs()}:{GUEST_PATH}"
    emulated = accelerator is Accelerator.TCG
    kernel_options = ["net.ifnames=0", path, *(_EMULATED_KERNEL if emulated else ()), *kernel_options]
    line += [f"--kopt={option}" for option in kernel_options]
    if emulated:
        line.append("--disable-kvm")
    line += options
    if script is not None:
        line += ["--script-sh", script, "--show-boot-console"]
    if devices or emulated:
        line += ["--qemu-opts", *devices, *(_emulation(kernel) if emulated else ())]
    return line


def _emulation(kernel: Kernel) -> Sequence[str]:
    # virtme needs the compressed image to find the modules; QEMU takes the last that it is told of.
    started = uncompressed(kernel)
    return _EMULATION if started is None else (*_EMULATION, "-kernel", str(started))


def _stubs() -> Path:
    """A folder with programs that do nothing, to stand first on the path of a guest's init.

    The init would let udev handle every device that there is, and make all folders for passing files that systemd
    knows of. Without KVM, that takes longer than all the rest of the boot; the lab needs none of it.
    """
    folder = cache_folder() / "guest-bin"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("systemd-tmpfiles", "udevadm"):
        stub = folder / name
        if not stub.exists():
            put(stub, b"#!/bin/sh\n", 0o755)
    return folder


def choose_accelerator(kernel: Kernel) -> Accelerator:
    """KVM where it boots this kernel, else TCG; the answer holds until the machine boots again.

    A KVM that is there and does not run the kernel is common inside virtual machines: only a trial tells.
    """
    forced = os.environ.get(ACCELERATOR)
    if forced:
        try:
            return Accelerator(forced)
        except ValueError:
            raise LabError(f"{ACCELERATOR}={forced}: choose kvm or tcg") from None
    if not os.access(_KVM, os.R_OK | os.W_OK):
        return Accelerator.TCG
    note = cache_folder() / "accelerators" / f"{kernel.release}-{_BOOT_ID.read_text().strip()}"
    try:
        return Accelerator(note.read_text())
    except (OSError, ValueError):
        pass
    found = Accelerator.KVM if _kvm_boots(kernel) else Accelerator.TCG
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(found)
    return found


def interactive(kernel: Kernel, modules: Sequence[str], memory_mib: int, processors: int | None) -> int:
    """Boot with a root shell on this terminal, in which ``modules`` are loaded; the exit status."""
    shell = cache_folder() / "shell"
    shell.parent.mkdir(parents=True, exist_ok=True)
    shell.write_text(f"#!/bin/sh\nmodprobe --all {shlex.join(modules)}\nexec bash -i\n")
    shell.chmod(0o755)
    line = virtme_options(
        kernel,
        choose_accelerator(kernel),
        memory_mib=memory_mib,
        processors=processors,
        options=["--shell", str(shell)],
    )
    machine = Machine(line)
    try:
        return machine.process.wait()
    finally:
        machine.kill()


def _kvm_boots(kernel: Kernel) -> bool:
    trial = Machine(
        virtme_options(kernel, Accelerator.KVM, script="exit 42"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return trial.process.wait(_TRIAL_TIMEOUT_S) == 42
    except subprocess.TimeoutExpired:
        return False
    finally:
        trial.kill()
