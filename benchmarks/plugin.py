"""Measure tshark with the plugin against tshark without it, and the native decoder against both, in one run.

    python -m benchmarks.plugin --size 300M --runs 3
    python -m benchmarks.plugin --forms summary fields --tshark /opt/wireshark-4.6/bin/tshark

Processor time is what counts: it hardly depends on what else the machine does. tshark prints its summary lines, and in
another run two fields of each frame: for these it makes a tree, which costs about as much again without the plugin. The
native decoder prints every field of RDS as JSON; a third run of tshark does the same, which takes the plugin.
"""

from __future__ import annotations

import argparse

from benchmarks.decode import RDSTOOL, ROOT, grown
from benchmarks.measure import medians

PLUGIN = ROOT / "lua" / "rds.lua"
FORMS = {
    "summary": (),
    "fields": ("-T", "fields", "-e", "frame.number", "-e", "tcp.len"),
    "records": ("-T", "json", "-j", "rds rds_cm rds_rdma"),
}
COMPARED = ("summary", "fields")
"""Forms that tshark has without the plugin, too."""
MOST_TIMES_TSHARK = 2.0
"""What the plugin may cost, as a multiple of tshark without it."""
LEAST_TIMES_NATIVE = 15.0
"""How much faster the native decoder has to be than tshark with the plugin."""


def main() -> None:
    """Print a line for each capture and form of output."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="300M")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--tshark", default="tshark")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    chosen = parser.parse_args()
    for kind in ("tcp", "ib"):
        capture = grown(kind, chosen.size)
        name = str(capture.path)
        tshark, plugin = [chosen.tshark, "-n", "-r", name], ["-X", f"lua_script:{PLUGIN}"]
        commands = {"native": [RDSTOOL, "decode", "--json", name]}
        for form in chosen.forms:
            if form in COMPARED:
                commands[f"{form} without"] = [*tshark, *FORMS[form]]
            commands[form] = [*tshark, *plugin, *FORMS[form]]
        seconds = {key: one.processor_seconds for key, one in medians(commands, chosen.runs).items()}
        for form in chosen.forms:
            report(f"{kind} {chosen.size}, {form}", seconds["native"], seconds[form], seconds.get(f"{form} without"))


def report(what: str, native: float, plugin: float, without: float | None = None) -> None:
    """A line for one form of output: processor time of each program, in seconds, and the two ratios."""
    beside = f"tshark {without:.2f} s, {plugin / without:.2f} times (at most {MOST_TIMES_TSHARK}); " if without else ""
    faster = f"native {native:.2f} s, {plugin / native:.1f} times faster (at least {LEAST_TIMES_NATIVE})"
    print(f"{what}: with the plugin {plugin:.2f} s; {beside}{faster}", flush=True)


if __name__ == "__main__":
    main()
