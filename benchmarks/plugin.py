"""Measure tshark with the plugin against tshark without it, and the native decoder against both, in one run.

    python -m benchmarks.plugin --size 300M --runs 3

Processor time is what counts: it hardly depends on what else the machine does.
"""

from __future__ import annotations

import argparse

from benchmarks.decode import RDSTOOL, ROOT, grown
from benchmarks.measure import medians

PLUGIN = ROOT / "lua" / "rds.lua"
FIELDS = ("-T", "fields", "-e", "frame.number", "-e", "tcp.len")
MOST_TIMES_TSHARK = 2.0
"""What the plugin may cost, as a multiple of tshark without it."""
LEAST_TIMES_NATIVE = 15.0
"""How much faster the native decoder has to be than tshark with the plugin."""


def main() -> None:
    """Print a line for each capture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="300M")
    parser.add_argument("--runs", type=int, default=3)
    chosen = parser.parse_args()
    for kind in ("tcp", "ib"):
        capture = grown(kind, chosen.size)
        name = str(capture.path)
        measured = medians(
            {
                "without": ["tshark", "-n", "-r", name, *FIELDS],
                "with": ["tshark", "-n", "-X", f"lua_script:{PLUGIN}", "-r", name, *FIELDS],
                "native": [RDSTOOL, "decode", "--json", name],
            },
            chosen.runs,
        )
        without, plugin, native = (measured[key].processor_seconds for key in ("without", "with", "native"))
        print(
            f"{kind} {chosen.size}: tshark {without:.2f} s, with the plugin {plugin:.2f} s "
            f"({plugin / without:.2f} times, "
            f"at most {MOST_TIMES_TSHARK}), native {native:.2f} s ({plugin / native:.1f} times faster, "
            f"at least {LEAST_TIMES_NATIVE})"
        )


if __name__ == "__main__":
    main()
