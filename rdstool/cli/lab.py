"""``rdstool lab``: real kernels with RDS under QEMU."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rdstool.cli.exit_codes import HELP, ExitCode
from rdstool.cli.output import Results, json_line, note
from rdstool.errors import UsageError

app = typer.Typer(
    name="lab",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=HELP,
)


@app.callback()
def lab() -> None:
    """Run real kernels with RDS under QEMU: fetch them, boot them, talk to them over a network of their own.

    \b
    Example:
      rdstool lab fetch 6.12
      rdstool lab run 6.12 -- uname -r
    """  # noqa: D301


@app.command()
def fetch(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KERNEL]...", help="6.1, 6.12, newest, or a suite of Debian. All three by default."),
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Also where it is there: for a newer version of it.")] = False,
    mirror: Annotated[str, typer.Option(help="Debian mirror, instead of the one that the machine uses.")] = "",
    image: Annotated[
        Path | None, typer.Option(help="A kernel image of your own: gives it the name KERNEL, and stays where it is.")
    ] = None,
    modules: Annotated[
        Path | None, typer.Option(help="With --image: the folder of its modules, lib/modules/RELEASE.")
    ] = None,
) -> None:
    """Get kernels: Debian's packages are downloaded, checked and unpacked, but not installed.

    \b
    Example:
      rdstool lab fetch 6.12 newest
      rdstool lab fetch mine --image linux/arch/x86/boot/bzImage --modules staging/lib/modules/7.3.0
    """  # noqa: D301
    from rdstool.lab.fetch import SOURCES, fetch_kernel  # noqa: PLC0415
    from rdstool.lab.kernels import Kernel, add_kernel  # noqa: PLC0415

    fetched: list[Kernel] = []
    if image is not None:
        if modules is None or not names or len(names) != 1:
            raise UsageError("a kernel of your own needs one name, --image and --modules")
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
    """List the kernels that are there.

    \b
    Example:
      rdstool lab list
    """  # noqa: D301
    from rdstool.lab.kernels import kernels  # noqa: PLC0415

    found = kernels()
    with Results() as results:
        for kernel in found:
            if json:
                record = {"name": kernel.name, "release": kernel.release, "origin": kernel.origin}
                results.write(json_line(record | {"image": str(kernel.image), "modules": str(kernel.modules)}))
            else:
                results.write(f"{kernel.name:<10} {kernel.release:<28} {kernel.origin}\n")
    if not found:
        note("no kernels yet: rdstool lab fetch")
    raise typer.Exit(ExitCode.CLEAN)
