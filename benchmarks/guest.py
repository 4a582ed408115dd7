"""``python -m benchmarks.guest``: rdstool against a kernel's RDS over TCP, beside kernel against kernel, in one guest.

The guest boots by ``rdstool lab``; benchmarks/guest_programs.py is what runs in it. Results go to benchmarks/guest.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.guest_programs import COUNTS, PAIRS
from benchmarks.measure import processors
from rdstool.lab import find_kernel
from rdstool.lab.boot import choose_accelerator

RESULTS = Path(__file__).with_name("guest.md")
LIMIT_S = 1800

TEXT = """# rdstool against a kernel's RDS, in one guest

Made by `{command}` on {today}. Medians of {runs} runs, which took turns.
Guest: Linux {release}, {guest_processors} processor, by QEMU with {accelerator}. Machine: {processors} processors,
Python {python}; load at the start {before:.1f}, at the end {after:.1f}.

Two network namespaces of the guest, joined by a veth pair, one RDS connection between them, one socket on each side.
Both programs of a pair are Python, and call AF_RDS of the kernel or `rdstool.Socket`: sender > receiver.
The time is from the first message until the answer that all have come.

| bytes | {titles} |
|------:|{lines}|
{rows}

"x" is the rate beside that of kernel to kernel. With tcg, QEMU translates each instruction of the guest; that slows
Python and kernel by different factors, and both sides share one processor. The ratios tell what rdstool costs on such a
guest, not on a machine of its own; and where the load is above the number of processors, differences below a factor of
ten tell nothing. The kernel of a namespace holds TCP port 16385 for all addresses, so rdstool, which
has the smaller address and connects, listens on another one.
"""


def measure(kernel: str, runs: int, scale: float) -> Iterator[dict[str, Any]]:
    """Boot, and give what the programs tell: first of the guest, then of each run."""
    inside = [sys.executable, "-m", "benchmarks.guest_programs", "all", str(runs), str(scale)]
    here = f"PYTHONPATH={Path(__file__).parent.parent}"
    command = [sys.executable, "-m", "rdstool", "lab", "run", kernel, "--", "env", here, *inside]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=LIMIT_S, check=True)
    return map(json.loads, done.stdout.splitlines())


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.guest", description=__doc__)
    parser.add_argument("--kernel", default="newest", help="as rdstool lab names it (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="of each pair (default: %(default)s)")
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of messages (default: %(default)s)")
    options = parser.parse_args()
    before = os.getloadavg()[0]
    guest, *told = measure(options.kernel, options.runs, options.scale)
    rows = []
    for size in COUNTS:
        cells = [str(size)]
        first = 0.0
        for pair in PAIRS:
            rate = statistics.median(each["rate"] for each in told if (each["pair"], each["size"]) == (pair, size))
            first = first or rate
            cells += [f"{rate:,.0f}", f"{rate * size / 1e6:,.1f}", f"{rate / first:.2f}"]
        rows.append(f"| {' | '.join(cells)} |")
        sys.stderr.write(rows[-1] + "\n")
    RESULTS.write_text(
        TEXT.format(
            command=" ".join(["python -m benchmarks.guest", *sys.argv[1:]]),
            today=date.today(),
            runs=options.runs,
            release=guest["release"],
            guest_processors=guest["processors"],
            accelerator=choose_accelerator(find_kernel(options.kernel)),
            processors=processors(),
            python=platform.python_version(),
            before=before,
            after=os.getloadavg()[0],
            titles=" | ".join(f"{pair}, messages/s | MB/s | x" for pair in PAIRS),
            lines="|".join(["---:"] * 3 * len(PAIRS)),
            rows="\n".join(rows),
        )
    )


if __name__ == "__main__":
    main()
