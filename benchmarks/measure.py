"""Run a command and tell how long it took and how much memory it and its children held."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

SAMPLE_INTERVAL_S = 0.05


@dataclass(frozen=True)
class Measured:
    """One run, or the medians of several."""

    seconds: float
    peak_bytes: int
    """Most memory in use at one time by all processes of the command; pages that they share count once."""
    processor_seconds: float
    """What all its processes used of processors: hardly changed by what else the machine does."""
    spread: float = 1.0
    """Slowest run over fastest run."""


def run(command: Sequence[str], accept: frozenset[int] = frozenset({0}), *, watched: bool = True) -> Measured:
    """Run a command once; its results go nowhere. Ends the benchmark where its exit status is none of ``accept``.

    Where it is ``watched`` its peak memory is known. That takes time from a command of several processes.
    """
    used = _children_seconds()
    start = perf_counter()
    # An installed program has its bytecode; where it may not be written, each start would compile all modules.
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        peak = _Peak(process.pid)
        if watched:
            peak.start()
        _, errors = process.communicate()
        seconds = perf_counter() - start
        if watched:
            peak.stop()
    if process.returncode not in accept:
        raise SystemExit(f"{' '.join(command)}: exit status {process.returncode}: {errors.decode(errors='replace')}")
    return Measured(seconds, peak.bytes, _children_seconds() - used)


def medians(
    commands: Mapping[str, Sequence[str]], runs: int, accept: frozenset[int] = frozenset({0})
) -> dict[str, Measured]:
    """Median times, and the peak of one more run, that comes first and is not timed.

    The commands take turns: a busy minute of the machine meets all of them.
    """
    peaks = {name: run(command, accept).peak_bytes for name, command in commands.items()}
    measured: dict[str, list[Measured]] = {name: [] for name in commands}
    for _ in range(runs):
        for name, command in commands.items():
            measured[name].append(run(command, accept, watched=False))
    return {name: _median(several, peaks[name]) for name, several in measured.items()}


def _median(several: list[Measured], peak_bytes: int) -> Measured:
    times = [one.seconds for one in several]
    return Measured(
        statistics.median(times),
        peak_bytes,
        statistics.median(one.processor_seconds for one in several),
        max(times) / min(times),
    )


def _children_seconds() -> float:
    """Processor time of all children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class _Peak(threading.Thread):
    """Samples the memory of a process and all its descendants while they run."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid = pid
        self.bytes = 0
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(SAMPLE_INTERVAL_S):
            family = _family(self.pid)
            # A single process keeps its own record of its peak, which no sample can miss.
            self.bytes = max(self.bytes, _high_water(self.pid) if len(family) == 1 else sum(map(_share, family)))

    def stop(self) -> None:
        self._over.set()
        self.join()


def _family(pid: int) -> list[int]:
    found = [pid]
    for member in found:
        try:
            children = Path(f"/proc/{member}/task/{member}/children").read_text().split()
        except OSError:
            continue
        found += map(int, children)
    return found


def _field(file: str, name: str) -> int:
    """A value in kB of one of a process's files in /proc, in bytes; 0 for a process that has ended."""
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), 0)


def _high_water(pid: int) -> int:
    return _field(f"/proc/{pid}/status", "VmHWM:")


def _share(pid: int) -> int:
    return _field(f"/proc/{pid}/smaps_rollup", "Pss:")


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))
