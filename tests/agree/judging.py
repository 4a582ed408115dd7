"""What two readings of one damaged capture do not agree on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rdstool.tshark.program import Tshark
from tests.agree.damaging import damaged
from tests.kit.sharing import all_of, is_shared, options
from tests.thinned.thinning import write
from tests.tshark.running import differences_in, rows

LIMIT_S = 120
"""For one reading of a few hundred frames."""
SHOWN = (
    *("frame.number", "rds.number", "rds.kind", "rds.sequence", "rds.stream", "rds.complete", "rds.expected"),
    *("rds.request_in", "rds.retransmission_of", "_ws.expert.message"),
)
CHUNK_BYTES = 4096
"""So small that every capture of some frames has chunks for two processes."""


def make(seed: int, folder: Path) -> tuple[Path, str]:
    """The damaged capture of a seed as a file, and how it was made."""
    header, frames, how = damaged(seed)
    return write(folder / f"damaged-{seed}.pcap", header, frames), how


def between_decoders(path: Path, tshark: Tshark) -> list[str]:
    """Native decoder and plugin: every field, and every rule that both check."""
    return [f"tshark {tshark.version_text}: {one}" for one in differences_in(path, tshark)]


def between_passes(path: Path, tshark: Tshark) -> Iterator[str]:
    """One pass and two of tshark, and errors of Lua in either."""
    once, twice = (_fields(path, tshark, *passes) for passes in ((), ("-2",)))
    for one, other in zip(once, twice, strict=True):
        if "Lua Error" in f"{one}{other}":
            yield f"tshark {tshark.version_text}: {one or other}"
        # Frames on which Wireshark's own dissectors gave up are shown in a second pass only.
        if one != other and one[1]:
            yield f"tshark {tshark.version_text}: {one} in one pass, {other} in two"


def between_processes(path: Path) -> list[str]:
    """One process and two, which take turns with small parts of the file."""
    one, two = (all_of([str(path)], options(jobs, CHUNK_BYTES)) for jobs in (1, 2))
    return [f"{name} differ between one process and two" for name in one if one[name] != two[name]]


def is_for_two(path: Path) -> bool:
    """Tell whether it is long enough for two processes."""
    return is_shared(str(path), chunk_bytes=CHUNK_BYTES)


def _fields(path: Path, tshark: Tshark, *passes: str) -> list[tuple[str, ...]]:
    """These fields of each frame; of expert items, those of the plugin."""
    found = []
    for *fields, told in rows(tshark, path, SHOWN, *passes, quiet=False, limit_s=LIMIT_S):
        found.append((*fields, "|".join(one for one in told.split("|") if one.startswith(("RDS-", "Lua Error")))))
    return found
