"""Feed damaged captures to every command that reads captures, in this process, and stop at the first surprise.

    python -m tests.fuzz --seconds 600         # as long as that, from a seed of its own
    python -m tests.fuzz --seed 7 --cases 200  # always the same
    python -m tests.fuzz --seed 123 --cases 1 --keep   # look at one case: writes fuzz-123.pcap

A surprise is any exception, any warning, an exit status that is not in the contract, output that is not JSON where
JSON was promised, more memory than is allowed, or a case that takes too long.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import os
import resource
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from time import monotonic
from types import FrameType

MEMORY_BYTES = 2 << 30
"""Address space of the process: what libraries map at start is a good part of it."""
CASE_SECONDS = 10
"""For one command on one capture of at most a few hundred frames."""
COMMANDS = (
    ("decode",),
    ("decode", "-V", "-x"),
    ("decode", "--json", "--hash", "--rdma"),
    ("decode", "--csv", "--filter", "rds.sequence > 1 and not rds.flags.retransmitted == 1"),
    ("validate", "--format", "json"),
    ("validate", "--format", "sarif"),
    ("stats",),
    ("stats", "--json"),
)
JSON_LINES = {COMMANDS[2], COMMANDS[4]}
STATUSES = {0, 1, 2}


class TooLongError(BaseException):
    """Not an Exception: nothing on the way may catch it."""


def _too_long(_signal: int, _frame: FrameType | None) -> None:
    raise TooLongError(f"took more than {CASE_SECONDS} s")


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    signal.setitimer(signal.ITIMER_REAL, CASE_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def run_command(command: tuple[str, ...], path: Path) -> None:
    """Run one command on one file. Raises whatever is not as it should be."""
    from rdstool.cli.app import run  # noqa: PLC0415 - after the limits are set

    with io.TextIOWrapper(io.BytesIO(), encoding="utf-8") as out, io.StringIO() as err:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _time_limit():
            status = run([*command, str(path)])
        out.flush()
        text = out.buffer.getvalue().decode()
        assert status in STATUSES, f"exit status {status}"
        if status == 2:
            last = err.getvalue().splitlines()[-1:]
            assert last, "exit status 2 and no word why"
            assert last[0].startswith("rdstool: "), last[0]
    if command in JSON_LINES:
        for line in text.splitlines():
            json.loads(line)


def run_case(seed: int, folder: Path, commands: Sequence[tuple[str, ...]] = COMMANDS) -> None:
    """Make the damaged capture of ``seed`` and try the commands on it."""
    from tests.fuzz.damage import damaged  # noqa: PLC0415

    path = folder / f"fuzz-{seed}.pcap"
    path.write_bytes(damaged(seed))
    for command in commands:
        try:
            run_command(command, path)
            # A command is a process that ends: the reference cycles that it leaves alone would add up here.
            gc.collect()
        except BaseException:
            sys.stderr.write(f"\nseed {seed}: rdstool {' '.join(command)}\n")
            raise
    path.unlink()


def main() -> int:
    """Run as a command."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Feed damaged captures to rdstool.")
    parser.add_argument("--seed", type=int, help="first seed; without it, one that differs each time")
    parser.add_argument("--cases", type=int, help="stop after so many")
    parser.add_argument("--seconds", type=float, help="stop after so long")
    parser.add_argument("--only", metavar="NAME", help="only this command: decode, validate or stats")
    parser.add_argument("--keep", action="store_true", help="only write the captures, into the current folder")
    arguments = parser.parse_args()
    first = int.from_bytes(os.urandom(4), "big") if arguments.seed is None else arguments.seed

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    signal.signal(signal.SIGALRM, _too_long)
    os.environ["RDSTOOL_DEBUG"] = "1"  # Unexpected exceptions come out as what they are.
    warnings.simplefilter("error")
    commands = [command for command in COMMANDS if arguments.only in {None, command[0]}]
    end = monotonic() + arguments.seconds if arguments.seconds else None
    done = 0
    with tempfile.TemporaryDirectory(prefix="rdstool-fuzz-") as folder:
        for seed in count(first):
            if (arguments.cases and done >= arguments.cases) or (end and monotonic() > end):
                break
            if arguments.keep:
                from tests.fuzz.damage import damaged  # noqa: PLC0415

                Path(f"fuzz-{seed}.pcap").write_bytes(damaged(seed))
            else:
                try:
                    run_case(seed, Path(folder), commands)
                except BaseException as surprise:
                    traceback.print_exception(surprise)
                    sys.stderr.write(f"to see it again: python -m tests.fuzz --seed {seed} --cases 1\n")
                    return 130 if isinstance(surprise, KeyboardInterrupt) else 1
            done += 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    sys.stdout.write(f"{done} damaged captures from seed {first}, {len(commands)} commands each, peak {peak} MB\n")
    return 0


if __name__ == "__main__":
    # OpenBLAS maps address space for each thread, and nothing here multiplies matrices.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    sys.exit(main())
