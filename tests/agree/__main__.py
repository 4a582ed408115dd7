"""Damage captures with many seeds, and show where native decoder and plugin, or one pass and two, do not agree.

python -m tests.agree --seeds 200              # seeds 0 to 199, with the machine's tshark
python -m tests.agree --seeds 200 --newer --passes --jobs
python -m tests.agree --seed 7 --keep          # one case: leaves damaged-7.pcap
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.agree.judging import between_decoders, between_passes, between_processes, make
from tests.kit.tsharks import VERSIONS, system_tshark

MOST_SHOWN = 5
"""Differences of one capture."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--newer", action="store_true", help="with tshark 4.4 and the newest in Debian, too")
    parser.add_argument("--passes", action="store_true", help="compare one pass with two")
    parser.add_argument("--jobs", action="store_true", help="compare one process with two")
    parser.add_argument("--keep", action="store_true", help="leave captures with differences in the current folder")
    args = parser.parse_args()
    seeds = [args.seed] if args.seed is not None else range(args.first, args.first + args.seeds)
    tsharks = [find() for find in (VERSIONS.values() if args.newer else [system_tshark])]
    differ = 0
    with TemporaryDirectory() as folder:
        for seed in seeds:
            path, how = make(seed, Path(folder))
            found = [one for tshark in tsharks for one in between_decoders(path, tshark)]
            if args.passes:
                found += [one for tshark in tsharks for one in between_passes(path, tshark)]
            if args.jobs:
                found += between_processes(path)
            if found:
                differ += 1
                sys.stdout.write(f"seed {seed}: {how}: {len(found)} differences\n")
                sys.stdout.writelines(f"    {one}\n" for one in found[:MOST_SHOWN])
                sys.stdout.flush()
            if args.keep and (found or args.seed is not None):
                Path(path.name).write_bytes(path.read_bytes())
            path.unlink()
    sys.stdout.write(f"{differ} of {len(seeds)} damaged captures are read differently\n")
    return int(differ > 0)


if __name__ == "__main__":
    raise SystemExit(main())
