"""How fast lengths become rows, and how full the rows are.

    python -m tests.benchmarks.rows [--examples 5000000] [--length 2048]

One core. Lengths are drawn like MedS-Ins' (a gamma distribution, mean about 430, cut at a row).
"""

import argparse
import os
import time

import numpy as np

from medsjax.packing import fill, pack

MIXTURES = {  # name -> shape and scale of the gamma distribution
    "like MedS-Ins, mean 430": (1.2, 360.0),
    "short (labels), mean 90": (3.0, 30.0),
    "long (notes), mean 1000": (4.0, 250.0),
}


def main() -> None:
    parser = argparse.ArgumentParser("python -m tests.benchmarks.rows", description=__doc__)
    parser.add_argument("--examples", type=int, default=5_000_000)
    parser.add_argument("--length", type=int, default=2048, help="tokens of a row")
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    start = time.perf_counter()
    pack(np.ones(8, np.int32), args.length)
    print(f"first call {time.perf_counter() - start:.1f} s (the machine code is cached on disk)")
    for name, (shape, scale) in MIXTURES.items():
        lengths = np.random.default_rng(0).gamma(shape, scale, args.examples)
        lengths = np.clip(lengths, 8, args.length).astype(np.int32)
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            rows = pack(lengths, args.length)
            seconds.append(time.perf_counter() - start)
        print(
            f"{name}: {args.examples / min(seconds):,.0f} examples/s, {min(seconds):.2f} s for "
            f"{args.examples:,} in {len(rows):,} rows, {fill(rows, lengths, args.length):.3%} full"
        )


if __name__ == "__main__":
    main()
