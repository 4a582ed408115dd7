"""``rdstool lab``: real kernels with RDS under QEMU."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from rdstool.cli.commands import Commands, WrappingCommand
from rdstool.cli.exit_codes import WRAPPING_HELP, ExitCode
from rdstool.cli.output import Results, json_line, note
from rdstool.errors import UsageError

app = Commands(name="lab")


@contextmanager
def ended_in_order() -> Iterator[None]:
    """SIGTERM and a terminal that is closed end this part as Ctrl-C does: no guest is left behind."""
    numbers = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) is signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


@app.callback()
def lab() -> None:
    """Run real kernels with RDS under QEMU: fetch them, boot them, talk to them over a network of their own.

    \b
    Examples:
      rdstool lab fetch 6.12
      rdstool lab run 6.12 uname -r
    """  # noqa: D301


@app.command()
def fetch(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KERNEL]...", help="6.1, 6.12, newest, or a suite of Debian. All three by default."),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Fetch what is there already too, for a newer version.")
    ] = False,
    mirror: Annotated[
        str, typer.Option(metavar="URI", help="Debian mirror, instead of the one that the machine uses.")
    ] = "",
    image: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Instead of a download: an image of your own, which stays where it is; KERNEL names it.",
        ),
    ] = None,
    modules: Annotated[
        Path | None, typer.Option(metavar="DIR", help="With --image: the folder of its modules, lib/modules/RELEASE.")
    ] = None,
) -> None:
    """Get kernels: Debian's packages are downloaded, checked and unpacked, but not installed.

    \b
    Examples:
      rdstool lab fetch 6.12 newest
      rdstool lab fetch mine --image linux/arch/x86/boot/bzImage --modules staging/lib/modules/7.3.0
    """  # noqa: D301
    from rdstool.lab.fetch import SOURCES, fetch_kernel  # noqa: PLC0415
    from rdstool.lab.kernels import Kernel, add_kernel  # noqa: PLC0415

    fetched: list[Kernel] = []
    if image is not None:
        if modules is None or not names or len(names) != 1:
            raise UsageError("a kernel of your own needs one name, --image and --modules")
        if again or mirror:
            raise UsageError(f"{'--again' if again else '--mirror'} is for downloads: leave it out, or --image")
        fetched.append(add_kernel(names[0], image, modules))
    else:
        if modules is not None:
            raise UsageError("--modules belongs to --image")
        wanted = names or [source.name for source in SOURCES]
        fetched.extend(fetch_kernel(name, again=again, mirror=mirror or None, say=note) for name in wanted)
    with Results() as results:
        for kernel in fetched:
            results.write(f"{kernel.name:<10} {kernel.release:<28} {kernel.origin}\n")


@app.command("list")
def list_kernels(json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False) -> None:
    """List the kernels that are there, and the guests that are up.

    \b
    Example:
      rdstool lab list
    """  # noqa: D301
    from rdstool.lab.kernels import kernels  # noqa: PLC0415
    from rdstool.lab.standing import standing  # noqa: PLC0415

    found, guests = kernels(), standing()
    with Results() as results:
        for kernel in found:
            up = [guest.name for guest in guests if guest.kernel == kernel.name]
            if json:
                record = {"name": kernel.name, "release": kernel.release, "origin": kernel.origin, "up": up}
                results.write(json_line(record | {"image": str(kernel.image), "modules": str(kernel.modules)}))
            else:
                told = f"  up: {', '.join(up)}" if up else ""
                results.write(f"{kernel.name:<10} {kernel.release:<28} {kernel.origin}{told}\n")
    if not found:
        note("no kernels yet: rdstool lab fetch")
    raise typer.Exit(ExitCode.CLEAN)


KernelName = Annotated[str, typer.Argument(metavar="KERNEL", help="Name or release of a kernel that is there.")]
Command = Annotated[
    list[str], typer.Argument(metavar="COMMAND...", help="What to run; options behind its name are its own.")
]
Modules = Annotated[
    list[str] | None, typer.Option("--module", metavar="NAME", help="Load this module too (repeatable).")
]
Memory = Annotated[int, typer.Option(metavar="MIB", min=192, help="The guest's memory.")]
Processors = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="The guest's processors; 2 with KVM and 1 without, by default.")
]
GuestName = Annotated[str | None, typer.Option("--guest", metavar="NAME", help="Which guest, where several are up.")]


@app.command(cls=WrappingCommand, epilog=WRAPPING_HELP)
def run(
    kernel: KernelName,
    command: Command,
    module: Modules = None,
    memory: Memory = 512,
    processors: Processors = None,
) -> None:
    """Boot a kernel, run a command in it with RDS loaded, and end with its status.

    The guest sees this machine's files. What it writes to them is gone with it.

    \b
    Example:
      rdstool lab run newest cat /proc/version
    """  # noqa: D301
    from rdstool.lab.guest import Guest  # noqa: PLC0415
    from rdstool.lab.kernels import find_kernel  # noqa: PLC0415
    from rdstool.lab.streams import join, passed_environment, write_through  # noqa: PLC0415

    environment, folder = passed_environment(), os.getcwd()  # noqa: PTH109
    modules = ("rds_tcp", *(module or ()))
    made = Guest(find_kernel(kernel), modules=modules, memory_mib=memory, processors=processors)
    with ended_in_order(), made as guest:
        status = join(
            lambda reads: guest.stream(command, write_through, environment=environment, folder=folder, stdin=reads)
        )
    raise typer.Exit(status)


@app.command(epilog=WRAPPING_HELP)
def shell(kernel: KernelName, module: Modules = None, memory: Memory = 512, processors: Processors = None) -> None:
    """Boot a kernel with RDS loaded and give a root shell in it; the guest ends with it.

    \b
    Example:
      rdstool lab shell 6.1
    """  # noqa: D301
    from rdstool.lab.boot import interactive  # noqa: PLC0415
    from rdstool.lab.kernels import find_kernel  # noqa: PLC0415

    if not sys.stdin.isatty():
        raise UsageError(f"a shell needs a terminal: rdstool lab run {kernel} COMMAND does without")
    raise typer.Exit(interactive(find_kernel(kernel), ("rds_tcp", *(module or ())), memory, processors))


@app.command()
def up(
    kernel: KernelName,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="What to call the guest; the kernel's name by default.")
    ] = None,
    module: Modules = None,
    memory: Memory = 512,
    processors: Processors = None,
    rxe: Annotated[
        bool, typer.Option("--rxe", help="With a Soft-RoCE device: the kernel's RDS runs over InfiniBand.")
    ] = False,
) -> None:
    """Boot a kernel that stays up, on a network of its own, with RDS over TCP, or InfiniBand.

    \b
    Examples:
      rdstool lab up 6.12
      rdstool lab host ping -c 1 192.0.2.100
    """  # noqa: D301
    from rdstool.lab.kernels import find_kernel  # noqa: PLC0415
    from rdstool.lab.standing import bring_up  # noqa: PLC0415

    found = find_kernel(kernel)
    with ended_in_order():
        guest = bring_up(name or found.name, found.name, ("rds_tcp", *(module or ())), memory, processors, rxe=rxe)
    with Results() as results:
        results.write(
            f"{guest.name}: Linux {guest.release} at {guest.address} and {guest.address6} ({guest.accelerator}); "
            f"the host's side is {guest.smaller} and {guest.larger}\n"
        )


@app.command()
def down(
    name: Annotated[str | None, typer.Argument(metavar="[GUEST]", help="Which, where several are up.")] = None,
) -> None:
    """Shut down a guest that is up.

    \b
    Example:
      rdstool lab down 6.12
    """  # noqa: D301
    from rdstool.lab.standing import find_standing  # noqa: PLC0415

    find_standing(name).down()


@app.command(cls=WrappingCommand, epilog=WRAPPING_HELP)
def guest(command: Command, name: GuestName = None) -> None:
    """Run a command in a guest that is up, and end with its status.

    \b
    Example:
      rdstool lab guest sysctl net.rds
    """  # noqa: D301
    from rdstool.lab.standing import find_standing  # noqa: PLC0415
    from rdstool.lab.streams import join, passed_environment, write_through  # noqa: PLC0415

    chosen, environment, folder = find_standing(name), passed_environment(), os.getcwd()  # noqa: PTH109
    status = join(
        lambda reads: chosen.stream(command, write_through, environment=environment, folder=folder, stdin=reads)
    )
    raise typer.Exit(status)


@app.command()
def say(
    to: Annotated[str, typer.Argument(metavar="ADDR[:PORT]", help="Where to; port 4000 by default.")],
    text: Annotated[str, typer.Argument(help="What to send.")],
    rdma_write: Annotated[
        str | None,
        typer.Option(metavar="COOKIE", help="First write it into the memory that the peer offers, by RDMA."),
    ] = None,
    name: GuestName = None,
) -> None:
    """Let the kernel of a guest that is up send a datagram; wait a minute for its acknowledgement.

    \b
    Examples:
      rdstool lab host rdstool listen 192.0.2.1:4000 &
      rdstool lab say 192.0.2.1:4000 hello
    """  # noqa: D301
    from rdstool.cli.numbers import number_64  # noqa: PLC0415
    from rdstool.cli.places import place  # noqa: PLC0415
    from rdstool.lab.standing import find_standing  # noqa: PLC0415
    from rdstool.lab.streams import write_through  # noqa: PLC0415
    from rdstool.lab.tools import own_environment  # noqa: PLC0415

    peer = place(to)
    line = [sys.executable, "-m", "rdstool.afrds", "say", *map(str, peer), text]
    line += [str(number_64(rdma_write, "a cookie"))] if rdma_write is not None else []
    paths = {"PYTHONPATH": own_environment()["PYTHONPATH"]}
    stream = find_standing(name).stream(line, write_through, environment=paths, folder="/", stdin=False)
    raise typer.Exit(stream.wait())


@app.command(cls=WrappingCommand, epilog=WRAPPING_HELP)
def host(command: Command, name: GuestName = None) -> None:
    """Run a command on the host's side of the network of a guest that is up, and end with its status.

    \b
    Example:
      rdstool lab host rdstool ping 192.0.2.100
    """  # noqa: D301
    from rdstool.lab.standing import find_standing  # noqa: PLC0415

    line = [*find_standing(name).enter, *command]
    sys.stdout.flush()
    os.execv(line[0], line)  # noqa: S606 - what the user asks for
