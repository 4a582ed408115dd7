"""``python -m tests.sim --seeds 5000`` runs many seeds; ``--seed N`` runs one and tells its story."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

from tests.sim.ib_world import run_ib_seed
from tests.sim.model import Violation
from tests.sim.world import World, run_seed


def main() -> int:
    """Run seeds; 1 where one failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description="Run the engine on a simulated network.")
    parser.add_argument("--seeds", type=int, default=2000, help="how many seeds (default: %(default)s)")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="run this one and tell its story")
    parser.add_argument("--ib", action="store_true", help="over InfiniBand instead of TCP")
    options = parser.parse_args()
    run: Callable[[int], World] = run_ib_seed if options.ib else run_seed
    if options.seed is not None:
        try:
            world = run(options.seed)
        except Violation as error:
            sys.stdout.write(f"{error}\n")
            return 1
        sys.stdout.write("\n".join(world.story) + "\n")
        return 0
    failed = []
    began = time.perf_counter()
    messages = 0
    for seed in range(options.start, options.start + options.seeds):
        try:
            messages += len(run(seed).model.messages)
        except Violation as error:
            failed.append(seed)
            sys.stdout.write(f"seed {seed}: {str(error).splitlines()[-2]}\n")
    took = time.perf_counter() - began
    sys.stdout.write(f"{options.seeds} seeds, {messages} messages, {len(failed)} failed, {took:.0f} s\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
