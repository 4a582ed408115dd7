"""Thin captures out with many seeds and show what rdstool says that it must not.

python -m tests.thinned --seeds 100          # every capture, seeds 0 to 99
python -m tests.thinned --name ib-rdma-61 --end a --seed 7 --keep    # one case: writes thinned.pcap
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from tests.thinned.judging import surprises
from tests.thinned.thinning import CASES, thinned, write


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=13)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--name", default="")
    parser.add_argument("--end", default="")
    parser.add_argument("--keep", action="store_true")
    args = parser.parse_args()
    seeds = [args.seed] if args.seed is not None else range(args.first, args.first + args.seeds)
    rules: Counter[str] = Counter()
    for seed in seeds:
        for name, end in CASES:
            if not name.startswith(args.name) or not end.startswith(args.end):
                continue
            if args.keep:
                header, frames, _ = thinned(name, end, seed)
                write(Path("thinned.pcap"), header, frames)
            how, found, _ = surprises(name, end, seed)
            rules.update({finding.rule for finding in found})
            for finding in found[:3]:
                where = f"{name} {end} seed {seed}, {how}: {len(found)} findings"
                sys.stdout.write(f"{where}, {finding.rule} frame {finding.frame}: {finding.message}\n")
                sys.stdout.flush()
    sys.stdout.write(f"{dict(rules)}\n")
    return int(bool(rules))


if __name__ == "__main__":
    raise SystemExit(main())
